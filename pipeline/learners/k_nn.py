"""k-NN: a vote of the most similar training images (Wu et al. 2018, section 3.4)."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from pydantic import Field

from pipeline.config import EachOnce
from pipeline.learners.base import LearnerParams, Samples, l2_normalise, register
from pipeline.learners.tuned import Tuned, unit


class KnnParams(LearnerParams):
    """k-NN; its k is chosen on the validation part."""

    k: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=7), EachOnce
    ] = (1, 2, 3, 5, 9, 17, 33)
    """Candidates for the number of neighbours; where there are fewer images, all of them."""
    temperature: float = Field(0.07, gt=0)
    """tau in the weight exp(cosine / tau) of a neighbour's vote."""


@register("k-nn")
class Knn(Tuned):
    """p(c) is the share of class c in the votes of the k nearest images, weighted exp(cos / tau).

    Wu et al. 2018 (Instance Discrimination), section 3.4, where tau is 0.07 and k is 200. Weights
    also break the ties of a plain vote. Training features are kept in half precision.
    """

    Parameters = KnnParams
    not_counted = Tuned.not_counted | {"keys_", "labels_"}
    needs_text = False

    def fit(self, train: Samples, val: Samples) -> Self:
        """Keep the training images and choose k on the validation part.

        Raises:
            DivergedError: a feature is not finite.
        """
        images, _, _ = unit(train, val)
        self.keys_, self.labels_ = images.astype(np.float16), train.y.copy()
        nearest = self._nearest(val)
        self.choose(val, lambda k: self._vote(*nearest, k), k=self.params.k)
        return self

    def predict_proba(self, samples: Samples) -> np.ndarray:
        """Return class probabilities, float32 (n, C)."""
        return self._vote(*self._nearest(samples), self.k_.item())

    def _nearest(self, samples: Samples) -> tuple[np.ndarray, np.ndarray, int]:
        """Return cosines and classes of the most similar images, both (n, k), the most similar
        first; and the number of classes."""
        cosine = l2_normalise(samples.X) @ self.keys_.astype(np.float32).T
        order = np.argsort(-cosine, axis=1, kind="stable")[:, : max(self.params.k)]
        return np.take_along_axis(cosine, order, axis=1), self.labels_[order], len(samples.text)

    def _vote(self, cosine: np.ndarray, label: np.ndarray, n_classes: int, k: int) -> np.ndarray:
        """Return the shares of the classes in the votes of the first k images, (n, C)."""
        weight = np.exp((cosine[:, :k].astype(np.float64) - 1) / self.params.temperature)
        votes = [(weight * (label[:, :k] == c)).sum(axis=1) for c in range(n_classes)]
        return (np.stack(votes, axis=1) / weight.sum(axis=1)[:, None]).astype(np.float32)
