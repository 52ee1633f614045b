"""PNG, JPEG, BMP, WebP, GIF and TIFF are read as a viewer shows them."""

from __future__ import annotations

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from pipeline.errors import ImageError
from pipeline.images import encode_png, probe, read_image, read_mask
from tests.images.makers import LPS, chunk, colour, grey, rgb, save_nifti, turned

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


@pytest.mark.promise(UPRIGHT)
def test_an_orientation_after_the_pixels_of_a_png_is_applied(tmp_path):
    data = encode_png(colour())
    late = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    path = tmp_path / "x.png"
    path.write_bytes(data[:-12] + late + data[-12:])
    frame = probe(path)[0]
    assert read_image(path).shape == (56, 40, 3) == (frame.height, frame.width, 3)


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


@pytest.mark.promise(ALPHA)
def test_a_transparent_mask_is_thresholded_after_composition(tmp_path):
    full = np.dstack([np.full((40, 56), 255, np.uint8), RAMP])
    Image.fromarray(full).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(imagecodecs.png_encode(full.astype(np.uint16) * 257))
    kind = {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "a.tif", full.astype(np.uint16) * 257, **kind)
    for name in ("a.png", "b.png", "a.tif"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), RAMP > 127, err_msg=name)


@pytest.mark.promise(ALPHA)
def test_the_range_of_deep_samples_is_that_of_the_colours_before_alpha(tmp_path):
    deep = colour().astype(np.uint16) * 16  # 12 bits in 16: the range is scaled
    alpha = np.linspace(2**14, 2**16 - 1, 56).astype(np.uint16)[None].repeat(40, axis=0)
    dark = np.rint(deep * (alpha[..., None] / 65535)).astype(np.uint16)
    for name, values in (("associated", dark), ("separate", deep)):
        kind = {"extrasamples": ["assocalpha" if name == "associated" else "unassalpha"]}
        tifffile.imwrite(tmp_path / name, np.dstack([values, alpha]), photometric="rgb", **kind)
    (tmp_path / "opaque").write_bytes(imagecodecs.png_encode(deep))
    expected = np.rint(read_image(tmp_path / "opaque") * (alpha[..., None] / 65535))
    for name in ("associated", "separate"):
        assert np.abs(read_image(tmp_path / name) - expected).max() <= 1, name
    shallow = np.rint(colour() * (RAMP[..., None] / 255)).astype(np.uint8)  # darkened already
    kind = {"photometric": "rgb", "extrasamples": ["assocalpha"]}
    tifffile.imwrite(tmp_path / "x.tif", np.dstack([shallow, RAMP]), **kind)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), shallow)


@pytest.mark.promise(ALPHA)
def test_a_palette_shows_its_colours_and_its_transparent_entry_is_black(tmp_path):
    index = (grey() // 64).astype(np.uint8)
    image = Image.fromarray(index, mode="P")
    table = [255, 0, 0, 0, 255, 0, 0, 0, 255, 200, 100, 50]
    image.putpalette(table)
    image.save(tmp_path / "x.png", transparency=1)
    image.save(tmp_path / "x.tif")
    colours = np.array(table, np.uint8).reshape(4, 3).copy()
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), colours[index])
    colours[1] = 0
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), colours[index])


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


@pytest.mark.promise(ONE)
@pytest.mark.parametrize("compression", ["zlib", "lzw", "packbits", "lzma", "zstd", "jpeg"])
def test_tiff_compressions_tiles_and_planes_show_the_same_image(tmp_path, compression):
    path, kind = tmp_path / "x.tif", {"photometric": "rgb"}
    tifffile.imwrite(path, colour(64, 64), tile=(32, 32), compression=compression, **kind)
    far = np.abs(read_image(path).astype(int) - colour(64, 64)).mean()
    assert far < 6 if compression == "jpeg" else far == 0
    planes = np.moveaxis(colour(64, 64), 2, 0)
    tifffile.imwrite(path, planes, planarconfig="separate", **kind)
    np.testing.assert_array_equal(read_image(path), colour(64, 64))
    tifffile.imwrite(path, 255 - grey(), photometric="miniswhite", compression="zlib")
    np.testing.assert_array_equal(read_image(path), rgb(grey()))
    Image.fromarray(colour()).convert("YCbCr").save(path)
    with pytest.raises(ImageError, match="colour model YCBCR"):
        read_image(path)


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


