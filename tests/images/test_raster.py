"""PNG, JPEG, BMP, WebP, GIF and TIFF are read as a viewer shows them."""

from __future__ import annotations

import io
import struct
import zlib

import imagecodecs
import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from pipeline.errors import ImageError
from pipeline.images import encode_png, probe, read_image, read_mask
from tests.images.makers import colour, grey, rgb, save_nifti

SHOWN = "8-bit images are unchanged; deeper ones are scaled by robust percentiles."
ONE = "The same image in another format, bit depth or byte order is the same array."
UPRIGHT = "All eight EXIF orientations are applied, to images, masks and sizes alike."
ALPHA = "Transparency is composed on black, in every format and depth."


@pytest.mark.promise(SHOWN)
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp"])
@pytest.mark.parametrize("make", [grey, colour])
def test_eight_bit_files_are_read_byte_for_byte_as_pillow_shows_them(tmp_path, suffix, make):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(make()).save(path)
    shown = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(read_image(path), shown)
    assert read_image(path).dtype == np.uint8


@pytest.mark.promise(ONE)
@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp", "gif"])
def test_one_picture_in_any_lossless_format_is_one_array(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(grey()).save(path, **options)
    np.testing.assert_array_equal(read_image(path), rgb(grey()))


@pytest.mark.promise(UPRIGHT)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_all_eight_exif_orientations_give_the_upright_frame(tmp_path, suffix, orientation):
    path = tmp_path / f"x.{suffix}"
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(colour()).save(path, exif=exif)
    with Image.open(path) as image:
        shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    array = read_image(path)
    np.testing.assert_array_equal(array, shown)
    assert [(f.height, f.width) for f in probe(path)] == [array.shape[:2]]
    assert (array.shape[0] > array.shape[1]) == (orientation >= 5)


@pytest.mark.promise(UPRIGHT)
def test_an_orientation_after_the_pixels_of_a_png_is_applied(tmp_path):
    data = encode_png(colour())
    content = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    chunk = b"eXIf" + content
    late = len(content).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    path = tmp_path / "x.png"
    path.write_bytes(data[:-12] + late + data[-12:])
    frame = probe(path)[0]
    assert read_image(path).shape == (56, 40, 3) == (frame.height, frame.width, 3)


ALPHAS = {
    "half": np.full((40, 56), 128, np.uint8),
    "ramp": np.linspace(0, 255, 56).round().astype(np.uint8)[None].repeat(40, axis=0),
    "none": np.zeros((40, 56), np.uint8),
}


@pytest.mark.promise(ALPHA)
@pytest.mark.parametrize("alpha", ALPHAS.values(), ids=ALPHAS)
@pytest.mark.parametrize("make", [grey, colour])
def test_partial_transparency_darkens_alike_in_8_and_16_bits(tmp_path, make, alpha):
    values = make()
    with_alpha = np.dstack([values, alpha])
    shown = rgb(values) if values.ndim == 2 else values
    expected = np.rint(shown * (alpha[..., None] / 255.0)).astype(np.uint8)
    Image.fromarray(with_alpha).save(tmp_path / "a.png")
    Image.fromarray(with_alpha).save(tmp_path / "a.webp", lossless=True, exact=True)
    deep = with_alpha.astype(np.uint16) * 257
    (tmp_path / "b.png").write_bytes(imagecodecs.png_encode(deep))
    kind = {"photometric": "minisblack" if values.ndim == 2 else "rgb"}
    kind |= {"extrasamples": ["unassalpha"], "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "a.tif", with_alpha, **kind)
    tifffile.imwrite(tmp_path / "b.tif", deep, **kind)
    for name in ("a.png", "a.webp", "a.tif", "b.png", "b.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), expected, err_msg=name)


@pytest.mark.promise(ALPHA)
def test_a_transparent_mask_is_thresholded_after_composition(tmp_path):
    full = np.dstack([np.full((40, 56), 255, np.uint8), ALPHAS["ramp"]])
    Image.fromarray(full).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(imagecodecs.png_encode(full.astype(np.uint16) * 257))
    kind = {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "a.tif", full, **kind)
    tifffile.imwrite(tmp_path / "b.tif", full.astype(np.uint16) * 257, **kind)
    for name in ("a.png", "b.png", "a.tif", "b.tif"):
        np.testing.assert_array_equal(
            read_mask(tmp_path / name), ALPHAS["ramp"] > 127, err_msg=name
        )


@pytest.mark.promise(ALPHA)
def test_the_range_of_deep_samples_is_that_of_the_colours_before_alpha(tmp_path):
    deep = grey().astype(np.uint16) * 16  # 12 bits in 16: the range is scaled
    alpha = np.full_like(deep, 128 * 257)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(deep))
    (tmp_path / "b.png").write_bytes(imagecodecs.png_encode(np.dstack([deep, alpha])))
    expected = np.rint(read_image(tmp_path / "a.png") * (128 / 255)).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), expected)


