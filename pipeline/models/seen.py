"""Which images the embedded SAM2-micro was trained on, by the hashes that ship with its weights."""

from __future__ import annotations

import gzip
import json
from functools import lru_cache
from pathlib import Path

CARDS = Path(__file__).parent / "cards"
DIGITS = 16
"""Hexadecimal digits of an image file's SHA-256 that the list holds."""


def read_hashes(path: Path) -> frozenset[str]:
    """Return the hash prefixes of a gzipped list, one a line."""
    return frozenset(gzip.decompress(path.read_bytes()).decode().split())


@lru_cache
def trained_on(checkpoint_sha256: str) -> frozenset[str]:
    """Return the first 16 digits of the SHA-256 of every image file that weights have seen.

    Empty for other weights than the embedded ones: nobody knows their images by hash.
    """
    card = json.loads((CARDS / "sam2-micro.json").read_text(encoding="utf-8"))
    if card["sha256"] != checkpoint_sha256:
        return frozenset()
    return read_hashes(CARDS / "training-hashes.txt.gz")
