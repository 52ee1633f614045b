"""Files that are not images, or broken: an error with a remedy, never pixels, never a hang."""

from __future__ import annotations

import contextlib
import gzip
import os
import socket
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pipeline.errors import ImageError
from pipeline.images import encode_png, probe, read_image, read_mask
from pipeline.images.dicom import MAX_DEFLATED
from tests.images.makers import colour, dicom, grey, rgb, save_dicom

UNKNOWN = "not in a supported format"
NOT_IMAGES = {
    "zero.png": (b"", "empty"),
    "zeros.jpg": (b"\0" * 5000, "only zero"),
    "notes.png": (b"patient seen today\n" * 9, "text"),
    "page.jpg": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "paper.png": (b"%PDF-1.7\n" + bytes(range(256)), UNKNOWN),
    "archive.png": (b"PK\x03\x04" + bytes(range(256)), UNKNOWN),
    "noise.bmp": (bytes(range(200, 256)) + bytes(range(100)), UNKNOWN),
    "packed.nii.gz": (gzip.compress(b"hello"), "no NIfTI header"),
    "short.dcm": (b"\0" * 128 + b"DICM", "without pixels"),
}


@pytest.mark.promise("A truncated or damaged file is refused by name; it is never shown black.")
@pytest.mark.parametrize("name", NOT_IMAGES)
def test_a_file_that_is_no_image_is_named_with_a_remedy(tmp_path, name):
    content, words = NOT_IMAGES[name]
    path = tmp_path / name
    path.write_bytes(content)
    for read in (probe, read_image, read_mask):
        with pytest.raises(ImageError, match=words) as caught:
            read(path)
        assert caught.value.remedy and name in str(caught.value)


