"""Zero-shot classification: the nearest class prompt (Radford et al. 2021, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from pipeline.heads.base import l2_normalise, softmax
from pipeline.heads.registry import register

if TYPE_CHECKING:
    from pipeline.config import TrainParams


@register("zero-shot")
class ZeroShot:
    """softmax(scale * cos(I, T)): no label is used, so there is one row per test set.

    Args:
        scale: the inverse temperature; CLIP's own is clipped at 100 in training. It moves the
            probabilities (ECE, Brier), never the predicted class.
    """

    name: ClassVar[str]
    needs_labels: ClassVar[bool] = False
    parameters: ClassVar[tuple[str, ...]] = ("zero_shot_scale",)

    def __init__(self, scale: float = 100.0):
        self.scale = scale
        self.chosen: dict[str, Any] = {}
        self.val_score: float | None = None

    @classmethod
    def from_params(cls, params: TrainParams, *, seed: int) -> Self:
        return cls(params.zero_shot_scale)

    def fit(self, X=None, y=None, *, T: np.ndarray, X_val=None, y_val=None) -> Self:
        """Keep the text features (C, d); images and labels are ignored."""
        self.text_ = l2_normalise(T)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return float32 (n, C) for image features (n, d)."""
        return softmax(np.float32(self.scale) * (l2_normalise(X) @ self.text_.T))

    def to_tensors(self) -> dict[str, np.ndarray]:
        return {"text": self.text_}

    def to_config(self) -> dict[str, Any]:
        return {"scale": self.scale}

    @classmethod
    def from_saved(cls, tensors: dict[str, np.ndarray], config: dict[str, Any]) -> Self:
        head = cls(config["scale"])
        head.text_ = tensors["text"]
        return head
