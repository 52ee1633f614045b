"""Checkpoints of transformers' CLIP and SigLIP under the names of open_clip.

PubMedCLIP and MedSigLIP are published so. The tables below are the whole mapping: a name that they
do not have stays as it is, and strict loading refuses it as unexpected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

LAYERS = (  # of both towers of CLIP and of the text tower of SigLIP
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.qkv_(weight|bias)$", r".attn.in_proj_\1"),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
)
CLIP = (
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^visual_projection\.weight$", "visual.proj"),  # transposed
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_projection\.weight$", "text_projection"),  # transposed
    *LAYERS,
)
SIGLIP = (  # the image tower is a ViT of timm with attention pooling
    (
        r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.qkv_",
        r"visual.trunk.blocks.\1.attn.qkv.",
    ),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.out_", r"visual.trunk.blocks.\1.attn."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.layer_norm", r"visual.trunk.blocks.\1.norm"),
    (
        r"^vision_model\.encoder\.layers\.(\d+)\.mlp\.fc([12])\.",
        r"visual.trunk.blocks.\1.mlp_fc\2.",
    ),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.trunk.patch_embed.proj."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.trunk.pos_embed"),
    (r"^vision_model\.post_layernorm\.", "visual.trunk.norm."),
    (r"^vision_model\.head\.probe$", "visual.trunk.attn_pool.latent"),
    (r"^vision_model\.head\.attention\.(q|kv)_(weight|bias)$", r"visual.trunk.attn_pool.\1.\2"),
    (r"^vision_model\.head\.attention\.out_proj\.", "visual.trunk.attn_pool.proj."),
    (r"^vision_model\.head\.layernorm\.", "visual.trunk.attn_pool.norm."),
    (r"^vision_model\.head\.mlp\.fc([12])\.", r"visual.trunk.attn_pool.mlp_fc\1."),
    (r"^text_model\.encoder\.layers\.", "text.transformer.resblocks."),
    (r"^text_model\.embeddings\.token_embedding\.", "text.token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "text.positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "text.ln_final."),
    (r"^text_model\.head\.", "text.text_projection."),
    *LAYERS,
    (r"(visual\..*)\.mlp_fc", r"\1.mlp.fc"),
)


@register_model
def vit_so400m_patch14_siglip_448(
    pretrained: bool = False, pretrained_cfg: Any = None, pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None, **changed: Any,
) -> VisionTransformer:  # fmt: skip
    """Build MedSigLIP's image tower, which timm lacks, with random weights: that of
    SigLIP SO400M at 448 px with the tanh form of GELU, as transformers runs it."""
    size = {"img_size": 448, "patch_size": 14, "embed_dim": 1152, "depth": 27, "num_heads": 16}
    kind = {"mlp_ratio": 3.7362, "class_token": False, "act_layer": "gelu_tanh"}
    return VisionTransformer(**size | kind | {"global_pool": "map"} | changed)


def open_clip_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint under open_clip's names; those of open_clip's own
    checkpoints are returned as they are.

    Queries, keys and values, which transformers keeps apart, are joined in this order; those of
    SigLIP's pooling are split; projections are transposed.
    """
    if "vision_model.post_layernorm.weight" not in state:
        return state
    table, found = (SIGLIP if "logit_bias" in state else CLIP), {}
    state = {n: t for n, t in state.items() if not n.endswith("embeddings.position_ids")}
    state = joined(state, [f".self_attn.{part}_proj." for part in "qkv"], ".self_attn.qkv_")
    for kind in ("weight", "bias"):
        pooling = "vision_model.head.attention."
        if (joint := state.pop(f"{pooling}in_proj_{kind}", None)) is not None:
            width = len(joint) // 3
            parts = joint.split([width, 2 * width])
            state[f"{pooling}q_{kind}"], state[f"{pooling}kv_{kind}"] = parts
    for name, tensor in state.items():
        own = renamed(name, table)
        if own in ("visual.proj", "text_projection"):
            tensor = tensor.T
        found[own] = tensor[None] if own == "visual.trunk.pos_embed" else tensor
    return found


def renamed(name: str, table: Iterable[tuple[str, Any]]) -> str:
    """Return a name after all replacements of a table, as of `re.sub`."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def joined(
    state: dict[str, torch.Tensor], parts: Sequence[str], whole: str
) -> dict[str, torch.Tensor]:
    """Return a state in which tensors whose names differ only in one of `parts` are one, joined in
    this order; `whole` takes the place of the part in its name."""
    found = dict(state)
    for name in [name for name in state if parts[0] in name]:
        each = [name.replace(parts[0], part) for part in parts]
        if all(one in state for one in each):
            found[name.replace(parts[0], whole)] = torch.cat([found.pop(one) for one in each])
    return found