@pytest.mark.promise(ALPHA)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_transparent_pixels_are_black_if_white_is_zero(tmp_path, dtype):
    top = np.iinfo(dtype).max
    alpha = ALPHAS["ramp"].astype(dtype) * dtype(top // 255)
    values = top - grey().astype(dtype) * dtype(top // 255)
    tifffile.imwrite(
        tmp_path / "x.tif", np.dstack([values, alpha]), photometric="miniswhite",
        extrasamples=["unassalpha"], planarconfig="contig",
    )  # fmt: skip
    expected = np.rint(grey() * (ALPHAS["ramp"] / 255.0)).astype(np.uint8)
    far = np.abs(read_image(tmp_path / "x.tif")[..., 0].astype(int) - expected)
    assert far.max() <= 1


@pytest.mark.promise(ALPHA)
def test_a_palette_shows_its_colours_and_its_transparent_entry_is_black(tmp_path):
    index = (grey() // 64).astype(np.uint8)
    image = Image.fromarray(index, mode="P")
    table = [255, 0, 0, 0, 255, 0, 0, 0, 255, 200, 100, 50]
    image.putpalette(table)
    image.save(tmp_path / "x.png", transparency=1)
    colours = np.array(table, np.uint8).reshape(4, 3).copy()
    image.save(tmp_path / "x.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), colours[index])
    colours[1] = 0
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), colours[index])


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_is_shown_as_pillow_shows_it(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(colour()).convert("CMYK").save(path)
    np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(path).convert("RGB")))


def test_one_bit_images_are_black_and_white(tmp_path):
    bits = grey() > 128
    expected = rgb(bits.astype(np.uint8) * 255)
    for suffix in ("png", "tif", "bmp"):
        Image.fromarray(bits).save(tmp_path / f"x.{suffix}")
        np.testing.assert_array_equal(read_image(tmp_path / f"x.{suffix}"), expected)


@pytest.mark.promise(ONE)
def test_sixteen_bit_png_and_tiff_of_either_byte_order_give_one_array(tmp_path):
    deep = grey().astype(np.uint16) * 13 + 300
    Image.fromarray(deep).save(tmp_path / "x.png")
    tifffile.imwrite(tmp_path / "little.tif", deep, byteorder="<")
    tifffile.imwrite(tmp_path / "big.tif", deep, byteorder=">", compression="zlib")
    tifffile.imwrite(tmp_path / "float.tif", deep.astype(np.float32), byteorder=">")
    tifffile.imwrite(tmp_path / "signed.tif", deep.astype(np.int32) - 5000)
    first = read_image(tmp_path / "x.png")
    for name in ("little", "big", "float", "signed"):
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.tif"), first, err_msg=name)
    assert np.abs(first.astype(int) - rgb(grey())).mean() < 6


@pytest.mark.promise(ONE)
def test_eight_bits_stored_as_sixteen_are_the_eight_bit_image(tmp_path):
    wide = colour().astype(np.uint16)
    (tmp_path / "x.png").write_bytes(imagecodecs.png_encode(wide * 257))
    tifffile.imwrite(tmp_path / "x.tif", wide * 256, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), colour())
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), colour())


