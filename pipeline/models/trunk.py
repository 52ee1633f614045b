"""A timm network as the trunk of SAM2's image encoder, as EdgeTAM does with RepViT."""

from __future__ import annotations

import timm
import torch
from torch import nn


class TimmTrunk(nn.Module):
    """Feature maps of a timm network, finest first.

    Args:
        name: a timm model that supports `features_only`.
        out_indices: feature levels to return; SAM2 needs strides 4, 8, 16, 32.

    Attributes:
        channel_list: channels of the levels, coarsest first, as in SAM2's neck.
    """

    def __init__(self, name: str, out_indices: tuple[int, ...] = (1, 2, 3, 4)):
        super().__init__()
        self.body = timm.create_model(
            name, pretrained=False, features_only=True, out_indices=tuple(out_indices)
        )
        self.channel_list = self.body.feature_info.channels()[::-1]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Map (B, 3, H, W) to a list of (B, C_i, H / s_i, W / s_i), strides s_i increasing."""
        return self.body(x)
