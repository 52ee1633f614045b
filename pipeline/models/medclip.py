"""Checkpoints of MedCLIP and CXR-CLIP under the names of open_clip, and the parts that it lacks.

Both have torchvision's ResNet-50 or transformers' Swin-T, transformers' BERT, and a linear
projection after each. The tables below are the whole mapping; a name that they do not have stays as
it is, and strict loading refuses it as unexpected. Left out are the names in `UNUSED`.

MedCLIP (Wang et al., EMNLP 2022, arXiv:2210.10163, github.com/RyanWangZf/MedCLIP): projections
without a bias; the mean of Swin's cells; the mean over layers 1, 2 and the last of BERT, and over
all tokens; a factor of at most 100. Its own code averages over the padding too, so that features of
a text depend on the longest text of its batch: here they are those of the text alone.

CXR-CLIP (You et al., MICCAI 2023, arXiv:2310.13292, github.com/Soombit-ai/cxr-clip): projections
with a bias; the first of Swin's cells, at the top left (its code takes what would be a ViT's class
token); the last token of BERT, [SEP].
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import torch
from open_clip.hf_model import register_pooler
from timm.models import register_model
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from pipeline.models.transformers_names import joined, renamed

MEDCLIP = (
    (r"^vision_model\.(projection_head|model\.fc)\.", "visual.head.proj."),
    (r"^vision_model\.model\.", "visual.trunk."),
    (r"^text_model\.projection_head\.", "text.proj."),
    (r"^text_model\.model\.", "text.transformer."),
)
CXR_CLIP = (
    (r"^image_projection\.projection\.", "visual.head.proj."),
    (r"^image_encoder\.(resnet|image_encoder)\.", "visual.trunk."),
    (r"^text_projection\.projection\.", "text.proj."),
    (r"^text_encoder\.text_encoder\.", "text.transformer."),
)
SWIN = (  # of transformers, under the names of timm; those of ResNet-50 are the same in both
    (r"\.embeddings\.patch_embeddings\.projection\.", ".patch_embed.proj."),
    (r"\.embeddings\.norm\.", ".patch_embed.norm."),
    (
        r"\.encoder\.layers\.(\d+)\.downsample\.",  # at the end of a stage, not before the next
        lambda found: f".layers.{int(found[1]) + 1}.downsample.",
    ),
    (r"\.encoder\.layers\.", ".layers."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.self\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^visual\.trunk\.layernorm\.", "visual.trunk.norm."),
)
UNUSED = re.compile(
    r"^text\.transformer\.(pooler\.dense\.|embeddings\.position_ids$)|\.relative_position_index$"
)
"""BERT's pooler, which neither model uses, and constants that older versions stored."""
MOST = 4.6052
"""Of MedCLIP's logarithm of the factor."""


def medclip_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint of MedCLIP or CXR-CLIP under open_clip's names; those of
    other checkpoints are returned as they are. Swin's queries, keys and values are joined."""
    if any(name.startswith("vision_model.model.") for name in state):
        table = MEDCLIP
    elif any(re.match(CXR_CLIP[1][0], name) for name in state):
        table = CXR_CLIP
    else:
        return state
    found = {renamed(name, table): tensor for name, tensor in state.items()}
    tower = {n: found.pop(n) for n in list(found) if n.startswith("visual.trunk.")}
    parts = [f".attention.self.{kind}." for kind in ("query", "key", "value")]
    tower = joined(tower, parts, ".attn.qkv.")
    found |= {renamed(name, SWIN): tensor for name, tensor in tower.items()}
    if table is MEDCLIP and "logit_scale" in found:
        found["logit_scale"] = found["logit_scale"].clamp(0, MOST)
    return {name: tensor for name, tensor in found.items() if not UNUSED.search(name)}


class FirstCellSwin(SwinTransformer):
    """A Swin whose features are those of the cell at the top left, (B, C), as CXR-CLIP has them."""

    default_cfg: ClassVar[dict[str, Any]] = {}

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x[:, 0, 0]


@register_model
def cxr_clip_swin_tiny(
    pretrained: bool = False, pretrained_cfg: Any = None, pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None, **changed: Any,
) -> FirstCellSwin:  # fmt: skip
    """Build CXR-CLIP's Swin-T with random weights; its sizes are timm's defaults."""
    return FirstCellSwin(**changed)


@register_pooler
class LastTokenPooler(nn.Module):
    """The last token of a text, [SEP], (B, d) of a BERT's output; padding comes after it."""

    def forward(self, x: Any, attention_mask: Tensor) -> Tensor:
        last = attention_mask.sum(dim=1) - 1
        return x.last_hidden_state[torch.arange(len(last), device=last.device), last]


@register_pooler
class ThreeLayersPooler(nn.Module):
    """The mean over layers 1, 2 and the last and over the tokens of a text, (B, d)."""

    def forward(self, x: Any, attention_mask: Tensor) -> Tensor:
        layers = torch.stack([x.hidden_states[i] for i in (1, 2, -1)]).mean(dim=0)
        tokens = attention_mask[..., None].to(layers)
        return (layers * tokens).sum(dim=1) / tokens.sum(dim=1)
