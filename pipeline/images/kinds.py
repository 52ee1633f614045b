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
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NOT_IMAGES = (
    (b"version https://git-lfs", "is a Git LFS pointer", "run `git lfs pull`"),
    (b"%PDF", "is a PDF document", "export its images as PNG"),
    (b"PK\x03\x04", "is a zip archive", "unpack it, or pass the zip itself to `pipeline data add`"),
    (b"\x93NUMPY", "is a NumPy array", "save it as PNG, TIFF or NIfTI"),
    (b"\x89HDF", "is an HDF5 file", "save its images as PNG, TIFF or NIfTI"),
    (b"\0\0\0\x0cjP  ", "is a bare JPEG 2000 file", "save it as PNG or TIFF"),
    (b"\xff\x4f\xff\x51", "is a bare JPEG 2000 stream", "save it as PNG or TIFF"),
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
        ImageError: empty, or not a supported format; the message names the actual one.
    """
    if not head:
        raise ImageError("is empty (zero bytes)", remedy="copy or download it again")
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[128:132] == b"DICM":  # before TIFF, which its preamble may contain
        return "DICOM"
    if head[:4] in _TIFF:
        return "TIFF"
    if head[:2] == b"\x1f\x8b" or _is_nifti_header(head):
        return "NIFTI"
    if head[:2] == b"BM" and len(head) > 26:
        return "BMP"
    if _is_bare_dicom(head):
        return "DICOM"
    _refuse(head)


def _is_nifti_header(head: bytes) -> bool:
    size = head[:4]
    one = size in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") and head[344:348] in (b"n+1\0", b"ni1\0")
    two = size in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") and head[4:8] in (b"n+2\0", b"ni2\0")
    return one or two


def _is_bare_dicom(head: bytes) -> bool:
    """Return whether it is DICOM without preamble: a low element of group 0002 or 0008."""
    if len(head) < 16 or head[:2] not in (b"\x02\0", b"\x08\0") or head[3] not in (0, 1):
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or int.from_bytes(head[4:8], "little") <= 64


def _refuse(head: bytes) -> None:
    for magic, what, remedy in _NOT_IMAGES:
        if head.startswith(magic):
            raise ImageError(what, remedy=remedy)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head", b"<svg")):
        raise ImageError(
            "is a web page or XML, not an image",
            remedy="the download went wrong (a login page?): download it again",
        )
    if not head.strip(b"\0"):
        raise ImageError("has only zero bytes", remedy="copy or download it again")
    if all(32 <= b < 127 or b in b"\t\r\n\x0c\x1b" or b >= 128 for b in head):
        raise ImageError("is text, not an image", remedy="remove it or replace it with the image")
    raise ImageError(
        "is not in a supported format (PNG, JPEG, TIFF, BMP, WebP, GIF, DICOM, NIfTI)",
        remedy="save it as PNG, or remove it",
    )
