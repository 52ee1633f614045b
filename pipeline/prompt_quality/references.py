"""Prompts made from a ground-truth mask: what a careful user would draw. For judging only."""

from __future__ import annotations

import hashlib

import numpy as np
from scipy import ndimage

from pipeline.segment.quality import bounding_box

ELLIPSE = "box-ellipse"
"""The floor of a box prompt: the ellipse inside the same box, without a model."""


def reference_prompts(truth: np.ndarray, jitter: float, seed: str) -> tuple[np.ndarray, str, str]:
    """Return the box around a mask, and that box and one click as a manifest has them.

    Args:
        truth: bool (h, w), not empty.
        jitter: every edge of the box is moved by up to this share of the box's side.
        seed: text that decides the moves.

    Returns:
        float64 (4,) box, "x0,y0,x1,y1", "x,y,1".
    """
    digest = hashlib.sha256(f"reference box\n{seed}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    tight = np.array(bounding_box(truth), dtype=np.float64)
    box = jitter_box(tight, jitter, rng, *truth.shape)
    x, y = deepest_point(truth)
    return box, ",".join(f"{v:.3f}" for v in box), f"{x + 0.5},{y + 0.5},1"


def jitter_box(
    box: np.ndarray, amount: float, rng: np.random.Generator, height: int, width: int
) -> np.ndarray:
    """Move every edge of a box by up to `amount` of the box's side, within the image.

    Args:
        box: x0, y0, x1, y1 in pixels.
        amount: 0.1 moves an edge by at most a tenth of the side, evenly spread.
        rng: source of the four moves.
        height: of the image.
        width: of the image.

    Returns:
        float64 (4,), at least one pixel wide and high.
    """
    sides = np.tile(box[2:] - box[:2], 2)
    x0, y0, x1, y1 = box + rng.uniform(-amount, amount, 4) * sides
    x0, y0 = np.clip(x0, 0, width - 1), np.clip(y0, 0, height - 1)
    return np.array([x0, y0, np.clip(x1, x0 + 1, width), np.clip(y1, y0 + 1, height)])


def deepest_point(mask: np.ndarray) -> tuple[int, int]:
    """Return x, y of the pixel farthest from a mask's edge: where one would click.

    Args:
        mask: bool (h, w), not empty.
    """
    x0, y0, x1, y1 = bounding_box(mask)
    depth = ndimage.distance_transform_edt(np.pad(mask[y0:y1, x0:x1], 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return x0 + int(x), y0 + int(y)


def ellipse(box: np.ndarray, height: int, width: int) -> np.ndarray:
    """Draw the ellipse inside a box (x0, y0, x1, y1), bool (height, width): what no model adds."""
    x0, y0, x1, y1 = box
    y, x = np.arange(height)[:, None] + 0.5, np.arange(width)[None, :] + 0.5
    reach = ((x - (x0 + x1) / 2) / ((x1 - x0) / 2)) ** 2
    return reach + ((y - (y0 + y1) / 2) / ((y1 - y0) / 2)) ** 2 <= 1
