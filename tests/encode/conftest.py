"""A small CLIP with random weights, from open_clip's own classes."""

from __future__ import annotations

import pytest
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer

from pipeline.models import ClipModel

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def small_clip(seed: int = 0, precision: str = "fp32") -> ClipModel:
    """A ViT for 32-pixel frames with 4 x 4 patches, and a text tower of one layer."""
    torch.manual_seed(seed)
    model = CLIP(
        embed_dim=24,
        vision_cfg={
            "image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8,
        },
        text_cfg={
            "context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1,
        },
    ).eval()  # fmt: skip
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic"}
    fingerprint = {"name": "small", "seed": seed}
    return ClipModel(model, SimpleTokenizer(context_length=32), preprocess, precision, fingerprint)


@pytest.fixture(scope="session")
def clip() -> ClipModel:
    return small_clip()