@pytest.mark.promise(SHOWN)
def test_twelve_bits_in_sixteen_are_neither_black_nor_clipped_in_grey_and_colour(tmp_path):
    for values in (grey(), colour()):
        (tmp_path / "x.png").write_bytes(imagecodecs.png_encode(values.astype(np.uint16) * 16))
        array = read_image(tmp_path / "x.png")
        shown = rgb(values) if values.ndim == 2 else values
        assert array.max() == 255
        assert np.corrcoef(array.ravel(), shown.ravel())[0, 1] > 0.99


@pytest.mark.promise(ONE)
@pytest.mark.parametrize("compression", ["zlib", "lzw", "packbits", "lzma", "zstd", "jpeg"])
def test_tiff_compressions_tiles_and_planes_show_the_same_image(tmp_path, compression):
    plain, tiled = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(plain, colour(64, 64), photometric="rgb")
    tifffile.imwrite(
        tiled, colour(64, 64), photometric="rgb", tile=(32, 32), compression=compression
    )
    far = np.abs(read_image(plain).astype(int) - read_image(tiled)).mean()
    assert far < 6 if compression == "jpeg" else far == 0
    planes = np.moveaxis(colour(64, 64), 2, 0)
    tifffile.imwrite(tiled, planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tiled), read_image(plain))


@pytest.mark.promise(ONE)
def test_white_is_zero_tiff_is_inverted_once(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", 255 - grey(), photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), rgb(grey()))


@pytest.mark.promise("Pages, frames and slices are rows with a frame index.")
def test_pages_are_frames_and_thumbnails_are_not(tmp_path):
    path = tmp_path / "x.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(grey(seed=1))
        tiff.write(grey(8, 8), subfiletype=1)
        tiff.write(grey(20, 30))
    assert [(f.frame, f.width, f.height) for f in probe(path)] == [(0, 56, 40), (1, 30, 20)]
    np.testing.assert_array_equal(read_image(path, 1), rgb(grey(20, 30)))
    with pytest.raises(ImageError, match="no page 2"):
        read_image(path, 2)


def test_nan_and_infinity_are_black_and_do_not_count_for_the_range(tmp_path):
    values = grey().astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values)
    hurt = values.copy()
    hurt[0, :5], hurt[1, 0] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "b.tif", hurt)
    array = read_image(tmp_path / "b.tif")
    assert not array[0, :5].any() and not array[1, 0].any()
    far = np.abs(array[2:].astype(int) - read_image(tmp_path / "a.tif")[2:])
    assert far.max() <= 2


@pytest.mark.promise("An animation is refused with its number of frames.")
@pytest.mark.parametrize("suffix", ["png", "webp", "gif"])
def test_an_animation_is_refused_with_its_count(tmp_path, suffix):
    frames = [Image.fromarray(grey(seed=s)) for s in range(3)]
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:])
    for read in (probe, read_image):
        with pytest.raises(ImageError, match="animation of 3 frames"):
            read(tmp_path / f"x.{suffix}")


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def packed(values: np.ndarray, depth: int) -> list[bytes]:
    """Rows of samples of `depth` bits, the first sample in the high bits."""
    bits = np.unpackbits(values[..., None], axis=-1)[..., 8 - depth :]
    return [row.tobytes() for row in np.packbits(bits.reshape(len(values), -1), axis=1)]


