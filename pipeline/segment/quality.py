"""Mask quality: area, components, stability and status; Dice, IoU and HD95 against another mask."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

STABILITY_OFFSET = 1.0
"""Shift of the threshold, in logits, as in SAM's automatic mask generator."""
BLANK = 2
"""Grey levels by which the pixels of a blank image may differ."""
BORDER_SHARE = 0.75
"""Of the border of the image, above which a ground-truth mask may be inverted."""


def stability_score(logits: np.ndarray, threshold: float = 0.0) -> np.ndarray:
    """Return the IoU of the masks at a slightly higher and a slightly lower threshold.

    The stability score of "Segment Anything" (Kirillov et al. 2023, section 5), of mask logits
    (..., h, w) at SAM2's low resolution; those above `threshold` are inside the mask. The higher
    mask lies inside the lower one, so the IoU is the ratio of their areas; 1 if both are empty.
    """
    inner = (logits > threshold + STABILITY_OFFSET).sum(axis=(-2, -1))
    outer = (logits > threshold - STABILITY_OFFSET).sum(axis=(-2, -1))
    ratio = np.divide(inner, outer, out=np.ones(np.shape(outer)), where=outer > 0)
    return np.asarray(ratio, dtype=np.float32)


def component_count(mask: np.ndarray) -> int:
    """Return the number of 8-connected components of a bool (h, w) mask."""
    return int(ndimage.label(mask, structure=np.ones((3, 3)))[1])


def border_share(masks: np.ndarray) -> np.ndarray:
    """Return the share of the border of the frame that each mask covers: bool (..., h, w), h and w
    at least 2, to float32 (...,); high for background masks."""
    border = np.concatenate(
        [masks[..., 0, :], masks[..., -1, :], masks[..., 1:-1, 0], masks[..., 1:-1, -1]], axis=-1
    )
    return border.mean(axis=-1).astype(np.float32)


def odd_truth(mask: np.ndarray) -> str:
    """Return what is unusual about a ground-truth mask, bool (h, w): "empty", "covers the border",
    "covers more than half of the image", or ""."""
    if not mask.any():
        return "empty"
    if min(mask.shape) > 1 and border_share(mask) >= BORDER_SHARE:
        return "covers the border"
    return "covers more than half of the image" if mask.mean() > 0.5 else ""


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return the smallest box x0, y0, x1, y1 (x1, y1 exclusive) of a mask; None if it is empty."""
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def is_blank(image: np.ndarray) -> bool:
    """Return whether an image, uint8 (h, w, 3), is of one colour, to within `BLANK` levels."""
    channels = [image[..., c] for c in range(image.shape[2])]  # one by one: far faster in numpy
    return all(int(one.max()) - int(one.min()) <= BLANK for one in channels)


def mask_status(area_fraction: float, min_area: float, max_area: float) -> str:
    """Return "empty" below `min_area`, "full" above `max_area` (shares of the image), else "ok"; no
    pixels are empty and all are full whatever the limits. `encode` uses the whole image for both.
    """
    if area_fraction <= 0 or area_fraction < min_area:
        return "empty"
    if area_fraction >= 1 or area_fraction > max_area:
        return "full"
    return "ok"


def effective_mask(mask: np.ndarray, status: str) -> np.ndarray:
    """Return the mask that views are made with: all ones if the mask is empty or full."""
    return mask if status == "ok" else np.ones_like(mask)


def overlap(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return Dice and IoU of two bool masks (h, w); both are NaN when both masks are empty."""
    both = np.count_nonzero(predicted & truth)
    total = np.count_nonzero(predicted) + np.count_nonzero(truth)
    if total == 0:
        return float("nan"), float("nan")
    return 2 * both / total, both / (total - both)


def hd95(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return the 95 % Hausdorff distance in pixels; NaN when a mask is empty.

    As MONAI computes it: the larger of the two directed 95th percentiles of the distance from a
    boundary pixel (with a 4-neighbour outside) to the nearest one of the other mask.
    """
    a, b = (np.argwhere(mask & ~ndimage.binary_erosion(mask)) for mask in (predicted, truth))
    if not len(a) or not len(b):
        return float("nan")
    distances = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
    return float(max(np.percentile(d, 95) for d in distances))


def center_ellipse(mask: np.ndarray) -> np.ndarray:
    """Return a centred ellipse with the image's aspect ratio and (nearly) the mask's area: what one
    could predict from the size of the region alone."""
    height, width = mask.shape
    share = np.count_nonzero(mask) / mask.size
    scale = np.sqrt(4 * share / np.pi)  # an ellipse that touches all sides covers pi / 4
    y = (np.arange(height) + 0.5 - height / 2) / (height / 2)
    x = (np.arange(width) + 0.5 - width / 2) / (width / 2)
    radius = max(scale, 1e-9)
    return (y[:, None] ** 2 + x[None, :] ** 2) <= radius**2
