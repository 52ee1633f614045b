"""PNG, JPEG, BMP, WebP, GIF and TIFF are read as a viewer shows them."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from pipeline.errors import ImageError
from pipeline.images import probe, read_image
from tests.images.makers import colour, grey, rgb, turned

SHOWN = "8-bit images are unchanged; deeper ones are scaled by robust percentiles."
ONE = "The same image in another format, bit depth or byte order is the same array."
UPRIGHT = "All eight EXIF orientations are applied, to images, masks and sizes alike."
ALPHA = "Transparency is composed on black, in every format and depth."


@pytest.mark.promise(SHOWN)
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp", "gif"])
def test_eight_bit_files_are_read_byte_for_byte_as_pillow_shows_them(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    pictures = [Image.fromarray(grey()), Image.fromarray(colour()), Image.fromarray(grey() > 128)]
    if suffix in ("jpg", "tif"):
        pictures.append(pictures[1].convert("CMYK"))
    for picture in pictures:
        picture.save(path)
        array = read_image(path)
        assert array.dtype == np.uint8
        np.testing.assert_array_equal(array, np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.promise(UPRIGHT)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_all_eight_exif_orientations_give_the_upright_frame(tmp_path, suffix, orientation):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(colour()).save(path, exif=turned(orientation))
    with Image.open(path) as image:
        shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    array = read_image(path)
    np.testing.assert_array_equal(array, shown)
    assert [(f.height, f.width) for f in probe(path)] == [array.shape[:2]]
    assert (array.shape[0] > array.shape[1]) == (orientation >= 5)


RAMP = np.linspace(0, 255, 56).round().astype(np.uint8)[None].repeat(40, axis=0)
ALPHAS = [np.full((40, 56), 128, np.uint8), RAMP, np.zeros((40, 56), np.uint8)]


@pytest.mark.promise(ALPHA)
@pytest.mark.parametrize("alpha", ALPHAS, ids=["half", "ramp", "none"])
@pytest.mark.parametrize("make", [grey, colour])
def test_partial_transparency_darkens_alike_in_8_and_16_bits(tmp_path, make, alpha):
    values = make()
    with_alpha = np.dstack([values, alpha])
    deep = with_alpha.astype(np.uint16) * 257
    shown = rgb(values) if values.ndim == 2 else values
    expected = np.rint(shown * (alpha[..., None] / 255.0)).astype(np.uint8)
    Image.fromarray(with_alpha).save(tmp_path / "a.png")
    Image.fromarray(with_alpha).save(tmp_path / "a.webp", lossless=True, exact=True)
    (tmp_path / "b.png").write_bytes(imagecodecs.png_encode(deep))
    kind = {"photometric": "minisblack" if values.ndim == 2 else "rgb"}
    kind |= {"extrasamples": ["unassalpha"], "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "a.tif", with_alpha, **kind)
    tifffile.imwrite(tmp_path / "b.tif", deep, **kind)
    for name in ("a.png", "a.webp", "a.tif", "b.png", "b.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), expected, err_msg=name)
    if values.ndim == 2:  # white is zero
        for top, stored in ((255, with_alpha), (65535, deep)):
            stored[..., 0] = top - stored[..., 0]
            tifffile.imwrite(tmp_path / "w.tif", stored, **kind | {"photometric": "miniswhite"})
            assert np.abs(read_image(tmp_path / "w.tif").astype(int) - expected).max() <= 1


@pytest.mark.promise(ONE)
def test_deep_png_and_tiff_of_any_byte_order_and_depth_give_one_array(tmp_path):
    deep = grey().astype(np.uint16) * 13 + 300
    Image.fromarray(deep).save(tmp_path / "x.png")
    tifffile.imwrite(tmp_path / "little.tif", deep, byteorder="<")
    tifffile.imwrite(tmp_path / "big.tif", deep, byteorder=">", compression="zlib")
    tifffile.imwrite(tmp_path / "float.tif", deep.astype(np.float32), byteorder=">")
    tifffile.imwrite(tmp_path / "signed.tif", deep.astype(np.int32) - 5000)
    first = read_image(tmp_path / "x.png")
    for name in ("little", "big", "float", "signed"):
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.tif"), first, err_msg=name)
    assert first.max() == 255 and np.abs(first.astype(int) - rgb(grey())).mean() < 6
    wide = colour().astype(np.uint16)  # 8-bit values stored as multiples
    (tmp_path / "x.png").write_bytes(imagecodecs.png_encode(wide * 257))
    tifffile.imwrite(tmp_path / "x.tif", wide * 256, photometric="rgb")
    for name in ("x.png", "x.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), colour())


@pytest.mark.promise("Pages, frames and slices are rows with a frame index.")
def test_pages_are_frames_and_thumbnails_are_not(tmp_path):
    path = tmp_path / "x.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(grey(seed=1))
        tiff.write(grey(8, 8), subfiletype=1)
        tiff.write(grey(20, 30))
    assert [(f.frame, f.width, f.height) for f in probe(path)] == [(0, 56, 40), (1, 30, 20)]
    np.testing.assert_array_equal(read_image(path, 1), rgb(grey(20, 30)))
    with pytest.raises(ImageError, match="no frame 2"):
        read_image(path, 2)


@pytest.mark.promise("An animation is refused with its number of frames.")
@pytest.mark.parametrize("suffix", ["png", "webp", "gif"])
def test_an_animation_is_refused_with_its_count(tmp_path, suffix):
    frames = [Image.fromarray(grey(seed=s)) for s in range(3)]
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:])
    for read in (probe, read_image):
        with pytest.raises(ImageError, match="animation of 3 frames"):
            read(tmp_path / f"x.{suffix}")
