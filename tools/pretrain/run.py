"""Build and train SAM2-micro, and write its weights."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from sam2.modeling.sam2_base import SAM2Base

from pipeline.io import atomic_write
from pipeline.models.checkpoint import lite0_state
from pipeline.models.sam2 import instantiate_sam2
from tools.pretrain import loop
from tools.pretrain.data import Item

log = logging.getLogger(__name__)


def micro_config() -> dict:
    """Return the configuration of sam2-micro."""
    return yaml.safe_load((files("pipeline.models") / "configs/sam2-micro.yaml").read_text("utf-8"))


def new_micro(seed: int) -> SAM2Base:
    """Build SAM2-micro with ImageNet weights in the trunk and seeded random ones elsewhere."""
    torch.manual_seed(seed)
    model = instantiate_sam2(micro_config()["model"])
    body = model.image_encoder.trunk.body
    body.load_state_dict(lite0_state(list(body.state_dict())))
    return model


def save_weights(model: SAM2Base, path: Path, about: dict[str, str]) -> None:
    """Write the weights that still images need, in half precision.

    Args:
        model: trained.
        path: a .safetensors file, replaced atomically.
        about: metadata of the file.
    """
    state = {
        name: tensor.detach().half().contiguous()
        for name, tensor in model.state_dict().items()
        if tensor.numel() and not name.endswith("num_batches_tracked")
    }
    with atomic_write(path) as partial:
        save_file(state, partial, metadata=about)


def make_sam2(items: list[Item], config: loop.TrainConfig, out: Path) -> SAM2Base:
    """Train SAM2-micro and write its weights.

    Args:
        items: of `data.load_sets` and `data.load_phantoms`.
        config: of the training.
        out: file of the weights, replaced every 200 steps, so that an interruption leaves a
            usable model (its metadata has the number of steps).
    """
    recent: dict[str, list[float]] = {}

    def on_step(step: int, seconds: float, values: dict[str, float], averaged: SAM2Base) -> None:
        for name, value in values.items():
            recent.setdefault(name, []).append(value)
        done = step + 1
        if done % 10 == 0 or done == config.steps:
            means = ", ".join(f"{k} {sum(v) / len(v):.3f}" for k, v in sorted(recent.items()))
            log.info("step %d of %d, %.0f s: %s", done, config.steps, seconds, means)
            recent.clear()
        if done % 200 == 0 or done == config.steps:
            about = {"steps": str(done), "seconds": f"{seconds:.0f}",
                     "config": json.dumps(asdict(config)), "deterministic": "true"}  # fmt: skip
            save_weights(averaged, out, about)

    return loop.train(new_micro(config.seed), items, config, on_step=on_step)
