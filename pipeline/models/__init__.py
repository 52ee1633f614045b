"""SAM2 and CLIP models: configurations and loading, and what needs no torch: importing this package
does not import it.

from pipeline.models import ModelSpec, load_clip, load_sam2
predictor = load_sam2(ModelSpec(name="sam2-micro"))
"""

import gzip
import importlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import ModelSpec as ModelSpec

CARDS = Path(__file__).parent / "cards"
DIGITS = 16
"""Length of the listed prefixes of SHA-256, in hexadecimal digits."""
_MODULES = {"load_sam2": "sam2", "Sam2ImagePredictor": "sam2", "load_clip": "clip",
            "ClipModel": "clip", "load_timm": "timm_encoder",
            "TimmEncoder": "timm_encoder"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"pipeline.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@lru_cache
def trained_on(checkpoint_sha256: str) -> frozenset[str]:
    """Return the SHA-256 prefixes of all training images of a checkpoint; empty if not known."""
    card = json.loads((CARDS / "sam2-micro.json").read_text(encoding="utf-8"))
    if card["sha256"] != checkpoint_sha256:
        return frozenset()
    packed = (CARDS / "training-hashes.txt.gz").read_bytes()
    return frozenset(gzip.decompress(packed).decode().split())


def draw_box_prompt(
    box: np.ndarray | list[float], height: int, width: int, size: int = 64
) -> np.ndarray:
    """Draw a box as a low-resolution mask prompt of SAM2.

    Args:
        box: x0, y0, x1, y1 in pixels of the image.
        height, width: of the image in pixels.
        size: side of the prompt, `predictor.mask_prompt_size` (64 for sam2-micro, 256 for SAM2.1).

    Returns:
        float32 (1, size, size) for `SAM2ImagePredictor.predict(mask_input=...)`: +8 inside the
        box, -8 outside, interpolated by coverage in cells that an edge crosses.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    cells = np.arange(size, dtype=np.float64)

    def coverage(low: float, high: float, length: int) -> np.ndarray:
        low, high = low * size / length, high * size / length
        return np.clip(np.minimum(high, cells + 1) - np.maximum(low, cells), 0, 1)

    inside = np.outer(coverage(y0, y1, height), coverage(x0, x1, width))
    return (8.0 * (2 * inside - 1)).astype(np.float32)[None]
