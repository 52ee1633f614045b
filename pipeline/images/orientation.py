"""The eight EXIF orientations, as flips and turns of an array."""

from __future__ import annotations

import numpy as np


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels upright.

    Args:
        values: (h, w) or (h, w, c) as stored.
        orientation: EXIF/TIFF tag 274, 1 to 8; anything else counts as 1.

    Returns:
        A contiguous array; orientations 5 to 8 swap height and width.
    """
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return np.ascontiguousarray(values)


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Return (width, height) after `upright`."""
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)
