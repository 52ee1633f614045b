"""The sample of images of the prompt benchmark and the reference prompts made from ground truth.

The prompts are those that a careful user would draw. No other stage uses any of these.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
from scipy import ndimage

from pipeline.segment.quality import bounding_box

ELLIPSE = "box-ellipse"
"""The floor of a box prompt: the ellipse inside the same box, without a model."""


def reference_prompts(truth: np.ndarray, jitter: float, seed: str) -> tuple[np.ndarray, str, str]:
    """Return the box around a mask, the same box as text and one click as text.

    Args:
        truth: bool (h, w), not empty.
        jitter: each edge of the box is moved by up to this share of the side of the box.
        seed: any text; decides the moves.

    Returns:
        float64 (4,) box, "x0,y0,x1,y1", "x,y,1", in pixels, as the manifest has them.
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
    """Move each edge of a box by up to `amount` of its side, within the image.

    Args:
        box: x0, y0, x1, y1 in pixels.
        amount: 0.1 moves an edge by at most a tenth of the side, uniformly.
        rng: draws the four moves.
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
    """Return x, y of the pixel farthest from the edge of a mask, where a user would click.

    Args:
        mask: bool (h, w), not empty.
    """
    x0, y0, x1, y1 = bounding_box(mask)
    depth = ndimage.distance_transform_edt(np.pad(mask[y0:y1, x0:x1], 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return x0 + int(x), y0 + int(y)


def ellipse(box: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the ellipse inside a box (x0, y0, x1, y1) as a bool (height, width) mask."""
    x0, y0, x1, y1 = box
    y, x = np.arange(height)[:, None] + 0.5, np.arange(width)[None, :] + 0.5
    squared = ((x - (x0 + x1) / 2) / ((x1 - x0) / 2)) ** 2
    return squared + ((y - (y0 + y1) / 2) / ((y1 - y0) / 2)) ** 2 <= 1


def truth_sample(manifest: pd.DataFrame, images: int, seed: int) -> pd.DataFrame:
    """Draw images whose ground-truth mask is not empty.

    The test part of the dataset comes first, since the weights may have seen masks of the rest;
    other images fill up the sample. Each part is drawn in proportion to its classes. The draw
    depends on the bytes of the images and the seed alone, not on the order or names of the rows.

    Args:
        manifest: from `read_manifest`.
        images: size of the sample; 0 takes all.
        seed: of the draw.

    Returns:
        The rows, in the order of the manifest; all that exist if these are fewer.
    """
    # An area that was not counted ("") is checked when the mask is read.
    candidates = manifest[(manifest["mask_path"] != "") & (manifest["mask_area"] != "0")]
    if not images or images >= len(candidates):
        return candidates
    rank = {
        row.Index: hashlib.sha256(f"{seed}\n{row.sha256}#{row.frame}".encode()).hexdigest()
        for row in candidates.itertuples()
    }
    chosen: list = []
    test = candidates["split"] == "test"
    for part in (candidates[test], candidates[~test]):
        for label, count in class_quotas(part["label"], images - len(chosen)).items():
            rows = part.index[part["label"] == label]
            chosen += sorted(rows, key=lambda i: (rank[i], part.at[i, "image_id"]))[:count]
    return candidates.loc[sorted(chosen)]


def class_quotas(labels: pd.Series, total: int) -> dict[str, int]:
    """Distribute `total` over the classes in proportion to their size (largest remainder).

    A class gets at most its size, and at least one while there are as many to give as classes.
    """
    counts = labels.value_counts().sort_index()
    total = min(total, len(labels))
    if not total:
        return {}
    exact = counts * (total / len(labels))
    quota = exact.astype(int)
    if total >= len(counts):
        quota = quota.clip(lower=1)
    for label in (exact - quota).sort_values(ascending=False, kind="stable").index:
        if quota.sum() < total and quota[label] < counts[label]:
            quota[label] += 1
    while quota.sum() > total:  # raising small classes to one took from the largest
        quota[quota.idxmax()] -= 1
    return {str(label): int(n) for label, n in quota.items()}
