"""Training by gradient steps, as learners with a few trained parameters share it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as nnf
from pydantic import Field
from torch import Generator, Tensor

from pipeline.learners.base import DivergedError, LearnerParams, softmax
from pipeline.learners.tuned import Tuned, judge


class FineTunedParams(LearnerParams):
    """Training with AdamW."""

    learning_rate: float = Field(1e-3, gt=0)
    """Learning rate of AdamW, which falls to zero along a cosine."""
    weight_decay: float = Field(1e-2, ge=0)
    """Weight decay of AdamW."""
    epochs: int = Field(20, ge=1)
    """Largest number of epochs; without a validation part all of them are run."""
    patience: int = Field(10, ge=1)
    """Epochs without a better validation result after which training stops."""
    batch_size: int = Field(256, ge=1)
    """Images in one step; a smaller last batch is used too."""


class FineTuned(Tuned):
    """A learner some of whose arrays are trained with cross-entropy."""

    Parameters = FineTunedParams
    eps = 1e-8
    """Of AdamW."""
    images_per_epoch: int | None = None
    """Largest number of images in an epoch; None: all."""

    def minimise(
        self,
        weights: list[Tensor],
        logits: Callable[[Tensor], Tensor],
        train: tuple[np.ndarray, np.ndarray],
        val: tuple[np.ndarray, np.ndarray],
        rng: Generator,
    ) -> int:
        """Train weights in place; return the epoch whose weights they are left with.

        Args:
            weights: leaves; those that need no gradient (statistics) change in `logits` only.
            logits: of images (n, d), (n, C), as the weights are.
            train, val: images and classes of both parts.
            rng: decides the order of the images.

        Raises:
            DivergedError: the loss is infinite or NaN.
        """
        own = self.params
        (image, y), image_val = map(torch.from_numpy, train), torch.from_numpy(val[0])
        optimiser = torch.optim.AdamW(
            weights, own.learning_rate, eps=self.eps, weight_decay=own.weight_decay, fused=True
        )
        drawn = min(len(y), self.images_per_epoch or len(y))
        steps = own.epochs * -(-drawn // own.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        best, best_epoch, kept = (-np.inf, -np.inf), 0, []
        for epoch in range(1, own.epochs + 1):
            for rows in torch.randperm(len(y), generator=rng)[:drawn].split(own.batch_size):
                loss = nnf.cross_entropy(logits(image[rows]), y[rows])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
            if not all(torch.isfinite(one).all() for one in (loss, *weights)):
                raise DivergedError(f"the loss is {loss.item()} after epoch {epoch}")
            if not len(image_val):
                continue
            with torch.no_grad():
                judged = judge(softmax(logits(image_val).numpy()), val[1])
            if judged > best:
                best, best_epoch = judged, epoch
                kept = [weight.detach().clone() for weight in weights]
            elif epoch - best_epoch >= own.patience:
                break
        with torch.no_grad():
            for weight, value in zip(weights, kept, strict=False):
                weight.copy_(value)
        return best_epoch or own.epochs
