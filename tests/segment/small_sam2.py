"""A SAM2 of sam2's own classes, trained in two seconds: it finds bright ellipses."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam2_base import SAM2Base

from pipeline.models.sam2 import Sam2ImagePredictor
from pipeline.models.trunk import TimmTrunk

SIZE = 64


class NoMemory(torch.nn.Module):
    """Still images need no memory; SAM2Base only asks for its width."""

    d_model = 32


def untrained(seed: int = 0) -> Sam2ImagePredictor:
    """A predictor for 64-pixel frames with random weights."""
    torch.manual_seed(seed)
    trunk = TimmTrunk("test_efficientnet")
    neck = FpnNeck(
        position_encoding=PositionEmbeddingSine(num_pos_feats=32, normalize=True, scale=None),
        d_model=32,
        backbone_channel_list=trunk.channel_list,
        fpn_top_down_levels=[0, 1, 2, 3],
        fpn_interp_model="nearest",
    )
    model = SAM2Base(
        image_encoder=ImageEncoder(trunk, neck, scalp=1),
        memory_attention=NoMemory(),
        memory_encoder=None,
        num_maskmem=0,
        image_size=SIZE,
        use_high_res_features_in_sam=True,
        multimask_output_in_sam=True,
        iou_prediction_use_sigmoid=True,
    ).eval()
    fingerprint = {"name": "small", "seed": seed}
    return Sam2ImagePredictor(model, [0.5] * 3, [0.25] * 3, "fp32", fingerprint)


def scene(seed: int, height: int, width: int, ellipse: bool = True):
    """A bright ellipse on noise: uint8 (height, width, 3) and its bool (height, width) region."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.uniform(0.3, 0.7, 2) * (height, width)
    region = (((y - cy) / (height / 5)) ** 2 + ((x - cx) / (width / 6)) ** 2 < 1) & ellipse
    image = rng.integers(0, 90, (height, width, 3)) + 130 * region[..., None]
    return image.astype(np.uint8), region


def trained(seed: int = 0, steps: int = 60) -> Sam2ImagePredictor:
    """The same after a few steps on scenes, without prompt and with a click in the middle."""
    predictor = untrained(seed)
    model = predictor.model
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    click = (torch.full((4, 1, 2), SIZE / 2.0), torch.ones((4, 1), dtype=torch.int32))
    for step in range(steps):
        scenes = [scene(1000 + 4 * step + i, SIZE, SIZE, ellipse=i > 0) for i in range(4)]
        frames = torch.stack([predictor._transforms(image) for image, _ in scenes])
        truth = torch.from_numpy(np.stack([region for _, region in scenes]))[:, None].float()
        _, features, _, sizes = model._prepare_backbone_features(model.forward_image(frames))
        maps = [f.permute(1, 2, 0).reshape(4, -1, *s) for f, s in zip(features, sizes, strict=True)]
        loss = torch.zeros(())
        for points in (None, click):
            sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=None)
            logits, *_ = model.sam_mask_decoder(
                image_embeddings=maps[-1],
                image_pe=model.sam_prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse.expand(4, -1, -1),
                dense_prompt_embeddings=dense.expand(4, -1, -1, -1),
                multimask_output=points is not None,
                repeat_image=False,
                high_res_features=maps[:-1],
            )
            wanted = F.interpolate(truth, logits.shape[-2:], mode="area").expand_as(logits)
            loss = loss + F.binary_cross_entropy_with_logits(logits, wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return predictor
