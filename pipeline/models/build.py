"""Instantiate a SAM2 configuration with hydra, as sam2 does."""

from __future__ import annotations

from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf
from sam2.modeling.sam2_base import SAM2Base


def instantiate_sam2(model_config: dict[str, Any]) -> SAM2Base:
    """Build a SAM2Base with random weights from the `model` part of a configuration.

    Args:
        model_config: `_target_` and arguments, nested.
    """
    return instantiate(OmegaConf.create(model_config), _recursive_=True)
