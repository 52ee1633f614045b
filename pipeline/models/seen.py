"""The training images of the embedded SAM2-micro, by the hashes that ship with its weights."""

from __future__ import annotations

import gzip
import json
from functools import lru_cache
from pathlib import Path

CARDS = Path(__file__).parent / "cards"
DIGITS = 16
"""Length of the listed prefixes of SHA-256, in hexadecimal digits."""


def read_hashes(path: Path) -> frozenset[str]:
    """Return the hash prefixes of a gzipped list, one a line."""
    return frozenset(gzip.decompress(path.read_bytes()).decode().split())


@lru_cache
def trained_on(checkpoint_sha256: str) -> frozenset[str]:
    """Return the SHA-256 prefixes of all training images of a checkpoint; empty if not known."""
    card = json.loads((CARDS / "sam2-micro.json").read_text(encoding="utf-8"))
    if card["sha256"] != checkpoint_sha256:
        return frozenset()
    return read_hashes(CARDS / "training-hashes.txt.gz")
