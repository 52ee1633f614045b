"""Nearest prototype: the class whose mean image is closest (Snell et al. 2017)."""

from __future__ import annotations

from typing import Self

import numpy as np

from pipeline.learners.base import (
    LearnerParams,
    Samples,
    check_finite,
    l2_normalise,
    register,
    softmax,
)
from pipeline.learners.tuned import Grid, Tuned, one_hot


class NearestPrototypeParams(LearnerParams):
    """Nearest prototype."""

    scale: Grid = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    """Candidates for the inverse temperature. It changes probabilities, never the class."""


@register("nearest-prototype")
class NearestPrototype(Tuned):
    """softmax(-scale * |f - p_c|^2), where p_c is the mean of f over the training images of c.

    Snell et al. 2017 (Prototypical Networks), section 2.2: prototypes are class means of
    embeddings, probabilities a softmax over negative squared Euclidean distances. The embedding f
    is CL2N of Wang et al. 2019 (SimpleShot), section 3: the mean feature of the training part is
    taken off, then the length is made 1. A class without training images has probability 0.
    """

    Parameters = NearestPrototypeParams
    not_counted = Tuned.not_counted | {"mean_", "absent_"}
    needs_text = False

    def fit(self, train: Samples, val: Samples) -> Self:
        """Take the class means; the validation part chooses the temperature alone.

        Raises:
            DivergedError: a feature is not finite.
        """
        check_finite("a feature of the training or validation part", train.X, val.X)
        self.mean_ = train.X.mean(axis=0, dtype=np.float64)
        member = one_hot(train.y, len(train.text))
        count = member.sum(axis=0)
        self.prototypes_ = member.T @ l2_normalise(train.X - self.mean_)
        self.prototypes_ /= np.maximum(count, 1)[:, None]
        self.absent_ = count == 0
        self.choose(val, lambda scale: self._proba(val, scale), scale=self.params.scale)
        return self

    def predict_proba(self, samples: Samples) -> np.ndarray:
        """Return class probabilities, float32 (n, C)."""
        return self._proba(samples, self.scale_.item())

    def _proba(self, samples: Samples, scale: float) -> np.ndarray:
        f, p = l2_normalise(samples.X - self.mean_), self.prototypes_
        distance = (f**2).sum(axis=1)[:, None] - 2 * f @ p.T + (p**2).sum(axis=1)
        return softmax(np.where(self.absent_, -np.inf, -scale * distance))
