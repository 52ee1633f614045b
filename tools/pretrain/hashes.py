"""Hash prefixes of all training images, shipped with the embedded weights."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from pathlib import Path

from pipeline.io import atomic_write
from pipeline.models import DIGITS
from tools.pretrain.data import Item


def write_hashes(items: Iterable[Item], path: Path) -> str:
    """Write the first 16 hexadecimal digits of each image file's SHA-256, sorted, one a line.

    Held-out images are included, since they chose the default prompt. Phantoms have no file.

    Args:
        items: of `data.load_sets`.
        path: a .txt.gz file; its bytes depend on the images only.

    Returns:
        SHA-256 of the uncompressed list.
    """
    lines = sorted({item.sha256[:DIGITS] for item in items if item.sha256})
    text = "".join(f"{line}\n" for line in lines).encode()
    with atomic_write(path) as partial:
        partial.write_bytes(gzip.compress(text, 9, mtime=0))
    return hashlib.sha256(text).hexdigest()
