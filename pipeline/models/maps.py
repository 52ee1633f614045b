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


def no_tokens() -> ModelError:
    """Return the error of an image tower without patch tokens."""
    return ModelError(
        "this image tower has no patch tokens in the joint space",
        remedy="set encode.tokens: false, or choose a ViT such as ViT-B-16",
    )


def timm_tokens(
    network: torch.nn.Module, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features of a timm network, (B, d), and its patch tokens, (B, h, w, d), of images
    (B, 3, s, s): the tokens of a ViT, the cells of the last map of another network.

    Each token passes the head as if it were the image's only one: attention pooling is then its
    values and what follows (C. Zhou et al., MaskCLIP, ECCV 2022, sec. 3.2).

    Raises:
        ModelError: the network has neither, or its head gives no features (B, d).
    """
    last = network.forward_features(images)
    features = network.forward_head(last)
    if last.ndim == 4 and features.ndim == 2:
        channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        cells = last if channels_last else last.movedim(1, -1)
        grid, alone = cells.shape[1:3], cells.flatten(0, 2)[:, None, None]
        alone = alone if channels_last else alone.movedim(-1, 1)
    elif isinstance(network, VisionTransformer) and features.ndim == 2:
        grid, first = network.patch_embed.grid_size, network.num_prefix_tokens
        alone = last[:, first:].flatten(0, 1)[:, None].expand(-1, first + 1, -1)
    else:
        raise no_tokens()
    return features, network.forward_head(alone).unflatten(0, (len(last), *grid))
