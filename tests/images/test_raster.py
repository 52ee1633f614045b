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
ONE = (
    "The same samples in another format or byte order are the same array; so are 8-bit samples "
    "and their multiples by 256 or 257 in 16 bits."
)
UPRIGHT = "All eight EXIF orientations are applied, to images, masks and sizes alike."
ALPHA = "Transparency is composed on black, in every format and depth."


@pytest.mark.promise(SHOWN)
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp", "gif", "ppm"])
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
    Image.fromarray(deep).save(tmp_path / "x.pgm")
    tifffile.imwrite(tmp_path / "little.tif", deep, byteorder="<")
    tifffile.imwrite(tmp_path / "big.tif", deep, byteorder=">", compression="zlib")
    tifffile.imwrite(tmp_path / "float.tif", deep.astype(np.float32), byteorder=">")
    tifffile.imwrite(tmp_path / "signed.tif", deep.astype(np.int32) - 5000)
    first = read_image(tmp_path / "x.png")
    np.testing.assert_array_equal(read_image(tmp_path / "x.pgm"), first)
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


def shrunk(values: np.ndarray, step: int) -> np.ndarray:
    size = values.shape[1] // step, values.shape[0] // step
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX))


LEVELS = "The levels and labels of a slide or pyramid, and the channels of an image, are no rows."


@pytest.mark.promise(LEVELS)
@pytest.mark.parametrize("kind", ["flagged", "below", "tiled", "plain", "slide", "ome"])
def test_a_pyramid_is_one_image(tmp_path, kind):
    path, full = tmp_path / ("x.ome.tif" if kind == "ome" else "x.svs"), colour(64, 96)
    rgb_, tile = {"photometric": "rgb"}, {"tile": (16, 16)}
    with tifffile.TiffWriter(path) as tiff:
        if kind in ("below", "ome"):
            tiff.write(full, subifds=2, **rgb_, **tile)
        elif kind == "slide":
            about = {"description": "Aperio Image Library v11", "metadata": None}
            tiff.write(full, **rgb_, **tile, **about)
            tiff.write(shrunk(full, 4), **rgb_)
            tiff.write(full[:30, :30], subfiletype=1, **rgb_)
            tiff.write(full[:20, :60], subfiletype=9, **rgb_)
        else:
            tiff.write(full, **rgb_, **(tile if kind == "tiled" else {}))
        for step in (2, 4):
            more = tile if kind in ("tiled", "below", "slide", "ome") else {}
            flag = {"subfiletype": 1} if kind in ("flagged", "below", "ome") else {}
            tiff.write(shrunk(full, step), **rgb_, **more, **flag)
    assert [(f.width, f.height) for f in probe(path)] == [(96, 64)]
    np.testing.assert_array_equal(read_image(path), full)


@pytest.mark.promise(LEVELS)
def test_smaller_pages_that_show_something_else_are_images(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as tiff:
        tiff.write(grey(64, 96))
        tiff.write(grey(64, 96, seed=4)[::-1, ::-1][::2, ::2])
    assert len(probe(tmp_path / "x.tif")) == 2


@pytest.mark.promise(LEVELS)
@pytest.mark.parametrize("axes", ["CYX", "CZYX", "ZCYX", "ZYX"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_channels_are_colours_and_slices_are_rows(tmp_path, axes, count):
    path = tmp_path / "x.ome.tif"
    channels = np.stack([np.roll(grey(), s, axis=s % 2) for s in range(count)])
    values = channels if "C" not in axes or len(axes) == 3 else np.stack([channels, channels[::-1]])
    values = values.swapaxes(0, 1) if axes == "CZYX" else values
    tifffile.imwrite(path, values, photometric="minisblack", metadata={"axes": axes})
    if axes == "ZYX":
        assert len(probe(path)) == count
    elif count > 3:
        with pytest.raises(ImageError, match=f"{count} channels"):
            probe(path)
    else:
        assert len(probe(path)) == (1 if axes == "CYX" else 2)
        last = channels if axes == "CYX" else channels[::-1]
        shown = np.moveaxis(read_image(path, len(probe(path)) - 1), 2, 0)
        np.testing.assert_array_equal(shown[:count], last)
        assert not shown[count:].any()
