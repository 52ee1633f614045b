"""Image files with every fault, made on the spot: name -> (how it is made, what is said of it)."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.images.makers import encode_png


def picture(seed: int, height: int = 40, width: int = 48, *, bright: bool = True) -> np.ndarray:
    """Return a bright or dim ellipse on noise: uint8 (height, width)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.uniform(0.4, 0.6, 2) * (height, width)
    inside = ((y - cy) / (height / 4)) ** 2 + ((x - cx) / (width / 5)) ** 2 < 1
    return (rng.integers(0, 90, (height, width)) + (150 if bright else 60) * inside).astype("u1")


Make = Callable[[Path], object]


def _chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + kind + content + crc


def _bomb(path: Path) -> None:
    """3.6 billion pixels in a few kilobytes."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1_000_000)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def _bad_crc(path: Path) -> None:
    data = bytearray(encode_png(picture(70)))
    data[data.index(b"IDAT") + 30] ^= 0xFF
    path.write_bytes(data)


def _cut(kind: str) -> Make:
    def make(path: Path) -> None:
        Image.fromarray(picture(71, 90, 90)).save(path, format=kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return make


def _locked(path: Path) -> None:
    Image.fromarray(picture(72)).save(path)
    path.chmod(0)


def _bytes(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def _png(array: np.ndarray) -> Make:
    return lambda path: Image.fromarray(array).save(path, format="PNG")


BAD: dict[str, tuple[Make, str, str]] = {
    "zero.png": (_bytes(b""), "empty", "copy"),
    "notes.png": (_bytes(b"seen today, no finding\n" * 20), "text", ""),
    "page.jpg": (_bytes(b"<!DOCTYPE html><html>Sign in</html>"), "web page", ""),
    "pointer.png": (_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "LFS", "git lfs pull"),
    "bomb.png": (_bomb, "limit of", ""),
    "dangling.png": (lambda path: os.symlink("nowhere.png", path), "broken link", ""),
    "locked.png": (_locked, "permission denied", "chmod"),
    "pipe.png": (os.mkfifo, "is a pipe", "image file"),
}
"""Files that `data add` cannot take: what is said of the cause and, in part, of the remedy."""

DAMAGED: dict[str, tuple[Make, str, str]] = {
    "cut.png": (_cut("PNG"), "truncated", "copy"),
    "cut.jpg": (_cut("JPEG"), "truncated", "copy"),
    "crc.png": (_bad_crc, "damaged", "copy"),
}
"""Files with a sound header, whose damage shows when the pixels are read."""

GOOD: dict[str, Make] = {
    "one.png": _png(np.full((1, 1), 9, np.uint8)),
    "blank.png": _png(np.zeros((40, 48), np.uint8)),
    "really_png.jpg": _png(picture(80)),
    "really_png.dcm": _png(picture(81)),
    "quo'te\".png": _png(picture(82)),
    "new\nline.png": _png(picture(83)),
    "[0-9]*.png": _png(picture(84)),
    "影像.png": _png(picture(85)),
    "-rf.png": _png(picture(86)),
    "%s{}.png": _png(picture(87)),
    "UPPER.png": _png(picture(88)),
    "upper.png": _png(picture(89)),
    "stem.png": _png(picture(90)),
    "stem.bmp": lambda path: Image.fromarray(picture(91)).save(path),
    "caf\u00e9.png": _png(picture(92)),
    "cafe\u0301.png": _png(picture(93)),
}
"""Odd files and hostile names that are images all the same; some collide but for case, suffix or
Unicode form."""
