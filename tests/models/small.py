"""Small real models: SAM2 with a narrow Hiera, and a narrow ViT CLIP, at random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP
from sam2.modeling.sam2_base import SAM2Base

from pipeline.models.sam2 import instantiate_sam2, sam2_config


def small_sam2_config() -> dict[str, Any]:
    """The official tiny configuration, made narrow; same classes, same names, 1,024 px."""
    config = sam2_config("sam2.1_hiera_tiny")
    model = config["model"]
    encoder = model["image_encoder"]
    encoder["trunk"] |= {"embed_dim": 8, "stages": [1, 1, 2, 1], "global_att_blocks": [3]}
    encoder["neck"] |= {"d_model": 32, "backbone_channel_list": [64, 32, 16, 8]}
    encoder["neck"]["position_encoding"]["num_pos_feats"] = 32
    attention = model["memory_attention"]
    attention |= {"d_model": 32, "num_layers": 1}
    attention["layer"] |= {"d_model": 32, "dim_feedforward": 32}
    attention["layer"]["self_attention"] |= {"embedding_dim": 32}
    attention["layer"]["cross_attention"] |= {"embedding_dim": 32, "kv_in_dim": 16}
    memory = model["memory_encoder"]
    memory |= {"out_dim": 16, "in_dim": 32}
    memory["position_encoding"]["num_pos_feats"] = 16
    memory["mask_downsampler"]["embed_dim"] = 32
    memory["fuser"]["layer"]["dim"] = 32
    return config


def save_official(config: dict[str, Any], path: Path, seed: int = 0) -> SAM2Base:
    """Save random weights in the layout of Meta's .pt files and return the model."""
    torch.manual_seed(seed)
    model = instantiate_sam2(config["model"]).eval()
    torch.save({"model": model.state_dict()}, path)
    return model


def small_clip_config(**changes: Any) -> dict[str, Any]:
    """A ViT CLIP that is built in a moment."""
    return {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 32, "head_width": 16,
                       "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2,
                     "layers": 1},
        **changes,
    }  # fmt: skip


def save_clip(path: Path, seed: int = 0) -> Path:
    """Save random weights of the small CLIP as an open_clip checkpoint."""
    torch.manual_seed(seed)
    state = CLIP(**small_clip_config()).state_dict()
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save({"state_dict": state}, path)
    return path
