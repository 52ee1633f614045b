"""Zero-shot classification by the nearest class prompt (Radford et al. 2021, section 3.1)."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field

from pipeline.learners.base import Learner, LearnerParams, Samples, l2_normalise, register, softmax


class ZeroShotParams(LearnerParams):
    """Zero-shot classification."""

    scale: float = Field(100.0, gt=0)
    """Inverse temperature in softmax(scale * cosine). CLIP clips its own at 100 in training. It
    changes probabilities (ECE, Brier score), never the predicted class."""


@register("zero-shot")
class ZeroShot(Learner):
    """softmax(scale * cos(I, T)). No label is used."""

    Parameters = ZeroShotParams
    needs_labels = False

    def fit(self, train: Samples, val: Samples) -> Self:
        """Keep the text features; images and labels are not read."""
        self.text_ = l2_normalise(train.text)
        return self

    def predict_proba(self, samples: Samples) -> np.ndarray:
        """Return class probabilities, float32 (n, C)."""
        return softmax(np.float32(self.params.scale) * (l2_normalise(samples.X) @ self.text_.T))
