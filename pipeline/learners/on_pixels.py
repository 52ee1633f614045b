"""Training of networks on the frames of a view, as `visual-prompt` and `fine-tuned` share it."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
import torch
import torch.nn.functional as nnf
from pydantic import Field
from torch import Generator, Tensor, nn

from pipeline.config import Fractions, Seeds
from pipeline.encode.mapper import normalise
from pipeline.encode.pixels import Pixels
from pipeline.learners.base import Samples, accuracy, in_content_order, softmax
from pipeline.learners.fine_tuned import FineTuned, FineTunedParams


class OnPixelsParams(FineTunedParams):
    """Training with AdamW on images; of fewer seeds and fractions than other learners."""

    seeds: Seeds | None = (0, 1, 2)
    """Instead of train.seeds."""
    fractions: Fractions | None = (0.05, 0.2, 1.0)
    """Instead of splits.fractions."""
    epochs: int = Field(10, ge=1)
    """Largest number of epochs; without a validation part all of them are run."""
    patience: int = Field(3, ge=1)
    """Epochs without a better validation result after which training stops."""
    epoch_images: int = Field(320, ge=1)
    """Largest number of images in one epoch, drawn anew each time: with epochs and batch_size it
    bounds the number of steps, however many images there are."""
    batch_size: int = Field(32, ge=1)
    """Images in one step; a smaller last batch is used too."""
    augment: bool = False
    """Whether training images are flipped, turned, shifted and changed in contrast at random."""


class OnPixels(FineTuned):
    """A learner that trains a network on frames of the run's view.

    The fitted arrays are the state of the network, `<name>_`, and `order_`, the order of the
    classes of its logits. `seed` decides initial weights, augmentation, dropout and the order of
    images; on one thread the same bits follow, whatever images and classes are called.
    """

    needs = frozenset({"pixels"})
    joins = False
    not_counted = frozenset({"text_", "order_", "shift_", "scale_"})
    half = False
    """Whether matrices of the network are kept as float16."""

    def build(self, samples: Samples) -> nn.Module:
        """Return the network: normalised images (n, 3, s, s) to logits (n, C), with attributes
        `mean` and `std`. What is no trained or fitted part of it is in no state of it."""
        raise NotImplementedError

    def begin(self, network: nn.Module, train: Samples) -> None:
        """Set the state of the network before training."""
        raise NotImplementedError

    def fit(self, train: Samples, val: Samples) -> Self:
        """Train on the training part; keep the epoch that the validation part prefers.

        Raises:
            DivergedError: the loss or a parameter is infinite or NaN.
        """
        ordered, ordered_val, self.order_ = in_content_order(train, val)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = self.build(ordered)
            self.begin(network, ordered)

            def logits(rows: Tensor) -> Tensor:
                # Gradients are wanted of training images only; see `minimise`.
                if not torch.is_grad_enabled():
                    return self._logits(network.eval(), ordered_val.pixels, rows)
                images = _images(network, ordered.pixels, rows)
                return network.train()(augmented(images) if self.params.augment else images)

            parts = ((np.arange(len(part)), part.y) for part in (ordered, ordered_val))
            rng = Generator().manual_seed(self.seed)
            self.chosen["epoch"] = self.minimise([*_state(network).values()], logits, *parts, rng)
        for name, value in _state(network).items():
            array = value.detach().numpy()
            kept = np.float16 if self.half and array.ndim > 1 else array.dtype
            setattr(self, f"{name}_", array.astype(kept))
        if len(val):
            unlabelled = replace(val, y=val.y[:0])
            self.val_score = accuracy(self.predict_proba(unlabelled), val.y)
        return self

    @property
    def images_per_epoch(self) -> int:
        return self.params.epoch_images

    def predict_proba(self, samples: Samples) -> np.ndarray:
        """Return class probabilities, float32 (n, C)."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            network = self.build(samples).eval()
            for name, value in _state(network).items():
                value.copy_(torch.from_numpy(getattr(self, f"{name}_")))
            logits = self._logits(network, samples.pixels, torch.arange(len(samples)))
        return softmax(logits.numpy()[:, np.argsort(self.order_)])

    def _logits(self, network: nn.Module, pixels: Pixels, rows: Tensor) -> Tensor:
        parts = rows.split(self.params.batch_size)
        return torch.cat([network(_images(network, pixels, part)) for part in parts])


def _images(network: nn.Module, pixels: Pixels, rows: Tensor) -> Tensor:
    return normalise(pixels[rows.numpy()], network.mean, network.std)


def _state(network: nn.Module) -> dict[str, Tensor]:
    """Return parameters and statistics by name; changes in place are changes of the network."""
    kept = set(network.state_dict())
    found = (*network.named_parameters(), *network.named_buffers())
    return {name: value for name, value in found if name in kept and value.is_floating_point()}


def augmented(images: Tensor) -> Tensor:
    """Return images (n, 3, s, s) that are each mirrored or not, turned by up to 10 degrees, shifted
    by up to 5 % of a side, and changed in contrast by up to 20 %; torch's seed decides."""
    n = len(images)
    mirror = torch.randint(0, 2, (n,)) * 2.0 - 1
    angle, dx, dy, contrast = torch.rand(4, n) * 2 - 1
    sin, cos = torch.sin(torch.deg2rad(10 * angle)), torch.cos(torch.deg2rad(10 * angle))
    # Coordinates of affine_grid go from -1 to 1: 0.1 is 5 % of a side.
    rows = [mirror * cos, -sin, 0.1 * dx], [mirror * sin, cos, 0.1 * dy]
    matrix = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = nnf.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = nnf.grid_sample(images, grid, padding_mode="border", align_corners=False)
    middle = moved.mean(dim=(1, 2, 3), keepdim=True)
    return middle + (moved - middle) * (1 + 0.2 * contrast.view(n, 1, 1, 1))
