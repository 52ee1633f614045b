"""The format of a file by its first bytes, never by its name; names that are never images."""

from __future__ import annotations

from pathlib import PurePath

from pipeline.errors import ImageError

SUFFIXES = frozenset({
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".dib", ".webp", ".gif",
    ".dcm", ".dicom", ".dic", ".ima", ".nii", ".nii.gz",
})  # fmt: skip
HEAD_BYTES = 1024

_JUNK = {
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r",
    "__macosx", "$recycle.bin", "system volume information", "@eadir", "__pycache__",
}  # fmt: skip
_FORMATS = (  # format, offset, possible bytes there; a DICOM preamble may look like TIFF
    ("PNG", 0, (b"\x89PNG\r\n\x1a\n",)),
    ("JPEG", 0, (b"\xff\xd8\xff",)),
    ("GIF", 0, (b"GIF87a", b"GIF89a")),
    ("WEBP", 8, (b"WEBP",)),
    ("DICOM", 128, (b"DICM",)),
    ("TIFF", 0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("NIFTI", 0, (b"\x1f\x8b", b"\x5c\x01\0\0", b"\0\0\x01\x5c")),
    ("NIFTI", 0, (b"\x1c\x02\0\0", b"\0\0\x02\x1c")),
    ("BMP", 0, (b"BM",)),
)


def is_junk(name: str) -> bool:
    """Return whether a name is that of a system or notebook file, never an image or a class.

    Args:
        name: a file or folder name, or a relative path. Junk is any part that is hidden
            (`._x.png`, `.DS_Store`, `.ipynb_checkpoints`), an office lock file (`~$x`), or a
            known name such as `Thumbs.db` and `__MACOSX`.
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


def sniff(head: bytes) -> str:
    """Return the format of a file.

    Args:
        head: its first `HEAD_BYTES` bytes.

    Returns:
        "PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "DICOM" or "NIFTI".

    Raises:
        ImageError: empty, a Git LFS pointer, a web page, or not a supported format.
    """
    for name, offset, magic in _FORMATS:
        if head[offset:].startswith(magic):
            return name
    if _is_bare_dicom(head):
        return "DICOM"
    what, remedy = "is not in a supported format", "save it as PNG, or remove it"
    if not head.strip(b"\0"):
        what, remedy = "is empty or has only zero bytes", "copy or download it again"
    elif head.startswith(b"version https://git-lfs"):
        what, remedy = "is a Git LFS pointer", "run `git lfs pull`"
    elif head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        what, remedy = "is a web page or XML, not an image", "download it again, after logging in"
    elif all(32 <= b < 127 or b in b"\t\r\n\x0c\x1b" or b >= 128 for b in head):
        what, remedy = "is text, not an image", "remove it or replace it with the image"
    raise ImageError(what, remedy=remedy)


def _is_bare_dicom(head: bytes) -> bool:
    """Return whether it is DICOM without preamble: a low element of group 0002 or 0008."""
    if len(head) < 16 or head[:2] not in (b"\x02\0", b"\x08\0") or head[3] not in (0, 1):
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or int.from_bytes(head[4:8], "little") <= 64
