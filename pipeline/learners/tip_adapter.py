"""Tip-Adapter: zero-shot logits plus those of cached training images (Zhang et al. 2022)."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field

from pipeline.learners.base import LearnerParams, Samples, l2_normalise, register, softmax
from pipeline.learners.tuned import Grid, Tuned, one_hot, unit


class TipAdapterParams(LearnerParams):
    """Tip-Adapter; alpha and beta are chosen on the validation part."""

    scale: float = Field(100.0, gt=0)
    """Inverse temperature of the zero-shot logits, as of CLIP."""
    alpha: Grid = (0.05, 0.2, 0.5, 1.0, 10.0, 100.0, 1000.0)
    """Candidates for the weight of the cache (the paper's residual ratio)."""
    beta: Grid = (0.5, 1.0, 2.5, 5.5, 12.5, 28.0, 64.0)
    """Candidates for the sharpness of the affinity."""


@register("tip-adapter")
class TipAdapter(Tuned):
    """softmax(alpha * A L + scale * f T'), with A = exp(-beta (1 - f F')).

    Zhang et al. 2022 (Tip-Adapter, ECCV), section 3.1. F are the training features (keys), L their
    one-hot classes (values), T the class texts, f an image; all rows have length 1. Nothing is
    trained. The middles of the grids, alpha = 1 and beta = 5.5, are the best of the paper's
    ablation on ImageNet. There a key is the mean over ten augmentations of an image, which cached
    features do not have. Keys are kept in half precision, as in the authors' code.
    """

    Parameters = TipAdapterParams
    not_counted = Tuned.not_counted | {"keys_", "labels_"}

    def fit(self, train: Samples, val: Samples) -> Self:
        """Keep the training images and choose alpha and beta on the validation part.

        Raises:
            DivergedError: a feature or a key is not finite.
        """
        images, _, self.text_ = unit(train, val)
        self.labels_ = train.y.copy()
        self.keys_ = self.make_keys(images, val).astype(np.float16)
        zero_shot, cosine = self._zero_shot(val), self._cosine(val)
        cache = {beta: self._cache(cosine, beta) for beta in self.params.beta}

        def predict(beta: float, alpha: float) -> np.ndarray:
            return softmax(zero_shot + alpha * cache[beta])

        self.choose(val, predict, beta=self.params.beta, alpha=self.params.alpha)
        return self

    def make_keys(self, images: np.ndarray, val: Samples) -> np.ndarray:
        """Return the keys (n, d) for the training images (n, d)."""
        return images

    def predict_proba(self, samples: Samples) -> np.ndarray:
        """Return class probabilities, float32 (n, C)."""
        cache = self._cache(self._cosine(samples), self.beta_.item())
        return softmax(self._zero_shot(samples) + self.alpha_.item() * cache)

    def _zero_shot(self, samples: Samples) -> np.ndarray:
        return self.params.scale * (l2_normalise(samples.X) @ self.text_.T)

    def _cosine(self, samples: Samples) -> np.ndarray:
        """Return the cosine of each image with each key, (n, keys)."""
        return l2_normalise(samples.X) @ self.keys_.astype(np.float32).T

    def _cache(self, cosine: np.ndarray, beta: float) -> np.ndarray:
        """Return the logits A L of the cache, (n, C)."""
        return np.exp(beta * (cosine - 1)) @ one_hot(self.labels_, len(self.text_))
