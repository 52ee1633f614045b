"""Automatic masks: a grid of clicks, whose best masks are scored, deduplicated and merged."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.segment.predictor import Prompt
from pipeline.segment.quality import border_share, stability_score
from pipeline.segment.strategies.base import MaskResult, PreparedImage, Strategy

NMS_IOU = 0.7
"""Two masks with a larger IoU are the same object (as in SAM's automatic mask generator)."""
KEEP_SHARE = 0.9
"""Masks that score at least this share of the best score are merged with it (e.g. two lungs)."""
MAX_MERGED = 4
DECODER_BATCH = 256
"""Prompts per pass of the decoder, to bound its memory."""


class Auto(Strategy):
    """Automatic masks similar to SAM's generator, with a prior for one salient region.

    Each of grid x grid clicks gives three masks. The score of a mask is predicted IoU x stability
    x prior. The prior is (1 - share of the image border that the mask covers)^2, since background
    masks touch the border, and 0 outside the area limits, which removes specks and full-frame
    masks. After non-maximum suppression the best mask and those nearly as good are merged.
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

    def segment(self, prepared: list[PreparedImage]) -> list[MaskResult]:
        embedding = self.sam2.embed([one.frame for one in prepared])
        clicks = self.params.grid**2
        per_pass = max(1, DECODER_BATCH // clicks)
        results = []
        for start in range(0, len(prepared), per_pass):
            part = prepared[start : start + per_pass]
            prompts = [prompt for one in part for prompt in self.clicks(one)]
            sizes = [one.frame_size for one in part for _ in range(clicks)]
            index = [start + i for i in range(len(part)) for _ in range(clicks)]
            logits, ious = self.sam2.decode(embedding, prompts, sizes, index=index, multimask=True)
            for i, one in enumerate(part):
                own = slice(i * clicks, (i + 1) * clicks)
                results.append(self.merge(one, logits[own].flatten(0, 1), ious[own].ravel()))
        return results

    def clicks(self, one: PreparedImage) -> list[Prompt]:
        """Return one click in the middle of each cell of the grid."""
        middles = (np.arange(self.params.grid, dtype=np.float32) + 0.5) / self.params.grid
        label = np.ones(1, np.int32)
        return [
            Prompt(np.array([[x * one.width, y * one.height]], np.float32), label)
            for y in middles
            for x in middles
        ]

    def merge(self, one: PreparedImage, logits: torch.Tensor, ious: np.ndarray) -> MaskResult:
        """Merge the best of k candidate masks.

        Args:
            one: the image.
            logits: float32 (k, s, s).
            ious: float32 (k,) predicted IoU.
        """
        threshold = self.sam2.predictor.mask_threshold
        low_res = logits.cpu().numpy()
        masks, stability = low_res > threshold, stability_score(low_res, threshold)
        scores = ious * stability * prior(masks, self.params.min_area, self.params.max_area)
        chosen = choose(masks, scores)
        text = f"auto {self.params.grid}x{self.params.grid}"
        if not chosen:
            empty = np.zeros((one.height, one.width), bool)
            return MaskResult(empty, 0.0, 0.0, f"{text}: no mask")
        full = self.sam2.upsample(logits[chosen], one.height, one.width).any(axis=0)
        return MaskResult(
            full,
            float(ious[chosen].mean()),
            float(stability[chosen].mean()),
            f"{text}: {len(chosen)} merged",
        )


def prior(masks: np.ndarray, min_area: float, max_area: float) -> np.ndarray:
    """Return how likely each bool (k, h, w) mask is an object, not the background; (k,)."""
    area = masks.mean(axis=(-2, -1))
    return np.where((area >= min_area) & (area <= max_area), (1 - border_share(masks)) ** 2, 0.0)


def choose(masks: np.ndarray, scores: np.ndarray) -> list[int]:
    """Return the best mask and those with nearly its score, after non-maximum suppression.

    Args:
        masks: bool (k, h, w).
        scores: (k,); a mask with score 0 is never chosen.

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
