"""Files that are not images, broken, or claim to be huge: an error with a remedy, never pixels."""

from __future__ import annotations

import gzip
import io
import json
import struct
import subprocess
import sys
import tracemalloc
import zlib

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless

from pipeline.errors import ImageError
from pipeline.images import probe, read_image, read_mask
from pipeline.images.dicom import MAX_DEFLATED
from pipeline.images.formats import MAX_PIXELS
from tests.images.makers import chunk, colour, dicom, encoded, grey, rgb, save_dicom

DAMAGE = "A truncated or damaged file is refused by name; it is never shown black."
HUGE_FILES = "A file that claims to be huge is refused before memory is allocated for it."
UNKNOWN = "not in a supported format"
NOT_IMAGES = {
    "zero.png": (b"", "empty"),
    "zeros.jpg": (b"\0" * 5000, "only zero"),
    "notes.png": (b"patient seen today\n" * 9, "text"),
    "page.jpg": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "paper.png": (b"%PDF-1.7\n" + bytes(range(256)), "PDF"),
    "phone.heic": (b"\0\0\0\x18ftypheic" + bytes(300), "HEIC"),
    "codestream.jxl": (b"\xff\x0a\xfa\x1f" + bytes(range(256)), "JPEG XL"),
    "container.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(range(256)), "JPEG XL"),
    "array.npy": (b"\x93NUMPY\1\0v\0{'descr': '<f8'}" + bytes(300), "NumPy"),
    "arrays.npz": (b"PK\3\4" + bytes(range(256)), "NumPy"),
    "analyze.hdr": (b"\x5c\1\0\0" + bytes(344), "Analyze"),
    "pair.nhdr": (
        b"NRRD0004\ntype: uchar\ndimension: 2\nsizes: 2 2\ndata file: x.raw\n\n",
        "pair.nhdr",
    ),
    "noise.bmp": (bytes(range(200, 256)) + bytes(range(100)), UNKNOWN),
    "packed.nii.gz": (gzip.compress(b"hello"), "no NIfTI header"),
    "short.dcm": (b"\0" * 128 + b"DICM", "without pixels"),
}


@pytest.mark.promise(DAMAGE)
@pytest.mark.parametrize("name", NOT_IMAGES)
def test_a_file_that_is_no_image_is_named_with_a_remedy(tmp_path, name):
    content, words = NOT_IMAGES[name]
    (tmp_path / name).write_bytes(content)
    for read in (probe, read_image, read_mask):
        with pytest.raises(ImageError, match=words) as caught:
            read(tmp_path / name)
        assert caught.value.remedy and name in str(caught.value)


@pytest.mark.promise(DAMAGE)
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp", "gif"])
@pytest.mark.parametrize("keep", [0.3, 0.7, 0.97])
def test_a_truncated_image_is_refused(tmp_path, suffix, keep):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(colour(64, 64)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ImageError, match=r"damaged|truncated"):
        read_image(path)
    if suffix in ("png", "jpg", "webp", "gif"):  # the zeros of an interrupted copy
        Image.fromarray(colour(200, 200)).save(path)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] + b"\0" * (len(data) - len(data) // 2))
        with pytest.raises(ImageError):
            read_image(path)


def _patch(path, value: int) -> None:
    """Overwrite the size of the first strip of a TIFF."""
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags["StripByteCounts"]
    data = bytearray(path.read_bytes())
    struct.pack_into("<H" if tag.dtype == 3 else "<I", data, tag.valueoffset, value)
    path.write_bytes(data)


@pytest.mark.promise(DAMAGE)
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "lzma", "zstd", "jpeg"])
def test_a_truncated_or_missing_tiff_strip_is_refused_in_every_compression(tmp_path, compression):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, colour(64, 64), compression=compression, photometric="rgb")
    with tifffile.TiffFile(path) as tiff:
        count = tiff.pages[0].databytecounts[0]
    for size in (count // 2, 0):
        _patch(path, size)
        with pytest.raises(ImageError):
            read_image(path)


@pytest.mark.promise("The content of a file decides its format, never its name.")
def test_the_name_does_not_decide_the_format(tmp_path):
    for suffix, kind in {"jpg": "PNG", "dcm": "PNG", "nii.gz": "BMP", "png": "TIFF"}.items():
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(grey()).save(path, format=kind)
        np.testing.assert_array_equal(read_image(path), rgb(grey()))


@pytest.mark.promise(HUGE_FILES)
def test_bombs_in_deflated_dicom_and_metadata_are_refused_within_little_memory(tmp_path):
    dataset = dicom(grey(), syntax=DeflatedExplicitVRLittleEndian)
    data = save_dicom(dataset, tmp_path / "x.dcm").read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    block = packer.compress(b"\0" * 2**24) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(b"\0" * 2**24) + packer.flush(zlib.Z_FULL_FLUSH)
    bomb = data[:start] + block + again * (MAX_DEFLATED // 2**24) + packer.flush()
    (tmp_path / "x.dcm").write_bytes(bomb)
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 300_000_000))
    data = encoded(grey())
    (tmp_path / "x.png").write_bytes(data[:33] + text + data[33:])
    tracemalloc.start()
    for name, words in (("x.dcm", "1 GiB"), ("x.png", "damaged")):
        with pytest.raises(ImageError, match=words):
            read_image(tmp_path / name)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