@pytest.mark.promise("A truncated or damaged file is refused by name; it is never shown black.")
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp", "gif"])
@pytest.mark.parametrize("keep", [0.3, 0.7, 0.97])
def test_a_truncated_image_is_refused(tmp_path, suffix, keep):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(colour(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ImageError, match=r"damaged|truncated"):
        read_image(path)


def _patch(path, **tags: int) -> None:
    """Overwrite the first value of tags in the file."""
    with tifffile.TiffFile(path) as tiff:
        found = {name: tiff.pages[0].tags[name] for name in tags}
    data = bytearray(path.read_bytes())
    for name, tag in found.items():
        code = "<H" if tag.dtype == 3 else "<I"
        struct.pack_into(code, data, tag.valueoffset, tags[name])
    path.write_bytes(data)


@pytest.mark.promise("A truncated or damaged file is refused by name; it is never shown black.")
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "lzma", "zstd", "jpeg"])
def test_a_truncated_tiff_strip_is_refused_in_every_compression(tmp_path, compression):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, colour(64, 64), compression=compression, photometric="rgb")
    with tifffile.TiffFile(path) as tiff:
        count = tiff.pages[0].databytecounts[0]
    _patch(path, StripByteCounts=count // 2)
    with pytest.raises(ImageError):
        read_image(path)


@pytest.mark.promise("A truncated or damaged file is refused by name; it is never shown black.")
def test_a_tiff_without_its_strips_is_refused(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, grey(64, 64), compression="zlib")
    _patch(path, StripByteCounts=0)
    with pytest.raises(ImageError, match="lacks some of its strips"):
        read_image(path)


@pytest.mark.promise("A truncated or damaged file is refused by name; it is never shown black.")
@pytest.mark.parametrize("where", ["pixels", "header", "checksum"])
def test_a_png_with_a_wrong_checksum_is_refused(tmp_path, where):
    data = bytearray(encode_png(grey()))
    pixels, header = data.index(b"IDAT"), data.index(b"IHDR")
    checksum = pixels + 4 + int.from_bytes(data[pixels - 4 : pixels], "big")
    data[{"pixels": pixels + 30, "header": header + 14, "checksum": checksum}[where]] ^= 0xFF
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(ImageError):
        read_image(path)


@pytest.mark.promise("A truncated or damaged file is refused by name; it is never shown black.")
def test_the_zeros_of_an_interrupted_copy_are_refused(tmp_path):
    for suffix in ("png", "jpg", "webp", "gif"):
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(colour(200, 200)).save(path)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] + b"\0" * (len(data) - len(data) // 2))
        with pytest.raises(ImageError):
            read_image(path)


@pytest.mark.promise("The content of a file decides its format, never its name.")
def test_the_name_does_not_decide_the_format(tmp_path):
    for suffix, kind in {"jpg": "PNG", "dcm": "PNG", "nii.gz": "BMP", "png": "TIFF"}.items():
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(grey()).save(path, format=kind)
        np.testing.assert_array_equal(read_image(path), rgb(grey()))


def test_broken_links_loops_folders_and_pipes_are_named_and_do_not_hang(tmp_path):
    os.symlink(tmp_path / "gone.png", tmp_path / "dangling.png")
    os.symlink(tmp_path / "loop.png", tmp_path / "loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    # a relative name: the path of a socket has at most about a hundred characters
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(tmp_path):
        server.bind("socket.png")
    words = {
        "dangling.png": "broken link",
        "loop.png": "broken link|loop|levels",
        "pipe.png": "pipe",
        "folder.png": "folder",
        "socket.png": "socket",
        "missing.png": "does not exist",
    }
    for name, text in words.items():
        for read in (probe, read_image):
            with pytest.raises(ImageError, match=text):
                read(tmp_path / name)


def test_an_unreadable_file_is_named_with_its_remedy(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(encode_png(grey()))
    path.chmod(0)
    if os.geteuid() == 0:  # root can read everything: try as another user
        code = (
            "import os, sys; from pipeline.images import read_image\n"
            "os.setuid(65534)\n"
            "try: read_image(sys.argv[1])\n"
            "except Exception as error: print(type(error).__name__, error)"
        )
        for folder in (tmp_path, *tmp_path.parents[:3]):
            if folder.stat().st_uid == os.geteuid() and str(folder).count("/") > 1:
                folder.chmod(0o755)
        told = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        ).stdout
    else:
        with pytest.raises(ImageError) as caught:
            read_image(path)
        told = f"ImageError {caught.value}"
    assert told.startswith("ImageError") and "permission denied" in told and "chmod" in told


@pytest.mark.promise("A file that claims to be huge is refused before memory is allocated for it.")
def test_a_deflated_dicom_bomb_is_refused_within_little_memory(tmp_path):
    dataset = dicom(grey(), syntax=DeflatedExplicitVRLittleEndian)
    data = save_dicom(dataset, tmp_path / "x.dcm").read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    block = packer.compress(b"\0" * 2**24) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(b"\0" * 2**24) + packer.flush(zlib.Z_FULL_FLUSH)
    bomb = data[:start] + block + again * (MAX_DEFLATED // 2**24) + packer.flush()
    assert len(bomb) < 2**21
    (tmp_path / "x.dcm").write_bytes(bomb)
    tracemalloc.start()
    for read in (probe, read_image):
        with pytest.raises(ImageError, match="1 GiB"):
            read(tmp_path / "x.dcm")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26


@pytest.mark.parametrize(
    "name",
    ["quo'te\".png", "new\nline.png", "[0-9]*.png", "影像.png", "-rf.png", " x .png", "%s{}.png"],
)
def test_hostile_names_are_only_names(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(encode_png(grey()))
    np.testing.assert_array_equal(read_image(path), rgb(grey()))
    path.write_bytes(b"")
    with pytest.raises(ImageError, match="empty"):
        read_image(path)


@pytest.mark.promise("A file that claims to be huge is refused before memory is allocated for it.")
def test_a_bomb_in_the_metadata_is_refused(tmp_path):
    data = encode_png(grey())
    text = b"zTXt" + b"Comment\0\0" + zlib.compress(b"\0" * 300_000_000)
    bomb = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    (tmp_path / "x.png").write_bytes(data[:33] + bomb + data[33:])
    with pytest.raises(ImageError, match="damaged"):
        read_image(tmp_path / "x.png")


def test_reading_prints_nothing_even_if_warnings_are_errors(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "x.jpg"
    Image.fromarray(colour()).save(path, exif=exif)
    data = path.read_bytes()
    (tmp_path / "odd.jpg").write_bytes(data.replace(b"MM\0*", b"MM\0\xff", 1))
    Image.fromarray(grey() // 64, mode="P").save(tmp_path / "p.png", transparency=b"\0\xff")
    cut = tmp_path / "x.tif"
    tifffile.imwrite(cut, grey(), compression="zlib")
    cut.write_bytes(cut.read_bytes()[:-40])
    code = (
        "import sys; from pipeline.images import read_image, probe\n"
        "for path in sys.argv[1:]:\n"
        "    for read in (probe, read_image):\n"
        "        try: read(path)\n"
        "        except Exception as error: assert type(error).__name__ == 'ImageError', error\n"
    )
    files = [str(p) for p in sorted(tmp_path.iterdir())]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *files], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