def packed(values: np.ndarray, depth: int) -> list[bytes]:
    """Rows of samples of `depth` bits, the first sample in the high bits."""
    bits = np.unpackbits(values[..., None], axis=-1)[..., 8 - depth :]
    return [row.tobytes() for row in np.packbits(bits.reshape(len(values), -1), axis=1)]


@pytest.mark.promise(ALPHA)
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_transparent_level_of_a_grey_png_of_any_depth_is_black(tmp_path, depth):
    values, top = grey() >> (8 - depth), 2**depth - 1
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 56, 40, depth, 0, 0, 0, 0))
    data = zlib.compress(b"".join(b"\0" + row for row in packed(values, depth)))
    for level in (top, top // 2):
        hidden = chunk(b"tRNS", struct.pack(">H", level))
        rest = chunk(b"IDAT", data) + chunk(b"IEND", b"")
        (tmp_path / "x.png").write_bytes(encode_png(grey())[:8] + head + hidden + rest)
        expected = np.where(values == level, 0, values.astype(int) * 255 // top).astype(np.uint8)
        np.testing.assert_array_equal(read_image(tmp_path / "x.png"), rgb(expected))


@pytest.mark.promise(SHOWN)
@pytest.mark.parametrize("depth", [2, 4])
def test_a_tiff_of_two_or_four_bits_uses_the_whole_range(tmp_path, depth):
    values = grey() >> (8 - depth)
    raw = b"".join(packed(values, depth))
    entries = {256: 56, 257: 40, 258: depth, 259: 1, 262: 1, 273: 8, 277: 1, 278: 40, 279: len(raw)}
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items()
    )
    head = b"II*\0" + struct.pack("<I", 8 + len(raw))
    (tmp_path / "x.tif").write_bytes(head + raw + directory + b"\0" * 4)
    expected = (values.astype(int) * 255 // (2**depth - 1)).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), rgb(expected))


@pytest.mark.promise(ALPHA)
@pytest.mark.parametrize("alpha", ["unset", "half"])
def test_a_bmp_whose_alpha_was_never_set_is_opaque(tmp_path, alpha):
    opacity = np.zeros((40, 56), np.uint8)
    expected = colour()
    if alpha == "half":
        opacity[:20], expected[20:] = 255, 0
    pixels = np.dstack([colour()[..., ::-1], opacity])[::-1].tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, 56, 40, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    header += masks + b"BGRs" + bytes(48)
    start = 14 + len(header)
    head = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start)
    (tmp_path / "x.bmp").write_bytes(head + header + pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "x.bmp"), expected)


@pytest.mark.promise(ALPHA)
def test_nifti_colours_are_red_green_and_blue_and_alpha_darkens_them(tmp_path):
    alpha = np.zeros((56, 40, 2), np.uint8)
    alpha[:, :, 1] = RAMP[0][:, None]
    dark = np.rint(colour() * (RAMP[..., None] / 255.0))
    # without alpha, with one, and with one that was never set
    for channels, shown in (([], colour()), ([alpha], dark), ([alpha * 0], colour())):
        voxels = [np.repeat(colour()[..., c].T[..., None], 2, axis=2) for c in range(3)]
        values = np.stack([*voxels, *channels], axis=-1)
        dtype = np.dtype([(name, "u1") for name in "RGBA"[: values.shape[-1]]])
        path = save_nifti(values.view(dtype)[..., 0], tmp_path / "x.nii", LPS)
        np.testing.assert_array_equal(read_image(path, 1), shown)
        assert read_image(path, 0).any() == (shown is not dark)
