"""What an adapter learns from: a few images with ground truth, drawn without their labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import ImageError
from pipeline.images import read_image, read_mask
from pipeline.models import Sam2ImagePredictor
from pipeline.splits.grouping import shuffled
from pipeline.store import WorkItem

MaskOf = Callable[[WorkItem, tuple[int, int]], np.ndarray]
"""Returns the mask of an item for an image of a shape, bool (h, w)."""
TURN, SCALE, SHIFT = 20.0, 0.25, 0.1
"""Largest rotation (degrees), change of scale (share) and shift (share of a side)."""
CONTRAST, BRIGHTNESS = 0.25, 0.25
"""Largest change of contrast (share) and brightness (standard deviations of the model's input)."""


def draw(candidates: Sequence[str], units: dict[str, str], shots: int, *salt: object) -> list[str]:
    """Return `shots` of the candidates (0: all), sorted: in random order, one image of each unit
    (patient, group, copies) before a second one of any. A larger number adds to a smaller one."""
    ids = np.array(sorted(candidates), object)
    order, seen = ids[shuffled(ids, "adapt", *salt)], Counter()
    turns = []
    for image_id in order:
        turns.append(seen[units[image_id]])
        seen[units[image_id]] += 1
    ranked = order[np.argsort(turns, kind="stable")]
    return sorted(ranked[: shots or None])


def true_mask(item: WorkItem, shape: tuple[int, int]) -> np.ndarray:
    """Return the ground truth of an item, bool (h, w)."""
    return read_mask(item.row["truth_file"], item.frame, shape=shape)


@dataclass(frozen=True)
class Examples:
    """n images as SAM2 sees them, uint8 (n, 3, s, s), and their masks, bool (n, s, s)."""

    images: Tensor
    masks: Tensor

    @classmethod
    def read(
        cls,
        items: Sequence[WorkItem],
        predictor: Sam2ImagePredictor,
        window: tuple[float, float] | None,
        mask_of: MaskOf = true_mask,
    ) -> Examples:
        """Read the images and masks of some items; `mask_of` gives that of an item and a shape.

        Raises ImageError if a file cannot be read, or a mask is empty.
        """
        side = predictor.image_size
        mean, std = _channels(predictor)
        images, masks = [], []
        for item in items:
            image = read_image(item.path, item.frame, window=window)
            mask = mask_of(item, image.shape[:2])
            if not mask.any():
                remedy = "run `pipeline data refresh` (empty masks are not learned from)"
                file = item.row["truth_file"]
                raise ImageError("the ground truth is empty", path=file, remedy=remedy)
            pixels = predictor._transforms(np.array(image)) * std + mean
            images.append((pixels * 255).round().clamp(0, 255).to(torch.uint8))
            area = torch.from_numpy(mask)[None, None].float()
            area = F.interpolate(area, (side, side), mode="area")
            masks.append(area[0, 0] >= 0.5)
        return cls(torch.stack(images), torch.stack(masks))

    def batch(
        self, predictor: Sam2ImagePredictor, seed: int, step: int, size: int
    ) -> tuple[Tensor, Tensor]:
        """Return an augmented batch: float32 images (size, 3, s, s), masks (size, 1, s, s).

        Each pass over the images has its own order. Masks are 0 or 1. Seed and step alone
        decide the batch, so that training continues where it was stopped.
        """
        n = len(self.images)
        places = range(step * size, (step + 1) * size)
        orders = {
            e: np.random.default_rng([seed, 0, e]).permutation(n) for e in {p // n for p in places}
        }
        rows = torch.tensor([int(orders[p // n][p % n]) for p in places])
        mean, std = _channels(predictor)
        images = (self.images[rows].float() / 255 - mean) / std
        rng = np.random.default_rng([seed, 1, step])
        grid = F.affine_grid(_motions(rng, size), list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        masks = F.grid_sample(self.masks[rows, None].float(), grid, align_corners=False)
        gain, shift = (
            torch.from_numpy(rng.uniform(-most, most, (size, 1, 1, 1))).float()
            for most in (CONTRAST, BRIGHTNESS)
        )
        return images * (1 + gain) + shift, masks.round()


def _channels(predictor: Sam2ImagePredictor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the model's input, each (3, 1, 1)."""
    mean, std = predictor._transforms.mean, predictor._transforms.std
    return torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)


def _motions(rng: np.random.Generator, n: int) -> Tensor:
    """Return n random flips, rotations, scales and shifts as matrices, float32 (n, 2, 3)."""
    turn = np.deg2rad(rng.uniform(-TURN, TURN, n))
    size = np.exp(rng.uniform(-1, 1, n) * np.log1p(SCALE))
    flip = rng.choice([-1.0, 1.0], n)
    cos, sin = size * np.cos(turn), size * np.sin(turn)
    x, y = rng.uniform(-2 * SHIFT, 2 * SHIFT, (2, n))
    rows = np.stack([cos * flip, -sin, x, sin * flip, cos, y], 1)
    return torch.from_numpy(rows).float().view(n, 2, 3)
