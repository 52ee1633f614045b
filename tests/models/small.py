"""Small real models with random weights: SAM2 with a narrow Hiera, a narrow ViT CLIP, and models of
the classes that BiomedCLIP and SigLIP have."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import timm
import torch
from open_clip.model import CLIP, CustomTextCLIP
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


class TimmBackbone(torch.nn.Module):
    """The trunk of EdgeTAM with the arguments that its authors' class has."""

    def __init__(self, name: str, features: list[str]):
        super().__init__()
        levels = [int(feature.removeprefix("layer")) for feature in features]
        self.body = timm.create_model(name, features_only=True, out_indices=levels)
        self.channel_list = self.body.feature_info.channels()[::-1]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self.body(x)


def edgetam_config() -> dict[str, Any]:
    """EdgeTAM as its authors state it, for the classes of sam2: without what serves video only."""
    model = sam2_config("sam2_hiera_tiny")["model"]
    trunk = {"_target_": "tests.models.small.TimmBackbone", "name": "repvit_m1"}
    model["image_encoder"]["trunk"] = trunk | {"features": [f"layer{i}" for i in range(4)]}
    model["image_encoder"]["neck"]["backbone_channel_list"] = [384, 192, 96, 48]
    model["memory_attention"]["num_layers"] = 2
    return model


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
        "quick_gelu": False,
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


WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase,
         *("##" + c for c in string.ascii_lowercase), "scan", "of", "tumour")  # fmt: skip
VISION = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "image_size": 160}
BIOMED: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {**VISION, "timm_pool": "", "timm_proj": "linear"},
    "text_cfg": {
        "hf_model_name": "nobody/has-this-text-model",
        "hf_tokenizer_name": "nobody/has-this-text-model",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 24,
    },
}
"""As BiomedCLIP: a ViT of timm, and a BERT whose configuration is in another repository."""
SIGLIP: dict[str, Any] = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {**VISION, "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {
        "context_length": 16, "vocab_size": len(WORDS), "width": 64, "heads": 2, "layers": 1,
        "hf_tokenizer_name": "nobody/has-this-tokenizer",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
    },
}  # fmt: skip
"""As SigLIP: attention pooling, a bias of the logits, a tokenizer of transformers."""


def save_text_model(folder: Path) -> Path:
    """Save the configuration of a small BERT and its tokenizer, as a repository has them."""
    folder.mkdir(parents=True)
    bert = {
        "model_type": "bert", "vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(bert))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return folder


def save_repository(
    folder: Path, config: dict[str, Any], text: Path, **preprocess: Any
) -> CustomTextCLIP:
    """Save random weights and the configuration as a repository of open_clip has them; return the
    model, built by open_clip with the text model of a folder."""
    folder.mkdir(parents=True)
    stated = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(stated))
    built = json.loads(json.dumps(config))
    built.pop("custom_text", None)
    if "hf_model_name" in built["text_cfg"]:
        built["text_cfg"] |= {"hf_model_name": str(text), "hf_model_pretrained": False}
    torch.manual_seed(0)
    model = CustomTextCLIP(**built).eval()
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return model