# Small files that claim to be huge --------------------------------------------------------------

OWN = 48  # the true width and height of each file
SIDE = 30_000  # squared: above the limit of pixels; fits the header fields of every format
PILLOWS = 14_000  # squared: below it, and above Pillow's limit of a WebP
ASKED = 2**27  # bytes that reading may allocate; the smallest claimed frame has 196 million


def patched(kind: str, code: str, at: int, side: int) -> bytes:
    """A picture whose header has another width and height."""
    data = bytearray(encoded(colour(OWN, OWN), kind))
    at = data.index(b"\xff\xc0") + 5 if kind == "JPEG" else at
    struct.pack_into(code, data, at, side, side)
    if kind == "PNG":
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return bytes(data)


def webp(side: int) -> bytes:
    size = (side - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<II", 10, 0) + 2 * size
    body += encoded(colour(OWN, OWN), "WEBP", lossless=True)[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(side: int) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, grey(OWN, OWN), compression="zlib")
    buffer.seek(0)
    with tifffile.TiffFile(buffer) as file:
        tags = [file.pages[0].tags[n] for n in ("ImageWidth", "ImageLength", "RowsPerStrip")]
    data = bytearray(buffer.getvalue())
    for tag in tags:
        struct.pack_into("<H" if tag.dtype == 3 else "<I", data, tag.valueoffset, side)
    return bytes(data)


def nifti(side: int, slices: int = 1) -> bytes:
    data = bytearray(nib.Nifti1Image(np.zeros((OWN, OWN, 1), np.uint8), np.eye(4)).to_bytes())
    struct.pack_into("<hhh", data, 42, side, side, slices)
    return bytes(data)


def claimed(side: int, syntax: str = "") -> bytes:
    dataset = dicom(grey(OWN, OWN))
    if syntax:
        dataset.compress(syntax)
    dataset.Rows = dataset.Columns = side
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


HUGE = {
    "a.png": (lambda side: patched("PNG", ">II", 16, side), SIDE, "limit of"),
    "a.jpg": (lambda side: patched("JPEG", ">HH", 0, side), SIDE, "limit of"),
    "a.bmp": (lambda side: patched("BMP", "<ii", 18, side), SIDE, "limit of"),
    "a.tif": (tiff, SIDE, "limit of"),
    "a.gif": (lambda side: patched("GIF", "<HH", 6, side), SIDE, "limit of"),
    "a.webp": (webp, PILLOWS, "more than 178,956,970 pixels"),
    "plain.dcm": (lambda side: claimed(side), SIDE, "limit of"),
    "short.dcm": (lambda side: claimed(side), PILLOWS, "truncated"),
    "other.dcm": (lambda side: claimed(side, JPEG2000Lossless), PILLOWS, "but not by"),
    "a.nii.gz": (lambda side: gzip.compress(nifti(side)), SIDE, "truncated"),
    "deep.nii.gz": (lambda side: gzip.compress(nifti(side, side)), SIDE, "cut the volume"),
}
READ = """
import contextlib, json, resource, sys
from pathlib import Path
from pipeline.images import probe, read_image, read_mask
asked, good, bad = int(sys.argv[1]), *map(Path, sys.argv[2:])
for path in good.iterdir():  # loads the decoders
    probe(path), read_image(path)
    with contextlib.suppress(Exception):  # pictures are no masks
        read_mask(path)
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + asked,) * 2)
said = {}
for path in bad.iterdir():
    for read in (probe, read_image, read_mask):
        try:
            read(path)
        except Exception as error:
            said.setdefault(path.name, []).append(f"{type(error).__name__}: {error}")
print(json.dumps(said))
"""


@pytest.mark.promise(HUGE_FILES)
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_huge_files_of_every_format_are_refused_without_allocating_memory(tmp_path):
    assert PILLOWS**2 < MAX_PIXELS < SIDE**2
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir()
    bad.mkdir()
    for name, (make, side, _) in HUGE.items():
        if name != "deep.nii.gz":
            (good / name).write_bytes(make(OWN))
        (bad / name).write_bytes(make(side))
        assert (bad / name).stat().st_size < 2**15
    command = [sys.executable, "-c", READ, str(ASKED), str(good), str(bad)]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    said = json.loads(told.stdout)
    assert said.keys() == HUGE.keys()
    for name, (_, _, words) in HUGE.items():
        # the header of the last is valid, only its frame is not
        assert len(said[name]) == (2 if name == "other.dcm" else 3), said[name]
        for text in said[name]:
            assert text.startswith("ImageError: ") and words in text and name in text, text
            assert "memory" not in text
