"""Read boxes and clicks of the manifest, and compute the region of the image that SAM2 sees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.errors import PipelineError

Region = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the image; x1 and y1 exclusive."""


def parse_box(text: str, width: int, height: int) -> np.ndarray:
    """Read a box of the manifest, "x0,y0,x1,y1" in pixels of the upright image.

    Returns:
        float32 (4,), clipped to the image.

    Raises:
        PipelineError: it is missing, not four numbers, or has no area inside the image.
    """
    remedy = "write x0,y0,x1,y1 (pixels, upright image) into the manifest's box column"
    if not text.strip():
        raise PipelineError("no box in the manifest", remedy=remedy)
    try:
        box = np.array([float(v) for v in text.split(",")], dtype=np.float32)
    except ValueError:
        box = np.zeros(0, dtype=np.float32)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise PipelineError(f"box {text!r} is not four numbers", remedy=remedy)
    box = np.clip(box, 0, np.array([width, height, width, height], dtype=np.float32))
    if box[2] <= box[0] or box[3] <= box[1]:
        raise PipelineError(
            f"box {text!r} has no area inside the {width} x {height} image", remedy=remedy
        )
    return box


def parse_points(text: str, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Read clicks of the manifest, "x,y,1;x,y,0": 1 = on the object, 0 = on the background.

    Returns:
        float32 (n, 2) x and y in pixels; int32 (n,) labels.

    Raises:
        PipelineError: there are none, or one is not x,y,label inside the image.
    """
    remedy = 'write clicks such as "120,80,1;10,10,0" into the manifest\'s points column'
    if not text.strip():
        raise PipelineError("no points in the manifest", remedy=remedy)
    try:
        rows = [[float(v) for v in click.split(",")] for click in text.split(";") if click.strip()]
        x, y, label = np.array(rows, dtype=np.float32).T
    except ValueError:
        raise PipelineError(f"points {text!r} are not x,y,label", remedy=remedy) from None
    inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    if not (inside.all() and np.isin(label, (0, 1)).all()):
        raise PipelineError(
            f"points {text!r} do not lie inside the {width} x {height} image, "
            "or a label is not 0 or 1",
            remedy=remedy,
        )
    return np.stack([x, y], axis=1), label.astype(np.int32)


def center_box(width: int, height: int, share: float) -> np.ndarray:
    """Return the box in the middle of the image that spans `share` of each side; float32 (4,)."""
    margin = (1 - share) / 2
    box = [width * margin, height * margin, width * (1 - margin), height * (1 - margin)]
    return np.array(box, dtype=np.float32)


def zoom_region(box: Sequence[float] | np.ndarray, zoom: float, width: int, height: int) -> Region:
    """Return the region of `zoom` times the box around its centre, cut at the image borders.

    Args:
        box: x0, y0, x1, y1 in pixels.
        zoom: factor for both sides; 0 means the whole image, values below 1 count as 1.
        width: of the image, pixels.
        height: of the image, pixels.
    """
    if not zoom:
        return 0, 0, width, height
    x0, y0, x1, y1 = (float(v) for v in box)
    grow = max(zoom, 1.0) / 2
    cx, cy, half_w, half_h = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) * grow, (y1 - y0) * grow
    left, top = max(0, math.floor(cx - half_w)), max(0, math.floor(cy - half_h))
    right, bottom = min(width, math.ceil(cx + half_w)), min(height, math.ceil(cy + half_h))
    return left, top, right, bottom


def crop_region(image: np.ndarray, region: Region) -> np.ndarray:
    """Return the part of an image inside a region, contiguous."""
    x0, y0, x1, y1 = region
    return np.ascontiguousarray(image[y0:y1, x0:x1])


def paste_region(mask: np.ndarray, region: Region, height: int, width: int) -> np.ndarray:
    """Return the mask of a region as a bool (height, width) mask that is False elsewhere."""
    x0, y0, x1, y1 = region
    if mask.shape == (height, width):
        return mask
    full = np.zeros((height, width), dtype=bool)
    full[y0:y1, x0:x1] = mask
    return full
