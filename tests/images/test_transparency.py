"""Transparency and shallow samples of the formats that keep them in their own ways."""

from __future__ import annotations

import struct
import zlib

import nibabel as nib
import numpy as np
import pytest
import tifffile

from pipeline.images import encode_png, read_image
from tests.images.makers import colour, grey, rgb, save_nifti


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


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_transparent_level_of_a_grey_png_of_any_depth_is_black(tmp_path, depth):
    values = grey() >> (8 - depth)
    level = 2**depth - 1  # white is hidden
    hidden = chunk(b"tRNS", struct.pack(">H", level))
    (tmp_path / "x.png").write_bytes(grey_png(values, depth, hidden))
    expected = np.where(values == level, 0, values.astype(int) * 255 // level).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), rgb(expected))
    other = chunk(b"tRNS", struct.pack(">H", level // 2))
    (tmp_path / "x.png").write_bytes(grey_png(values, depth, other))
    expected = np.where(values == level // 2, 0, values.astype(int) * 255 // level)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png")[..., 0], expected)


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


def test_an_alpha_that_is_multiplied_in_is_not_applied_twice(tmp_path):
    alpha = np.linspace(0, 255, 56).round().astype(np.uint8)[None].repeat(40, axis=0)
    dark = np.rint(colour() * (alpha[..., None] / 255)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", np.dstack([dark, alpha]), **ASSOCIATED)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), dark)


def test_a_deep_picture_with_its_alpha_multiplied_in_is_as_dark_as_with_it_apart(tmp_path):
    deep = colour().astype(np.uint16) * 16  # 12 bits in 16: the range is scaled
    alpha = np.linspace(2**14, 2**16 - 1, 56).astype(np.uint16)[None].repeat(40, axis=0)
    dark = np.rint(deep * (alpha[..., None] / 65535)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([dark, alpha]), **ASSOCIATED)
    apart = {**ASSOCIATED, "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "b.tif", np.dstack([deep, alpha]), **apart)
    far = read_image(tmp_path / "a.tif").astype(int) - read_image(tmp_path / "b.tif")
    assert np.abs(far).max() <= 1


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
    assert not read_image(path, 0).any()  # this slice is transparent, the file's alpha is set
    save_nifti(coloured_volume(np.zeros_like(alpha)), path, LPS)
    np.testing.assert_array_equal(read_image(path, 1), colour())
