"""What a store takes: items to be computed, and the rows that mappers make of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class WorkItem:
    """One image, or one frame of a file, that a store should hold.

    Args:
        image_id: the row's name in manifest and store.
        key: hash of everything about the row that decides its content: the image's sha256, frame,
            prompt columns, checksum of the mask. Items with the same key have the same content,
            so it must not depend on image_id or label.
        path: the image file.
        frame: frame or page within the file.
        row: the manifest's columns as text. Stores use `sha256`, `label`, `split`, `height` and
            `width`.
    """

    image_id: str
    key: str
    path: Path
    frame: int = 0
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MaskRow:
    """The mask of one image.

    Args:
        image_id: the image.
        mask: bool (h, w) at the image's own upright size.
        status: "ok", "empty" or "full"; empty and full masks are kept as results.
        prompt: the prompt as text, e.g. "box 10,12,80,90".
        predicted_iou, stability: SAM2's own scores in [0, 1]; NaN where there is none.
        components: number of connected regions; -1 = count them when written (8-connected).
        reason: a remark, e.g. why a fallback was used.
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
        image_id: the image.
        features: float32 (view, feature), views in the order of the writer; a view that does not
            exist for this image (oracle without ground truth) is all NaN.
        tokens: float32 (view, token, feature) when the store keeps tokens, else None.
        mask_status: status of the mask that the views were made with; "" = no mask used.
        mask_crc: checksum of that mask in the mask store; -1 = no mask used.
        reason: a remark, e.g. "mask empty: whole image used".
        status: "ok".
    """

    image_id: str
    features: np.ndarray
    tokens: np.ndarray | None = None
    mask_status: str = ""
    mask_crc: int = -1
    reason: str = ""
    status: str = "ok"
