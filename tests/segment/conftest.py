"""A small SAM2 with random weights, from sam2's own classes, and images made on the spot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor

from pipeline.config import SegmentParams
from pipeline.models.trunk import TimmTrunk

SIZE = 64


def small_sam2(seed: int = 0) -> SAM2ImagePredictor:
    """A SAM2 for 64-pixel frames whose random weights give masks of all kinds."""
    torch.manual_seed(seed)
    trunk = TimmTrunk("test_efficientnet", (1, 2, 3, 4))
    neck = FpnNeck(
        position_encoding=PositionEmbeddingSine(num_pos_feats=32, normalize=True, scale=None),
        d_model=32,
        backbone_channel_list=trunk.channel_list,
        fpn_top_down_levels=[0, 1, 2, 3],
        fpn_interp_model="nearest",
    )
    model = SAM2Base(
        image_encoder=ImageEncoder(trunk, neck, scalp=1),
        memory_attention=_NoMemory(),
        memory_encoder=None,
        num_maskmem=0,
        image_size=SIZE,
        use_high_res_features_in_sam=True,
        multimask_output_in_sam=True,
        iou_prediction_use_sigmoid=True,
    ).eval()
    predictor = SAM2ImagePredictor(model)
    predictor._bb_feat_sizes = [(SIZE // s, SIZE // s) for s in (4, 8, 16)]
    predictor.fingerprint = {"name": "small", "seed": seed}
    return predictor


class _NoMemory(torch.nn.Module):
    """Still images need no memory; SAM2Base only asks for its width."""

    d_model = 32


@pytest.fixture(scope="session")
def sam2() -> SAM2ImagePredictor:
    return small_sam2()


@pytest.fixture
def params():
    """`params(prompt="auto", ...)`: the segment section with some values changed."""
    return lambda **values: SegmentParams(**{"grid": 3, **values})


def picture(seed: int, height: int = 48, width: int = 72) -> np.ndarray:
    """A bright ellipse on noise, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.uniform(0.3, 0.7, 2) * (height, width)
    inside = ((y - cy) / (height / 5)) ** 2 + ((x - cx) / (width / 6)) ** 2 < 1
    image = rng.integers(0, 90, (height, width, 3)) + 130 * inside[..., None]
    return image.astype(np.uint8)


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Seven images of several sizes."""
    return [picture(i, 40 + 7 * i, 80 - 5 * i) for i in range(7)]
