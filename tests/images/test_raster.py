"""PNG, JPEG, BMP, WebP, GIF and TIFF: what a viewer shows is what is read."""

from __future__ import annotations

import io
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from pipeline.errors import ImageError
from pipeline.images import encode_png, probe, read_image, read_mask
from tests.images.makers import colour, grey, rgb

LOSSLESS = ["png", "tif", "bmp", "webp", "gif"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp"])
@pytest.mark.parametrize("make", [grey, colour])
def test_eight_bit_files_are_read_byte_for_byte_as_pillow_shows_them(tmp_path, suffix, make):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(make()).save(path)
    shown = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(read_image(path), shown)
    assert read_image(path).dtype == np.uint8


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_one_picture_in_any_lossless_format_is_one_array(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(grey()).save(path, **options)
    np.testing.assert_array_equal(read_image(path), rgb(grey()))


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


def test_an_orientation_that_follows_the_pixels_of_a_png_counts_for_probe_and_array(tmp_path):
    data = encode_png(colour())
    content = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    chunk = b"eXIf" + content
    late = len(content).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    path = tmp_path / "x.png"
    path.write_bytes(data[:-12] + late + data[-12:])
    frame = probe(path)[0]
    assert read_image(path).shape == (56, 40, 3) == (frame.height, frame.width, 3)


def test_transparency_is_composed_on_black_in_every_mode(tmp_path):
    alpha = np.zeros((40, 56), np.uint8)
    alpha[10:30, 10:40] = 255
    expected = np.where(alpha[..., None] > 0, rgb(grey()), 0).astype(np.uint8)
    la = Image.merge("LA", [Image.fromarray(grey()), Image.fromarray(alpha)])
    for name, image in {"la": la, "rgba": la.convert("RGBA")}.items():
        for suffix in ("png", "tif"):
            path = tmp_path / f"{name}.{suffix}"
            image.save(path)
            np.testing.assert_array_equal(read_image(path), expected, err_msg=path.name)
    deep = np.stack([grey().astype(np.uint16) * 257, alpha.astype(np.uint16) * 257], axis=-1)
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(deep))
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), expected)


ALPHAS = {
    "half": np.full((40, 56), 128, np.uint8),
    "ramp": np.linspace(0, 255, 56).round().astype(np.uint8)[None].repeat(40, axis=0),
    "none": np.zeros((40, 56), np.uint8),
}


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


def test_a_mask_is_cut_from_what_shows_through_its_transparency(tmp_path):
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


def test_the_range_of_deep_samples_is_that_of_the_colours_before_alpha(tmp_path):
    deep = grey().astype(np.uint16) * 16  # 12 bits in 16: the range is scaled
    alpha = np.full_like(deep, 128 * 257)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(deep))
    (tmp_path / "b.png").write_bytes(imagecodecs.png_encode(np.dstack([deep, alpha])))
    expected = np.rint(read_image(tmp_path / "a.png") * (128 / 255)).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_transparent_is_black_where_white_is_zero_too(tmp_path, dtype):
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


def test_eight_bits_stored_as_sixteen_are_the_eight_bit_picture(tmp_path):
    wide = colour().astype(np.uint16)
    (tmp_path / "x.png").write_bytes(imagecodecs.png_encode(wide * 257))
    tifffile.imwrite(tmp_path / "x.tif", wide * 256, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), colour())
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), colour())


def test_twelve_bits_in_sixteen_are_neither_black_nor_clipped_in_grey_and_colour(tmp_path):
    for values in (grey(), colour()):
        (tmp_path / "x.png").write_bytes(imagecodecs.png_encode(values.astype(np.uint16) * 16))
        array = read_image(tmp_path / "x.png")
        shown = rgb(values) if values.ndim == 2 else values
        assert array.max() == 255
        assert np.corrcoef(array.ravel(), shown.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("compression", ["zlib", "lzw", "packbits", "lzma", "zstd", "jpeg"])
def test_tiff_compressions_tiles_and_planes_show_the_same_picture(tmp_path, compression):
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


def test_white_is_zero_tiff_is_inverted_once(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", 255 - grey(), photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), rgb(grey()))


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


def test_nan_and_infinity_of_a_float_tiff_are_black_and_leave_the_range_alone(tmp_path):
    values = grey().astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values)
    hurt = values.copy()
    hurt[0, :5], hurt[1, 0] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "b.tif", hurt)
    array = read_image(tmp_path / "b.tif")
    assert not array[0, :5].any() and not array[1, 0].any()
    far = np.abs(array[2:].astype(int) - read_image(tmp_path / "a.tif")[2:])
    assert far.max() <= 2


@pytest.mark.parametrize("suffix", ["png", "webp", "gif"])
def test_an_animation_is_refused_with_its_count(tmp_path, suffix):
    frames = [Image.fromarray(grey(seed=s)) for s in range(3)]
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:])
    for read in (probe, read_image):
        with pytest.raises(ImageError, match="animation of 3 frames"):
            read(tmp_path / f"x.{suffix}")


def test_encode_png_holds_the_pixels_and_no_metadata():
    for array in (grey(), colour(), grey() > 100):
        data = encode_png(array)
        image = Image.open(io.BytesIO(data))
        shown = array.astype(np.uint8) * 255 if array.dtype == bool else array
        np.testing.assert_array_equal(np.asarray(image), shown)
        assert not image.info and encode_png(array) == data
