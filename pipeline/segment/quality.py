"""Mask quality without ground truth: area, components, stability, status."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

STABILITY_OFFSET = 1.0
"""Shift of the threshold, in logits, as in SAM's automatic mask generator."""


def stability_score(logits: np.ndarray, threshold: float = 0.0) -> np.ndarray:
    """Return the IoU of the masks at a slightly higher and a slightly lower threshold.

    The stability score of "Segment Anything" (Kirillov et al. 2023, section 5). The higher mask
    lies inside the lower one, so the IoU is the ratio of their areas.

    Args:
        logits: (..., h, w) mask logits at SAM2's low resolution.
        threshold: logits above it are inside the mask.

    Returns:
        float32 (...,) in [0, 1]; 1 if both masks are empty.
    """
    inner = (logits > threshold + STABILITY_OFFSET).sum(axis=(-2, -1))
    outer = (logits > threshold - STABILITY_OFFSET).sum(axis=(-2, -1))
    ratio = np.divide(inner, outer, out=np.ones(np.shape(outer)), where=outer > 0)
    return np.asarray(ratio, dtype=np.float32)


def component_count(mask: np.ndarray) -> int:
    """Return the number of 8-connected components of a bool (h, w) mask."""
    return int(ndimage.label(mask, structure=np.ones((3, 3)))[1])


def border_share(masks: np.ndarray) -> np.ndarray:
    """Return the share of the border pixels of the frame that each mask covers.

    Args:
        masks: bool (..., h, w), h and w at least 2.

    Returns:
        float32 (...,) in [0, 1]; high for background masks.
    """
    border = np.concatenate(
        [masks[..., 0, :], masks[..., -1, :], masks[..., 1:-1, 0], masks[..., 1:-1, -1]], axis=-1
    )
    return border.mean(axis=-1).astype(np.float32)


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return the smallest box x0, y0, x1, y1 (x1, y1 exclusive) of a mask; None if it is empty."""
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def mask_status(area_fraction: float, min_area: float, max_area: float) -> str:
    """Return "empty" below `min_area`, "full" above `max_area` (shares of the image), else "ok".

    A mask without pixels is empty and one of all pixels is full whatever the limits. `encode` uses
    the whole image for both.
    """
    if area_fraction <= 0 or area_fraction < min_area:
        return "empty"
    if area_fraction >= 1 or area_fraction > max_area:
        return "full"
    return "ok"


def effective_mask(mask: np.ndarray, status: str) -> np.ndarray:
    """Return the mask that views are made with: all ones if the mask is empty or full."""
    return mask if status == "ok" else np.ones_like(mask)
