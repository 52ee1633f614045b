"""Prompts from masks: jittered boxes, boxes as mask prompts, clicks and corrective clicks."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.models import draw_box_prompt
from pipeline.segment.prompt_quality import jitter_box


def box_of(mask: torch.Tensor) -> np.ndarray | None:
    """Return x0, y0, x1, y1 around a mask's pixels above one half, or None if there are none."""
    inside = mask > 0.5
    if not bool(inside.any()):
        return None
    columns, rows = torch.nonzero(inside.any(0))[:, 0], torch.nonzero(inside.any(1))[:, 0]
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def box_batch(
    masks: list[torch.Tensor], rng: np.random.Generator, drawn: float = 0.6
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return one box prompt per mask.

    Args:
        masks: float (S, S) each.
        rng: source of the jitter.
        drawn: probability that the box is also a mask prompt.

    Returns:
        Corners float32 (N, 2, 2), labels int (N, 2), drawn boxes float32 (N, 1, S/4, S/4),
        bool (N,) which of them are used.
    """
    size = masks[0].shape[-1]
    boxes, prompts = [], []
    for mask in masks:
        box = box_of(mask)
        amount = 0.1 if rng.random() < 0.75 else rng.uniform(0, 0.2)
        box = jitter_box(box, amount, rng, size, size)
        boxes.append(box)
        prompts.append(torch.from_numpy(draw_box_prompt(box, size, size, size // 4)))
    corners = torch.tensor(np.array(boxes), dtype=torch.float32).reshape(-1, 2, 2)
    labels = torch.tensor([[2, 3]], dtype=torch.int).repeat(len(boxes), 1)
    counts = torch.from_numpy(rng.random(len(boxes)) < drawn)
    return corners, labels, torch.stack(prompts), counts


def clicks(region: torch.Tensor, rng: np.random.Generator, central: float = 0.5) -> torch.Tensor:
    """Return a random point of each region.

    Args:
        region: float (N, s, s), how much of a cell belongs to the region; every row has some.
        rng: source of the choice.
        central: probability of a central point instead of any point.

    Returns:
        float32 (N, 1, 2), x and y in cells, within the cell at random.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    size = region.shape[-1]
    weight = (region > 0.5).float() * region + 1e-4 * region + 1e-12
    deep = F.avg_pool2d(region[:, None], 9, 1, 4)
    deep = F.avg_pool2d(deep, 9, 1, 4)[:, 0]
    deep = (deep / deep.amax((1, 2), keepdim=True).clamp_min(1e-6)) ** 8
    choose = torch.rand(len(region), 1, 1, generator=generator) < central
    weight = torch.where(choose, weight * deep + 1e-12 * region, weight)
    index = torch.multinomial(weight.flatten(1) + 1e-20, 1, generator=generator)
    point = torch.stack([index % size, index // size], dim=-1).float()
    return point + torch.rand(point.shape, generator=generator)


def correcting_clicks(
    logits: torch.Tensor, target: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clicks on errors: positive on missed pixels, negative on added ones.

    Args:
        logits: float (N, s, s).
        target: float (N, s, s) in [0, 1].
        rng: source of the choice.

    Returns:
        float32 (N, 1, 2) points in cells and int (N, 1) labels.
    """
    found = (logits > 0).float()
    missed, added = target * (1 - found), (1 - target) * found
    positive = missed.sum((1, 2)) >= added.sum((1, 2))
    region = torch.where(positive[:, None, None], missed, added)
    region = torch.where(region.sum((1, 2), keepdim=True) > 0.5, region, target)
    positive = positive | (added.sum((1, 2)) <= 0.5)
    return clicks(region, rng, 0.7), positive.int()[:, None]
