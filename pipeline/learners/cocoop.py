"""CoCoOp: a learnt context that depends on the image (Zhou et al. 2022)."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor

from pipeline.config import Fractions, Seeds
from pipeline.learners.base import (
    Samples,
    accuracy,
    check_finite,
    in_content_order,
    register,
    softmax,
)
from pipeline.learners.coop import ContextParams, CoOp, first_context, sides
from pipeline.learners.prompts import ClassPrompts


class CoCoOpParams(ContextParams):
    """CoCoOp. Its own small grid, since a fit costs C passes of the text encoder for each image."""

    reduction: int = Field(16, ge=1)
    """The hidden layer of the meta-network is so many times narrower than the image feature."""
    epochs: int = Field(10, ge=1)
    """Largest number of epochs; without a validation part all of them are run."""
    batch_size: int = Field(8, ge=1)
    """Images in one step; a smaller last batch is used too."""
    fractions: Fractions | None = (0.05,)
    """Instead of splits.fractions; null: those."""
    seeds: Seeds | None = (0,)
    """Instead of train.seeds; null: those."""


@register("cocoop")
class CoCoOp(CoOp):
    """softmax(scale * cos(f, g(V_1 + h(f) ... V_M + h(f) words))): the context of each image.

    Zhou et al. 2022 (CoCoOp, CVPR; arXiv 2203.05557), section 3.2, equation 3. The meta-network is
    h(f) = W_2 ReLU(W_1 f + b_1) + b_2 of the image feature f of length 1 (in a joint view the mean
    of those of the views), with a hidden layer 16 times narrower. V, unified, and h are trained.

    Every image has prompts of its own: n images and C classes cost n C passes through g in an
    epoch, and as many to predict. What differs from the authors' code is as of CoOp; batches have 8
    images instead of 1, and b_1, b_2 start at zero.
    """

    Parameters = CoCoOpParams

    def fit(self, train: Samples, val: Samples) -> Self:
        """Train context and meta-network; keep those of the epoch that validation chooses.

        Raises:
            DivergedError: a feature or the loss is not finite.
            ModelError: the text tower cannot be loaded, or a prompt is too long for it.
        """
        train, val, _ = in_content_order(train, val)
        check_finite("a feature of the training or validation part", train.X, val.X)
        parts = [(self.images(p), p.y) for p in (train, val)]
        rng = Generator().manual_seed(self.seed)
        weights = [first_context(self.params, train.prompts.tower(), 1, rng)]
        weights += meta_network(parts[0][0].shape[1], weights[0].shape[2], self.params, rng)

        def logits(images: Tensor) -> Tensor:
            return self._logits(images, weights, train.prompts)

        self.chosen["epoch"] = self.minimise(weights, logits, *parts, rng)
        names = ("context_", "w1_", "b1_", "w2_", "b2_")
        vars(self).update(zip(names, (w.detach().numpy() for w in weights), strict=True))
        self.val_score = accuracy(self.predict_proba(val), val.y) if len(val) else None
        return self

    def predict_proba(self, samples: Samples) -> np.ndarray:
        """Return class probabilities, float32 (n, C)."""
        arrays = self.images(samples), self.context_, self.w1_, self.b1_, self.w2_, self.b2_
        images, *weights = map(torch.from_numpy, arrays)
        with torch.inference_mode():
            return softmax(self._logits(images, weights, samples.prompts).numpy())

    def _logits(self, images: Tensor, weights: list[Tensor], prompts: ClassPrompts) -> Tensor:
        context, w1, b1, w2, b2 = weights
        tower, n_classes = prompts.tower(), len(prompts.words)
        ids, places = tower.prompts(prompts.words, *sides(self.params, context.shape[1]))
        found = []
        for f in images.split(16):  # memory
            own = context + (torch.relu(f @ w1 + b1) @ w2 + b2)[:, None]
            each = own.repeat_interleave(n_classes, 0)
            text = tower.encode(ids.repeat(len(f), 1), places.repeat(len(f), 1), each)
            found.append((text.unflatten(0, (-1, n_classes)) @ f[:, :, None])[:, :, 0])
        return self.params.scale * torch.cat(found)


def meta_network(d: int, width: int, params: CoCoOpParams, rng: Generator) -> list[Tensor]:
    """Return W_1 (d, h), b_1, W_2 (h, width), b_2 before training: weights are uniform within
    1 / sqrt(rows), as torch starts a linear layer; h is at least 1."""
    h = max(d // params.reduction, 1)
    drawn = (torch.rand(shape, generator=rng) for shape in ((d, h), (h, width)))
    w1, w2 = ((2 * w - 1) / w.shape[0] ** 0.5 for w in drawn)
    return [w.requires_grad_() for w in (w1, torch.zeros(h), w2, torch.zeros(width))]
