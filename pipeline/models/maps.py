"""Feature maps of an image tower, from the forward pass that gives its features."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer

from pipeline.errors import ModelError


def map_indices(tower: Any, blocks: int) -> list[int] | int:
    """Return which maps to ask `forward_intermediates` for: those after half and after all blocks
    of a ViT; of another tower (`blocks` 0) the last three stages, strides 8, 16 and 32.

    Raises:
        ModelError: the tower has no such method.
    """
    if not hasattr(tower, "forward_intermediates"):
        remedy = "leave the pooled views out of encode.views, or choose another model"
        raise ModelError("this image tower does not give its feature maps", remedy=remedy)
    return sorted({max(0, blocks // 2 - 1), blocks - 1}) if blocks else 3


def timm_maps(
    network: torch.nn.Module, images: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the features of a timm network, (B, d), and maps (B, C_i, h_i, w_i), of images
    (B, 3, s, s); those of a ViT are normalised as its last ones are. ModelError as above."""
    blocks = len(network.blocks) if isinstance(network, VisionTransformer) else 0
    indices = map_indices(network, blocks)
    last, maps = network.forward_intermediates(images, indices, norm=bool(blocks))
    return network.forward_head(last), maps
