"""Agreement of two masks: Dice, IoU and HD95; and the centred ellipse, a baseline for masks."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree


def overlap(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return Dice and IoU of two bool masks (h, w); both are NaN when both masks are empty."""
    both = np.count_nonzero(predicted & truth)
    total = np.count_nonzero(predicted) + np.count_nonzero(truth)
    if total == 0:
        return float("nan"), float("nan")
    return 2 * both / total, both / (total - both)


def hd95(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return the 95 % Hausdorff distance in pixels; NaN when a mask is empty.

    This is the larger of the two directed 95th percentiles of the distance from a boundary pixel
    to the nearest boundary pixel of the other mask (as MONAI computes it). Boundary pixels have a
    4-neighbour outside the mask or the image.
    """
    a, b = (np.argwhere(mask & ~binary_erosion(mask)) for mask in (predicted, truth))
    if not len(a) or not len(b):
        return float("nan")
    distances = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
    return float(max(np.percentile(d, 95) for d in distances))


def center_ellipse(mask: np.ndarray) -> np.ndarray:
    """Return a centred ellipse with the image's aspect ratio and (nearly) the mask's area.

    It is what one could predict from the size of the region alone.
    """
    height, width = mask.shape
    share = np.count_nonzero(mask) / mask.size
    scale = np.sqrt(4 * share / np.pi)  # an ellipse that touches all sides covers pi / 4
    y = (np.arange(height) + 0.5 - height / 2) / (height / 2)
    x = (np.arange(width) + 0.5 - width / 2) / (width / 2)
    radius = max(scale, 1e-9)
    return (y[:, None] ** 2 + x[None, :] ** 2) <= radius**2
