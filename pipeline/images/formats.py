"""The formats of image files, known by their first bytes; the limits and types of all readers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from pipeline.errors import ImageError

SUFFIXES = frozenset({
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".dib", ".webp", ".gif",
    ".pgm", ".ppm", ".pnm",
    ".dcm", ".dicom", ".dic", ".ima", ".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr",
    ".svs", ".ndpi", ".scn", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k",
})  # fmt: skip
HEAD_BYTES = 1024
# A file of a few kilobytes can claim any size: larger frames (16,384 x 16,384) are not decoded.
MAX_PIXELS = 2**28
MAX_BYTES = 2**32  # of a file, and of an uncompressed volume
AGAIN = "copy, download or export it again"
DICOMDIR_REASON = "a DICOMDIR, an index of other files"

_JUNK = {
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r",
    "__macosx", "$recycle.bin", "system volume information", "@eadir", "__pycache__",
}  # fmt: skip
_MAGIC = (  # format, offset, possible bytes there; a DICOM preamble may look like TIFF
    ("PNG", 0, (b"\x89PNG\r\n\x1a\n",)),
    ("JPEG", 0, (b"\xff\xd8\xff",)),
    ("GIF", 0, (b"GIF87a", b"GIF89a")),
    ("WEBP", 8, (b"WEBP",)),
    ("DICOM", 128, (b"DICM",)),
    ("TIFF", 0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("NIFTI", 0, (b"\x1f\x8b", b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")),
    ("NRRD", 0, (b"NRRD000",)),
    ("MHA", 0, (b"ObjectType", b"NDims", b"Comment =")),
    ("BMP", 0, (b"BM",)),
    ("PPM", 0, (b"P4\n", b"P5\n", b"P5 ", b"P6\n", b"P6 ")),
)
# Formats that are known but not read: their name, where they say so, and how to convert them.
_NOT_READ = (
    ("HEIC", 4, (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1"), "`heif-convert x.heic x.png`"),
    ("AVIF", 4, (b"ftypavif", b"ftypavis"), "`avifdec x.avif x.png`"),
    ("JPEG XL", 0, (b"\xff\x0a", b"\0\0\0\x0cJXL "), "`djxl x.jxl x.png`"),
    (
        "JPEG 2000",
        0,
        (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
        "`opj_decompress -i x.jp2 -o x.png`",
    ),
    ("a NumPy array", 0, (b"\x93NUMPY",), "tifffile.imwrite('x.tif', numpy.load('x.npy'))"),
    ("a zip or NumPy archive", 0, (b"PK\3\4",), "unpack it, and save each array as PNG or TIFF"),
    ("HDF5", 0, (b"\x89HDF",), "save each array as PNG or TIFF, with h5py and tifffile"),
    ("a MATLAB file", 0, (b"MATLAB ",), "save each array as PNG or TIFF, with scipy.io.loadmat"),
    ("a PDF", 0, (b"%PDF",), "`pdfimages -png x.pdf x`"),
)
# Files that are left out by their suffix, and how what they hold can be used.
CONVERSIONS = {
    **dict.fromkeys((".npz", ".npy"), "NumPy arrays - save each as PNG or TIFF"),
    **dict.fromkeys((".h5", ".hdf5", ".mat"), "arrays - save each as PNG or TIFF"),
    **dict.fromkeys((".hdr", ".img"), "Analyze or NIfTI pair - convert it: nibabel.save("
                    "nibabel.load('x.hdr'), 'x.nii.gz')"),
    **dict.fromkeys((".mrxs", ".vms", ".czi", ".lif"), "slide or microscope file - export regions "
                    "as TIFF, e.g. with QuPath or Fiji"),
}  # fmt: skip
_ANNOTATIONS = (  # suffix, pattern at the start, format
    (".json", rb'(?s).*"(?:annotations|categories)"\s*:', "COCO"),
    (".json", rb'(?s).*"shapes"\s*:', "LabelMe"),
    (".txt", rb"(?:\d+(?: +[\d.]+){4,}\s*\n?)+", "YOLO"),
    (".xml", rb"\s*(?:<\?[^>]*>\s*)?<annotation", "Pascal VOC"),
)
BOXES = "annotations ({}) - write their boxes into a CSV with the columns path, label and box"


class SkippedFile(ImageError):
    """A file that is not an image and does not claim to be one; intake counts it by its message."""


@dataclass(frozen=True)
class FrameInfo:
    """One frame (page, slice) of a file: its 0-based index and its upright size in pixels."""

    frame: int
    width: int
    height: int


@dataclass(frozen=True)
class Pixels:
    """Decoded, upright samples of one frame, before conversion to a display image.

    Attributes:
        values: (h, w) or (h, w, 3), any real dtype.
        display: the values are 8-bit display values, shown unchanged.
        invert: low values are bright (MONOCHROME1, MINISWHITE).
        valid: bool (h, w), False for padding and transparent pixels, which do not count for the
            display range and are shown black; None if all are valid.
        alpha: float32 (h, w) opacity in [0, 1] that is still to be applied; None if opaque.
        span: the samples that are shown black and white; None = by their own range.
        threshold: how a mask is thresholded: "auto", or "half" (lossy coding).
        index: (h, w) indices of a palette, whose colours the values are; only masks look at it.
        opacity: uint8 (h, w) that the values have been multiplied by; only masks look at it.
    """

    values: np.ndarray
    display: bool = False
    invert: bool = False
    valid: np.ndarray | None = None
    alpha: np.ndarray | None = None
    span: tuple[float, float] | None = None
    threshold: str = "auto"
    index: np.ndarray | None = None
    opacity: np.ndarray | None = None


def check_size(width: int, height: int) -> None:
    """Raise ImageError for a frame without pixels or of more than `MAX_PIXELS`."""
    if width < 1 or height < 1:
        raise ImageError(f"has no pixels ({width} x {height})", remedy=AGAIN)
    if width * height > MAX_PIXELS:
        claim = f"{width} x {height} pixels exceed the limit of {MAX_PIXELS:,}"
        raise ImageError(claim, remedy="make it smaller or cut it into tiles, then add it again")


def check_frame(frame: int, count: int) -> None:
    """Raise ImageError unless `frame` is one of `count`."""
    if not 0 <= frame < count:
        raise ImageError(f"has no frame {frame} (it has {count})", remedy="frames are 0-based")


def is_junk(name: str) -> bool:
    """Return whether a name or relative path is that of a system or notebook file.

    Some part of it is hidden, an office lock file (`~$x`), or a known name such as `Thumbs.db`.
    """
    parts = name.replace("\\", "/").split("/")
    return any(
        (p.startswith(".") and p not in (".", "..")) or p.startswith("~$") or p.lower() in _JUNK
        for p in parts
    )


def has_image_suffix(name: str) -> bool:
    """Return whether a name has the suffix of an image; DICOM files often have none (`sniff`)."""
    lower = PurePath(name).name.lower()
    return lower.endswith(".nii.gz") or PurePath(lower).suffix in SUFFIXES


def conversion(suffix: str, head: bytes) -> str:
    """Return what a file holds that is no image by its suffix, and how that can be used; or ""."""
    for ending, pattern, name in _ANNOTATIONS:
        if suffix == ending and re.match(pattern, head):
            return BOXES.format(name)
    return CONVERSIONS.get(suffix, "")


def sniff(head: bytes) -> str:
    """Return the format of a file (of `_MAGIC`), by its first `HEAD_BYTES` bytes.

    Raises:
        ImageError: empty, a Git LFS pointer, a web page, or not a supported format.
    """
    for name, offset, magic in _MAGIC:
        if head[offset:].startswith(magic):
            return name
    # DICOM without preamble starts with a low element of group 0002 or 0008.
    if len(head) >= 16 and head[:2] in (b"\x02\0", b"\x08\0") and head[3] in (0, 1):
        explicit = head[4:6].isalpha() and head[4:6].isupper()
        if explicit or int.from_bytes(head[4:8], "little") <= 64:
            return "DICOM"
    for name, offset, magic, how in _NOT_READ:
        if head[offset:].startswith(magic):
            raise ImageError(f"is {name}, which is not read", remedy=f"convert it: {how}")
    what, remedy = "is not in a supported format", "save it as PNG, or remove it"
    if not head.strip(b"\0"):
        what, remedy = "is empty or has only zero bytes", AGAIN
    elif head.startswith(b"version https://git-lfs"):
        what, remedy = "is a Git LFS pointer", "run `git lfs pull`"
    elif head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        what, remedy = "is a web page or XML, not an image", "download it again, after logging in"
    elif all(32 <= b < 127 or b in b"\t\r\n\x0c\x1b" or b >= 128 for b in head):
        what, remedy = "is text, not an image", "remove it or replace it with the image"
    raise ImageError(what, remedy=remedy)
