"""CLIP-Adapter: a small network on the image features, mixed with them (Gao et al. 2024)."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
import torch.nn.functional as nnf
from pydantic import Field
from torch import Generator, Tensor

from pipeline.learners.base import Samples, l2_normalise, register, softmax
from pipeline.learners.fine_tuned import FineTuned, FineTunedParams
from pipeline.learners.tuned import Grid, unit


class ClipAdapterParams(FineTunedParams):
    """CLIP-Adapter; its ratio is chosen on the validation part."""

    scale: float = Field(100.0, gt=0)
    """Inverse temperature of the logits, as of CLIP."""
    ratio: Grid = (0.1, 0.2, 0.4, 0.8)
    """Candidates for the share of the adapter in the mixed feature; each is trained."""
    reduction: int = Field(4, ge=1)
    """The bottleneck is so many times narrower than the features."""
    epochs: int = Field(50, ge=1)
    """Largest number of epochs; without a validation part all of them are run."""
    batch_size: int = Field(64, ge=1)
    """Images in one step; a smaller last batch is used too."""


@register("clip-adapter")
class ClipAdapter(FineTuned):
    """softmax(scale * cos(f*, T)), with f* = ratio * ReLU(ReLU(f W1) W2) + (1 - ratio) * f.

    Gao et al. 2024 (CLIP-Adapter, IJCV; arXiv 2110.04544), section 3.2, with the adapter on image
    features only, which the paper uses for its main results, and the second ReLU of the authors'
    code. Only W1 (d, h) and W2 (h, d) are trained; h = d / reduction, without biases. f has length
    1, which changes nothing: f* is proportional to f, and a cosine does not see its length. The
    paper takes its ratio for each dataset from a search; 0.2, the middle, is that of its code.
    """

    Parameters = ClipAdapterParams

    def fit(self, train: Samples, val: Samples) -> Self:
        """Train an adapter at each ratio; keep that of the ratio that validation chooses.

        Raises:
            DivergedError: a feature or the loss is not finite.
        """
        images, images_val, self.text_ = unit(train, val)
        parts, trained = ((images, train.y), (images_val, val.y)), {}

        def train_at(ratio: float) -> None:
            rng = Generator().manual_seed(self.seed)
            weights = first_weights(images.shape[1], self.params.reduction, rng)
            epoch = self.minimise(weights, lambda f: self._logits(f, *weights, ratio), *parts, rng)
            trained[ratio] = epoch, [weight.detach() for weight in weights]

        def predict(ratio: float) -> np.ndarray:
            train_at(ratio)
            return softmax(self._logits(torch.from_numpy(images_val), *trained[ratio][1], ratio))

        self.choose(val, predict, ratio=self.params.ratio)
        ratio = self.chosen["ratio"]
        if not trained:
            train_at(ratio)
        self.chosen["epoch"], (down, up) = trained[ratio]
        self.down_, self.up_ = down.numpy(), up.numpy()
        return self

    def predict_proba(self, samples: Samples) -> np.ndarray:
        """Return class probabilities, float32 (n, C)."""
        arrays = l2_normalise(samples.X), self.down_, self.up_
        return softmax(self._logits(*map(torch.from_numpy, arrays), self.ratio_.item()))

    def _logits(self, f: Tensor, down: Tensor, up: Tensor, ratio: float) -> Tensor:
        mixed = ratio * torch.relu(torch.relu(f @ down) @ up) + (1 - ratio) * f
        return self.params.scale * (nnf.normalize(mixed, dim=1) @ torch.from_numpy(self.text_).T)


def first_weights(d: int, reduction: int, rng: Generator) -> list[Tensor]:
    """Return W1 (d, h) and W2 (h, d) before training: uniform within 1 / sqrt(rows), as torch
    starts a linear layer; h is at least 1."""
    h = max(d // reduction, 1)
    drawn = (torch.rand(shape, generator=rng) for shape in ((d, h), (h, d)))
    return [((2 * w - 1) / w.shape[0] ** 0.5).requires_grad_() for w in drawn]
