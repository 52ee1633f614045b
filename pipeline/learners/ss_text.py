"""SS-Text: class weights in closed form from images and texts (Silva-Rodríguez et al. 2025)."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field

from pipeline.learners.base import LearnerParams, Samples, accuracy, l2_normalise, register, softmax
from pipeline.learners.tuned import Tuned, one_hot, unit


class SsTextParams(LearnerParams):
    """SS-Text; nothing is tuned."""

    scale: float = Field(100.0, gt=0)
    """1 / tau: inverse temperature, as of CLIP."""
    plus: bool = True
    """SS-Text+, made for imbalanced classes; false: SS-Text."""


@register("ss-text")
class SsText(Tuned):
    """softmax(scale * cos(f, w)), where w is the minimum of a linear loss near the texts t.

        w_c = argmin -1/N sum_{i of c} f_i w_c / tau + lambda_c / 2 |w_c - t_c|^2
            = t_c + 1 / (N lambda_c tau) sum_{i of c} f_i

    SS-Text (Silva-Rodríguez et al. 2025, Full Conformal Adaptation, IPMI): lambda_c = 1 / N.
    SS-Text+ (Silva-Rodríguez et al. 2025, Few-Shot, Now for Real, MICCAI): lambda_c = 1 / N_c, with
    N_c images of class c; then the direction of 2 w_c - mean(w), made length 1, is taken off w_c.
    No lambda is below 0.001. As in the authors' code, jusiro/SS-Text.
    """

    Parameters = SsTextParams

    def fit(self, train: Samples, val: Samples) -> Self:
        """Compute the class weights; the validation part is not read but for its score.

        Raises:
            DivergedError: a feature is not finite.
        """
        F, _, text = unit(train, val)
        y = one_hot(train.y, len(text)).astype(np.float64)
        size = np.maximum(y.sum(axis=0), 1) if self.params.plus else np.full(len(text), len(F))
        weight = 1 / (len(F) * np.maximum(1 / size, 1e-3))
        w = text + self.params.scale * weight[:, None] * (y.T @ F)
        if self.params.plus:
            away = 2 * w - w.mean(axis=0)
            w = w - away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
        self.weights_ = l2_normalise(w)
        self.val_score = accuracy(self.predict_proba(val), val.y) if len(val) else None
        return self

    def predict_proba(self, samples: Samples) -> np.ndarray:
        """Return class probabilities, float32 (n, C)."""
        return softmax(self.params.scale * (l2_normalise(samples.X) @ self.weights_.T))
