"""Training loop of SAM2-micro: a fixed number of steps, reproducible for a seed."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import nn

from tools.pretrain import prompts, scenes
from tools.pretrain.data import Item
from tools.pretrain.decode import decode, encode
from tools.pretrain.losses import mask_loss

WEIGHTS = {
    "nuclei": 0.5, "polyp_kvasir": 1.0, "polyp_cvc": 0.7, "blood_cells": 0.6, "brain_br35h": 1.5,
    "lung": 0.8, "phantom_ultrasound": 1.6, "phantom_brain": 0.7, "phantom_chest": 0.15,
    "phantom_shapes": 0.6,
}  # fmt: skip
"""Relative frequency of each dataset, whatever its size."""


@dataclass(frozen=True)
class TrainConfig:
    """Args:
    steps: number of optimiser steps; the learning rate schedule depends on it.
    batch: scenes per step: about 44 % whole images, 19 % mosaics, the rest crops.
    learning_rate: peak rate of decoder, neck and prompt encoder.
    trunk_rate: peak rate of the trunk.
    warmup: steps until the peak.
    weight_decay: of matrices only.
    average: decay of the moving average of the weights, which is the result.
    seed: of all random choices.
    frozen: parts of the trunk that keep their ImageNet weights.
    """

    steps: int = 2000
    batch: int = 16
    learning_rate: float = 8e-4
    trunk_rate: float = 2.5e-4
    warmup: int = 100
    weight_decay: float = 0.02
    average: float = 0.997
    seed: int = 0
    frozen: tuple[str, ...] = ("conv_stem", "bn1", "blocks.0.", "blocks.1.")


def freeze(model: SAM2Base, prefixes: tuple[str, ...]) -> None:
    """Freeze the named parts of the trunk, and all batch statistics."""
    for name, parameter in model.image_encoder.trunk.body.named_parameters():
        if name.startswith(prefixes):
            parameter.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def exact_depthwise(model: SAM2Base) -> None:
    """Compute depthwise convolutions in float32: on a CPU their bfloat16 gradient is 4x slower."""
    for module in model.image_encoder.trunk.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:

            def forward(x: torch.Tensor, inner: Callable = module.forward) -> torch.Tensor:
                with torch.autocast("cpu", enabled=False):
                    return inner(x.float()).to(x.dtype)

            module.forward = forward


def draw_batch(
    items: list[Item], chances: np.ndarray, config: TrainConfig, rng: np.random.Generator
) -> list[scenes.Scene]:
    """Draw the scenes of one step."""

    def pick() -> Item:
        return items[rng.choice(len(items), p=chances)]

    whole, mosaic = math.ceil(config.batch * 0.44), math.ceil(config.batch * 0.19)
    drawn = [scenes.whole(pick(), rng) for _ in range(whole)]
    drawn += [scenes.mosaic([pick() for _ in range(4)], rng) for _ in range(mosaic)]
    while len(drawn) < config.batch:
        drawn.append(scenes.zoom(pick(), rng))
    return drawn


def _shrink(masks: list[torch.Tensor]) -> torch.Tensor:
    return F.avg_pool2d(torch.stack(masks)[:, None], 4)[:, 0]


def step_loss(
    model: SAM2Base, batch: list[scenes.Scene], rng: np.random.Generator
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss of one batch over all its prompts, and the Dice of each kind of prompt."""
    images = scenes.photometric(torch.stack([s.image for s in batch]), rng)
    images = ((images - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
    features = encode(model, images)
    owners, objects = [], []
    for n, scene in enumerate(batch):
        usable = [m for m in scene.objects if float((m > 0.5).sum()) >= 40]
        for mask in usable * (2 if len(usable) == 1 else 1):
            owners.append(n)
            objects.append(mask)
    losses: list[torch.Tensor] = []
    dice: dict[str, float] = {}

    def add(kind: str, out: tuple[torch.Tensor, torch.Tensor], target: torch.Tensor, w: float):
        loss, overlap = mask_loss(*out, target)
        losses.append(w * loss)
        dice[kind] = float(overlap)

    asked = [(n, s.salient) for n, s in enumerate(batch) if s.salient is not None]
    alone = [n for n, mask in asked if float(mask.sum()) > 40]
    if alone:
        out = decode(model, features, torch.tensor(alone))
        add("salient", out, _shrink([batch[n].salient for n in alone]), 0.8)
    if objects:
        index, target = torch.tensor(owners), _shrink(objects)
        corners, labels, drawn, counts = prompts.box_batch(objects, rng)
        out = decode(model, features, index, (corners, labels), drawn, counts)
        add("box", out, target, 1.2)
        some = torch.from_numpy(rng.permutation(len(objects))[: max(1, len(objects) * 2 // 3)])
        index, target = index[some], target[some]
        point = prompts.clicks(target, rng)
        ones = torch.ones(len(some), 1, dtype=torch.int)
        first = decode(model, features, index, (point * 4, ones))
        add("click", first, target, 0.7)
        keep = torch.from_numpy(rng.permutation(len(some))[: max(1, len(some) // 2)])
        before = first[0][keep, 0].detach().float().clamp(-32, 32)
        more, label = prompts.correcting_clicks(before, target[keep], rng)
        points = torch.cat([point[keep], more], dim=1) * 4
        both = torch.cat([ones[keep], label], dim=1)
        out = decode(model, features, index[keep], (points, both), before[:, None])
        add("corrected", out, target[keep], 0.4)
    return torch.stack(losses).sum(), dice


def parameter_groups(model: SAM2Base, config: TrainConfig) -> list[dict]:
    """Group the trainable parameters by learning rate and weight decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.numel():
            key = (name.startswith("image_encoder.trunk"), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": params,
            "peak": config.trunk_rate if trunk else config.learning_rate,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (trunk, decays), params in groups.items()
    ]


@contextmanager
def _deterministic() -> Iterator[None]:
    """Sum gradients of gathered rows in a fixed order instead of that of the threads."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@_deterministic()
def train(
    model: SAM2Base,
    items: list[Item],
    config: TrainConfig,
    on_step: Callable[[int, float, dict[str, float], SAM2Base], None],
) -> SAM2Base:
    """Train in bfloat16 on the items that are not held out.

    Args:
        model: changed in place; its trunk should hold ImageNet weights.
        items: of `data.load_sets` and `data.load_phantoms`.
        config: hyperparameters.
        on_step: called after every step with step, elapsed seconds, Dice of each kind of prompt,
            and the averaged model.

    Returns:
        The model with averaged weights.
    """
    torch.manual_seed(config.seed)
    items = [item for item in items if not item.held_out]
    sizes = {name: sum(i.set == name for i in items) for name in {i.set for i in items}}
    chances = np.array([WEIGHTS.get(i.set, 1.0) / sizes[i.set] for i in items])
    chances /= chances.sum()
    model.train()
    freeze(model, config.frozen)
    model.to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(model).eval()
    exact_depthwise(model)
    groups = parameter_groups(model, config)
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.99))
    learned = [p for g in groups for p in g["params"]]
    followers = [
        q
        for q, p in zip(averaged.parameters(), model.parameters(), strict=True)
        if p.requires_grad and p.numel()
    ]
    leaders = [p for p in model.parameters() if p.requires_grad and p.numel()]
    start = time.monotonic()
    for step in range(config.steps):
        rng = np.random.default_rng([config.seed, 1, step])
        rise = min(1.0, (step + 1) / config.warmup)
        fall = 0.5 * (1 + math.cos(math.pi * step / config.steps))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rise * max(fall, 0.01)
        batch = draw_batch(items, chances, config, rng)
        with torch.autocast("cpu", torch.bfloat16):
            loss, dice = step_loss(model, batch, rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        decay = min(config.average, (step + 1) / (step + 10))
        torch._foreach_lerp_([q.data for q in followers], [p.data for p in leaders], 1 - decay)
        seconds = time.monotonic() - start
        on_step(step, seconds, {**dice, "loss": float(loss.detach())}, averaged)
    return averaged
