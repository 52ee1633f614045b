"""Small files that claim to be huge are refused before memory is allocated for them."""

from __future__ import annotations

import gzip
import io
import json
import struct
import subprocess
import sys
import zlib

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.uid import JPEG2000Lossless, RLELossless

from pipeline.images.formats import MAX_PIXELS
from tests.images.makers import colour, dicom, grey

OWN = 48  # the true width and height of each file
SIDE = 30_000  # squared: above the limit of pixels; fits the header fields of every format
PILLOWS = 14_000  # squared: below it, and above Pillow's limit of a WebP
ASKED = 2**27  # bytes that reading may allocate; the smallest claimed frame has 196 million


def saved(kind: str, **options: object) -> bytearray:
    buffer = io.BytesIO()
    Image.fromarray(colour(OWN, OWN)).save(buffer, kind, **options)
    return bytearray(buffer.getvalue())


def jpeg(side: int, *, progressive: bool = False) -> bytes:
    data = saved("JPEG", progressive=progressive)
    at = data.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    struct.pack_into(">HH", data, at, side, side)
    return bytes(data)


def gif(side: int) -> bytes:
    data = saved("GIF")
    struct.pack_into("<HH", data, 6, side, side)
    return bytes(data)


def webp(side: int) -> bytes:
    size = (side - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<II", 10, 0) + size + size + saved("WEBP", lossless=True)[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp(side: int) -> bytes:
    data = saved("BMP")
    struct.pack_into("<ii", data, 18, side, side)
    return bytes(data)


def png(side: int, picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    struct.pack_into(">II", data, 16, side, side)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return bytes(data)


def tiff(side: int, compression: str) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, grey(OWN, OWN), compression=compression)
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
    "a.png": (lambda side: png(side, colour(OWN, OWN)), SIDE, "limit of"),
    "deep.png": (lambda side: png(side, grey(OWN, OWN).astype(np.uint16) * 257), SIDE, "limit of"),
    "a.jpg": (jpeg, SIDE, "limit of"),
    "progressive.jpg": (lambda side: jpeg(side, progressive=True), SIDE, "limit of"),
    "a.bmp": (bmp, SIDE, "limit of"),
    "zlib.tif": (lambda side: tiff(side, "zlib"), SIDE, "limit of"),
    "jpeg.tif": (lambda side: tiff(side, "jpeg"), SIDE, "limit of"),
    "a.gif": (gif, SIDE, "limit of"),
    "a.webp": (webp, SIDE, "more than 178,956,970 pixels"),
    "pillows.webp": (webp, PILLOWS, "more than 178,956,970 pixels"),
    "plain.dcm": (lambda side: claimed(side), SIDE, "limit of"),
    "rle.dcm": (lambda side: claimed(side, RLELossless), SIDE, "limit of"),
    "j2k.dcm": (lambda side: claimed(side, JPEG2000Lossless), SIDE, "limit of"),
    "short.dcm": (lambda side: claimed(side), PILLOWS, "truncated"),
    "other.dcm": (lambda side: claimed(side, JPEG2000Lossless), PILLOWS, "but not by"),
    "a.nii": (nifti, SIDE, "truncated"),
    "a.nii.gz": (lambda side: gzip.compress(nifti(side)), SIDE, "truncated"),
    "deep.nii.gz": (lambda side: gzip.compress(nifti(side, side)), SIDE, "cut the volume"),
}
READ = """
import json, resource, sys
from pathlib import Path
from pipeline.images import probe, read_image, read_mask
asked, good, bad = int(sys.argv[1]), *map(Path, sys.argv[2:])
for path in good.iterdir():  # loads the decoders
    probe(path), read_image(path), read_mask(path)
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


@pytest.mark.promise("A file that claims to be huge is refused before memory is allocated for it.")
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_huge_files_of_every_format_are_refused_without_allocating_memory(
    tmp_path,
):
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
        reads = said[name]
        # the header of this one is valid, only its frame is not
        assert len(reads) == (2 if name == "other.dcm" else 3), reads
        for words_of_one in reads:
            assert words_of_one.startswith("ImageError: ") and words in words_of_one, reads
            assert name in words_of_one and "memory" not in words_of_one
