"""The rows that mappers hand to the writers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MaskRow:
    """One mask, as SAM2 gave it.

    Args:
        image_id: whose.
        mask: bool (h, w) at the image's own upright size.
        status: "ok" | "empty" | "full"; empty and full are recorded outcomes, the mask is kept.
        prompt: the prompt used, as text, e.g. "box 10,12,80,90".
        predicted_iou, stability: SAM2's own scores in [0, 1]; NaN where there is none.
        components: number of connected regions; -1 = let the writer count (8-connected).
        reason: a remark, e.g. why a fallback was taken.
    """

    image_id: str
    mask: np.ndarray
    status: str = "ok"
    prompt: str = ""
    predicted_iou: float = float("nan")
    stability: float = float("nan")
    components: int = -1
    reason: str = ""


@dataclass(frozen=True)
class FeatureRow:
    """The embeddings of one image.

    Args:
        image_id: whose.
        features: float32 (view, feature), views in the writer's order; a view that does not
            exist for this image (oracle without ground truth) is all NaN.
        tokens: float32 (view, token, feature) when the store keeps them, else None.
        mask_status: status of the mask that the views were made with ("" = none used).
        mask_crc: checksum of that mask, as the mask store has it (-1 = none used).
        reason: a remark, e.g. "mask empty: whole image used".
    """

    image_id: str
    features: np.ndarray
    tokens: np.ndarray | None = None
    mask_status: str = ""
    mask_crc: int = -1
    reason: str = ""
    status: str = "ok"
