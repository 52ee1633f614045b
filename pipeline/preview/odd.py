"""What is odd about a picture that was read without error: warnings for the preview."""

from __future__ import annotations

import numpy as np

TINY = 32  # pixels
LONG = 4.0  # longer side / shorter side
FLAT = 2.0  # standard deviation of the grey values
DARK, BRIGHT = 24, 232  # grey values, for 98 % of the pixels
COLOURED = 12  # mean difference of the channels


def image_warnings(image: np.ndarray) -> list[str]:
    """Return warnings in plain words for a (h, w, 3) uint8 image; empty when nothing is odd."""
    height, width = image.shape[:2]
    found = []
    if min(height, width) < TINY:
        found.append(f"tiny ({width} x {height})")
    if max(height, width) > LONG * min(height, width):
        found.append(f"very long ({width} x {height})")
    grey = image.mean(axis=2)
    if grey.min() == grey.max():
        found.append("blank")
    elif grey.std() < FLAT:
        found.append("nearly blank")
    elif np.percentile(grey, 98) < DARK:
        found.append("nearly black")
    elif np.percentile(grey, 2) > BRIGHT:
        found.append("nearly white")
    return found


def is_coloured(image: np.ndarray) -> bool:
    """True when the channels differ by more than coding noise."""
    wide = image.astype(np.int16)
    return float((wide.max(axis=2) - wide.min(axis=2)).mean()) > COLOURED