def grey_png(values: np.ndarray, depth: int, extra: bytes = b"") -> bytes:
    height, width = values.shape
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    data = zlib.compress(b"".join(b"\0" + row for row in packed(values, depth)))
    return encode_png(grey())[:8] + head + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.promise(ALPHA)
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_transparent_level_of_a_grey_png_of_any_depth_is_black(tmp_path, depth):
    values = grey() >> (8 - depth)
    level = 2**depth - 1
    hidden = chunk(b"tRNS", struct.pack(">H", level))
    (tmp_path / "x.png").write_bytes(grey_png(values, depth, hidden))
    expected = np.where(values == level, 0, values.astype(int) * 255 // level).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), rgb(expected))
    other = chunk(b"tRNS", struct.pack(">H", level // 2))
    (tmp_path / "x.png").write_bytes(grey_png(values, depth, other))
    expected = np.where(values == level // 2, 0, values.astype(int) * 255 // level)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png")[..., 0], expected)


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


ASSOCIATED = {"photometric": "rgb", "extrasamples": ["assocalpha"]}


@pytest.mark.promise(ALPHA)
def test_an_associated_alpha_is_not_applied_twice(tmp_path):
    alpha = np.linspace(0, 255, 56).round().astype(np.uint8)[None].repeat(40, axis=0)
    dark = np.rint(colour() * (alpha[..., None] / 255)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", np.dstack([dark, alpha]), **ASSOCIATED)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), dark)


@pytest.mark.promise(ALPHA)
def test_associated_and_separate_alpha_of_deep_images_look_the_same(tmp_path):
    deep = colour().astype(np.uint16) * 16  # 12 bits in 16: the range is scaled
    alpha = np.linspace(2**14, 2**16 - 1, 56).astype(np.uint16)[None].repeat(40, axis=0)
    dark = np.rint(deep * (alpha[..., None] / 65535)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([dark, alpha]), **ASSOCIATED)
    apart = {**ASSOCIATED, "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "b.tif", np.dstack([deep, alpha]), **apart)
    far = read_image(tmp_path / "a.tif").astype(int) - read_image(tmp_path / "b.tif")
    assert np.abs(far).max() <= 1


@pytest.mark.promise(ALPHA)
@pytest.mark.parametrize("alpha", ["unset", "half"])
def test_a_bmp_whose_alpha_was_never_set_is_opaque(tmp_path, alpha):
    opacity = np.zeros((40, 56), np.uint8)
    if alpha == "half":
        opacity[:20] = 255
    pixels = np.dstack([colour()[..., ::-1], opacity])[::-1].tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, 56, 40, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    header += masks + b"BGRs" + bytes(48)
    start = 14 + len(header)
    head = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start)
    (tmp_path / "x.bmp").write_bytes(head + header + pixels)
    expected = colour()
    if alpha == "half":
        expected[20:] = 0
    np.testing.assert_array_equal(read_image(tmp_path / "x.bmp"), expected)


RGBA = np.dtype([(name, "u1") for name in "RGBA"])


def coloured_volume(alpha: np.ndarray | None) -> np.ndarray:
    """Two slices of (x, y) voxels, shown as `colour()` by an affine of LPS."""
    dtype = RGBA if alpha is not None else np.dtype(RGBA.descr[:3])
    voxels = np.zeros((56, 40, 2), dtype)
    for channel, name in enumerate("RGB"):
        voxels[name] = colour()[..., channel].T[..., None]
    if alpha is not None:
        voxels["A"] = alpha
    return voxels


LPS = np.diag([-1.0, -1, 1, 1])


@pytest.mark.promise(ALPHA)
def test_nifti_colours_are_red_green_and_blue_and_alpha_darkens_them(tmp_path):
    path = tmp_path / "x.nii"
    save_nifti(coloured_volume(None), path, LPS)
    assert nib.load(path).get_data_dtype() == np.dtype(RGBA.descr[:3])
    np.testing.assert_array_equal(read_image(path, 1), colour())
    alpha = np.zeros((56, 40, 2), np.uint8)
    alpha[:, :, 1] = np.linspace(0, 255, 56).round()[:, None]
    save_nifti(coloured_volume(alpha), path, LPS)
    expected = np.rint(colour() * (alpha[:, :, 1].T[..., None] / 255.0))
    np.testing.assert_array_equal(read_image(path, 1), expected)
    assert not read_image(path, 0).any()
    save_nifti(coloured_volume(np.zeros_like(alpha)), path, LPS)
    np.testing.assert_array_equal(read_image(path, 1), colour())


@pytest.mark.promise("No name, id or date of a DICOM header reaches a file, a message or a log.")
def test_encoded_pngs_have_the_pixels_and_no_metadata():
    for array in (grey(), colour(), grey() > 100):
        image = Image.open(io.BytesIO(encode_png(array)))
        shown = array.astype(np.uint8) * 255 if array.dtype == bool else array
        np.testing.assert_array_equal(np.asarray(image), shown)
        assert not image.info
