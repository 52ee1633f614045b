"""Two regions compared: Dice, IoU and HD95; and the ellipse that a mask must be better than."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree


def overlap(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return Dice and IoU of two bool (h, w); NaN for both when both are empty."""
    both = np.count_nonzero(predicted & truth)
    total = np.count_nonzero(predicted) + np.count_nonzero(truth)
    if total == 0:
        return float("nan"), float("nan")
    return 2 * both / total, both / (total - both)


def boundary(mask: np.ndarray) -> np.ndarray:
    """Return the (row, column) of the region's pixels with a 4-neighbour outside, int (n, 2).

    What lies outside the image counts as outside the region.
    """
    return np.argwhere(mask & ~binary_erosion(mask))


def hd95(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return the 95 % Hausdorff distance in pixels; NaN when a region is empty.

    It is the larger of the two directed 95th percentiles of the distance from one boundary to
    the nearest point of the other (as MONAI computes it).
    """
    a, b = boundary(predicted), boundary(truth)
    if not len(a) or not len(b):
        return float("nan")
    forward = cKDTree(b).query(a)[0]
    backward = cKDTree(a).query(b)[0]
    return float(max(np.percentile(forward, 95), np.percentile(backward, 95)))


def center_ellipse(mask: np.ndarray) -> np.ndarray:
    """Return an ellipse in the middle of the frame, of the frame's proportions and the mask's
    area (as near as it fits): what knowing only the size would give."""
    height, width = mask.shape
    share = np.count_nonzero(mask) / mask.size
    scale = np.sqrt(4 * share / np.pi)  # of the frame; an ellipse that touches it covers pi / 4
    y = (np.arange(height) + 0.5 - height / 2) / (height / 2)
    x = (np.arange(width) + 0.5 - width / 2) / (width / 2)
    radius = max(scale, 1e-9)
    return (y[:, None] ** 2 + x[None, :] ** 2) <= radius**2
