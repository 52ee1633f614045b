"""A box as low-resolution mask prompt of SAM2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def draw_box_prompt(
    box: Sequence[float] | np.ndarray, height: int, width: int, size: int = 64
) -> np.ndarray:
    """Draw a box as a mask prompt.

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
