"""SAM2 asked everywhere: a grid of clicks, the best masks scored, thinned out and merged."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.segment.predictor import BatchPredictor, Prompt
from pipeline.segment.quality import border_share, stability_score
from pipeline.segment.strategies.base import Found, Look, Strategy

NMS_IOU = 0.7
"""Two masks that overlap by more are the same object (as in SAM's automatic generator)."""
KEEP_SHARE = 0.9
"""Masks that score at least this share of the best one are merged with it (two lungs, say)."""
MAX_MERGED = 4
DECODE_AT_ONCE = 256
"""Prompts per pass of the decoder, to bound its memory."""


class Auto(Strategy):
    """Automatic masks in the manner of SAM's generator, with a prior for one salient region.

    Each of grid x grid clicks gives three masks. A mask's score is predicted IoU x stability x
    prior; the prior is (1 - share of the image's border it covers)^2, since a background mask hugs
    the border, and 0 outside the area limits, which drops specks and full-frame masks. After
    non-maximum suppression, the best mask and those nearly as good are merged.
    """

    name = "auto"

    def parameters(self) -> dict[str, Any]:
        return {
            "grid": self.params.grid,
            "min_area": self.params.min_area,
            "max_area": self.params.max_area,
            "nms_iou": NMS_IOU,
            "keep_share": KEEP_SHARE,
            "max_merged": MAX_MERGED,
        }

    def segment(self, looks: list[Look], sam: BatchPredictor) -> list[Found]:
        embedding = sam.embed([look.frame for look in looks])
        clicks = self.params.grid**2
        per_pass = max(1, DECODE_AT_ONCE // clicks)
        results = []
        for start in range(0, len(looks), per_pass):
            part = looks[start : start + per_pass]
            prompts = [p for look in part for p in self.clicks(look)]
            sizes = [look.frame_size for look in part for _ in range(clicks)]
            index = [start + i for i in range(len(part)) for _ in range(clicks)]
            logits, ious = sam.decode(embedding, prompts, sizes, index=index, multimask=True)
            for i, look in enumerate(part):
                own = slice(i * clicks, (i + 1) * clicks)
                results.append(self.merge(look, sam, logits[own].flatten(0, 1), ious[own].ravel()))
        return results

    def clicks(self, look: Look) -> list[Prompt]:
        """One click in the middle of each cell of the grid."""
        middles = (np.arange(self.params.grid, dtype=np.float32) + 0.5) / self.params.grid
        label = np.ones(1, np.int32)
        return [
            Prompt(np.array([[x * look.width, y * look.height]], np.float32), label)
            for y in middles
            for x in middles
        ]

    def merge(
        self, look: Look, sam: BatchPredictor, logits: torch.Tensor, ious: np.ndarray
    ) -> Found:
        """Merge the best of k candidate masks, logits (k, s, s) and predicted IoU (k,)."""
        threshold = sam.predictor.mask_threshold
        low_res = logits.cpu().numpy()
        masks, stability = low_res > threshold, stability_score(low_res, threshold)
        scores = ious * stability * prior(masks, self.params.min_area, self.params.max_area)
        chosen = choose(masks, scores)
        if not chosen:
            empty = np.zeros((look.height, look.width), bool)
            return Found(empty, 0.0, 0.0, f"auto {self.params.grid}x{self.params.grid}: no mask")
        full = sam.upsample(logits[chosen], look.height, look.width).any(axis=0)
        words = f"auto {self.params.grid}x{self.params.grid}: {len(chosen)} merged"
        return Found(full, float(ious[chosen].mean()), float(stability[chosen].mean()), words)


def prior(masks: np.ndarray, min_area: float, max_area: float) -> np.ndarray:
    """How much a bool (k, h, w) mask looks like an object rather than the background; (k,)."""
    area = masks.mean(axis=(-2, -1))
    return np.where((area >= min_area) & (area <= max_area), (1 - border_share(masks)) ** 2, 0.0)


def choose(masks: np.ndarray, scores: np.ndarray) -> list[int]:
    """Non-maximum suppression, then the best mask and those scored nearly as high.

    Args:
        masks: bool (k, h, w).
        scores: (k,); a score of 0 is never chosen.

    Returns:
        Indices, best first; ties go to the earlier mask.
    """
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    areas = flat.sum(axis=1)
    best = scores.max(initial=0.0)
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] <= 0 or scores[i] < KEEP_SHARE * best or len(kept) == MAX_MERGED:
            break
        overlap = flat[kept] @ flat[i]
        if (overlap <= NMS_IOU * (areas[kept] + areas[i] - overlap)).all():
            kept.append(int(i))
    return kept
