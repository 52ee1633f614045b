"""Fine-tune SAM2 without a prompt: the loss, the loop, and how it continues after a kill."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.adapt.examples import Examples
from pipeline.adapt.methods import trained
from pipeline.config import AdaptParams
from pipeline.io import atomic_write
from pipeline.models import Sam2ImagePredictor

LEARNING_RATE = {"decoder": 1e-3, "lora": 1e-3, "adapter": 1e-3, "full": 3e-4}
"""At the top of the schedule, by method."""
WARM_UP = 0.05
"""Share of the steps in which the learning rate rises."""
SAVE_SECONDS = 20.0
"""Longest time that steps are in memory only."""


def answer(predictor: Sam2ImagePredictor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return what SAM2 answers without a prompt on images (n, 3, s, s): logits (n, 1, s, s) and its
    own estimate of the IoU, (n, 1). The arithmetic is that of `BatchPredictor`."""
    model, n = predictor.model, len(images)
    with predictor._autocast():
        _, features, _, sizes = model._prepare_backbone_features(model.forward_image(images))
        if model.directly_add_no_mem_embed:
            features[-1] = features[-1] + model.no_mem_embed
        *high_res, image = (
            feature.permute(1, 2, 0).reshape(n, -1, *size)
            for feature, size in zip(features, sizes, strict=True)
        )
        sparse, dense = model.sam_prompt_encoder(points=None, boxes=None, masks=None)
        low_res, iou, _, _ = model.sam_mask_decoder(
            image_embeddings=image,
            image_pe=model.sam_prompt_encoder.get_dense_pe().clone(),  # made in inference mode
            sparse_prompt_embeddings=sparse.expand(n, -1, -1),
            dense_prompt_embeddings=dense.expand(n, -1, -1, -1),
            multimask_output=False,
            repeat_image=False,
            high_res_features=high_res,
        )
    full = F.interpolate(low_res.float(), images.shape[-2:], mode="bilinear", align_corners=False)
    return full, iou.float()


def loss_of(logits: Tensor, iou: Tensor, masks: Tensor) -> Tensor:
    """Return the mean over images of L = BCE + (1 - Dice) + (IoU - estimate)^2.

    Dice is 2 sum(p m) / (sum(p) + sum(m)) of the probabilities p. Cross-entropy and Dice as MedSAM
    has them, with equal weights; the last term keeps SAM2's estimate of the IoU (A. Kirillov et
    al., Segment anything, arXiv:2304.02643, section 3) that of the adapted masks.

    Args:
        logits: float32 (n, 1, h, w).
        iou: the estimates, (n, 1).
        masks: float32 (n, 1, h, w) in {0, 1}.
    """
    p, over = logits.sigmoid(), (1, 2, 3)
    bce = F.binary_cross_entropy_with_logits(logits, masks)
    dice = (2 * (p * masks).sum(over) + 1) / (p.sum(over) + masks.sum(over) + 1)
    found = logits > 0
    both, either = (found & (masks > 0)).sum(over), (found | (masks > 0)).sum(over)
    return bce + (1 - dice).mean() + ((both / either.clamp(min=1) - iou[:, 0]) ** 2).mean()


def fit(
    predictor: Sam2ImagePredictor,
    examples: Examples,
    params: AdaptParams,
    state: Path,
    count: Callable[[int, int], None] = lambda done, failed: None,
) -> list[float]:
    """Train what `methods.insert` marked, in place; return the loss of each step.

    AdamW (I. Loshchilov and F. Hutter, arXiv:1711.05101) with a linear rise and a cosine fall of
    the learning rate; gradients are clipped at norm 1. Batch normalisation keeps its statistics.
    On the CPU the result is the same bits for a number of threads, also after a kill: weights,
    moments and losses are in the file `state` every `SAVE_SECONDS`, and it goes on from there.
    """
    model, device = predictor.model, predictor.device
    weights = list(trained(model).values())
    top = params.learning_rate or LEARNING_RATE[params.method]
    adam = torch.optim.AdamW(weights, lr=top, weight_decay=0.01)
    losses: list[float] = []
    with suppress(OSError, RuntimeError, KeyError, ValueError, EOFError):  # none, or a damaged one
        kept = torch.load(state, map_location=device, weights_only=True)
        with torch.no_grad():
            for weight, value in zip(weights, kept["weights"], strict=True):
                weight.copy_(value)
        adam.load_state_dict(kept["adam"])
        losses = kept["losses"]
        count(len(losses), 0)
    saved = time.monotonic()
    for step in range(len(losses), params.steps):
        rise = max(1, round(WARM_UP * params.steps))
        fall = 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, params.steps - rise)))
        adam.param_groups[0]["lr"] = top * ((step + 1) / rise if step < rise else fall)
        images, masks = examples.batch(predictor, params.seed, step, params.batch_size)
        loss = loss_of(*answer(predictor, images.to(device)), masks.to(device))
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([w for w in weights if w.grad is not None], 1.0)
        adam.step()
        losses.append(float(loss.detach()))
        count(1, 0)
        if time.monotonic() - saved > SAVE_SECONDS:
            kept = {"weights": [w.detach() for w in weights], "adam": adam.state_dict()}
            with atomic_write(state) as partial:
                torch.save(kept | {"losses": losses}, partial)
            saved = time.monotonic()
    return losses
