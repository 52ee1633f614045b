"""Visual prompts: learned tokens in a frozen ViT, or a learned frame around the image."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as nnf
from open_clip.transformer import VisionTransformer
from pydantic import Field
from torch import Tensor, nn

from pipeline.encode.again import load_clip_again
from pipeline.learners.base import Samples, register, standardisation
from pipeline.learners.on_pixels import OnPixels, OnPixelsParams
from pipeline.models import ClipModel


class VisualPromptParams(OnPixelsParams):
    """Visual prompts in front of a frozen CLIP."""

    depth: Literal["shallow", "deep"] = "deep"
    """ViT: tokens before the first block, or new ones before every block."""
    tokens: int = Field(8, ge=1)
    """ViT: number of learned tokens."""
    frame: int = Field(30, ge=1)
    """Other towers: width of the learned frame, pixels."""
    head: Literal["auto", "text", "linear"] = "auto"
    """Classes by similarity with the class texts, or by a linear layer; auto: as in the papers,
    text for the frame, linear for tokens."""
    learning_rate: float = Field(1e-2, gt=0)
    """Learning rate of AdamW, which falls to zero along a cosine."""


class Prompted(nn.Module):
    """A frozen CLIP with learned prompts and a head; its state is what is learned.

    Args:
        clip: the model; it stays as it is.
        text: class texts T, (C, d).
        params: depth, tokens, frame and head.
    """

    def __init__(self, clip: ClipModel, text: Tensor, params: VisualPromptParams):
        super().__init__()
        visual = clip.model.visual
        self.mean, self.std = clip.mean, clip.std
        self.clip = [clip]  # in a list, so that it is no part of this module
        (n_classes, d), size = text.shape, clip.image_size
        self.is_vit = isinstance(visual, VisionTransformer) and visual.attn_pool is None
        if self.is_vit:
            blocks, width = len(visual.transformer.resblocks), visual.conv1.out_channels
            bound = (6 / (3 * visual.patch_size[0] * visual.patch_size[1] + width)) ** 0.5
            shape = blocks if params.depth == "deep" else 1, params.tokens, width
            self.tokens = nn.Parameter((2 * torch.rand(shape) - 1) * bound)
        else:
            inner = slice(params.frame, size - params.frame)
            border = torch.ones(size, size, dtype=torch.bool)
            border[inner, inner] = False
            self.register_buffer("border", border, persistent=False)
            self.frame = nn.Parameter(torch.zeros(3, int(border.sum())))
        self.linear = params.head == "linear" or (params.head == "auto" and self.is_vit)
        if self.linear:
            self.register_buffer("shift", torch.zeros(d))
            self.register_buffer("scale", torch.ones(d))
            self.weight = nn.Parameter(torch.zeros(d, n_classes))
            self.bias = nn.Parameter(torch.zeros(n_classes))
        else:
            self.register_buffer("text", nnf.normalize(text, dim=1))

    def features(self, images: Tensor) -> Tensor:
        """Return image features (n, d) of images (n, 3, s, s), not normalised."""
        clip = self.clip[0]
        if not self.is_vit:
            frame = torch.zeros_like(images[0])
            frame[:, self.border] = self.frame
            return clip.model.encode_image(images + frame)
        visual, n = clip.model.visual, self.tokens.shape[1]
        x = visual._embeds(images)
        for number, block in enumerate(visual.transformer.resblocks):
            if number < len(self.tokens):
                tokens = self.tokens[number].expand(len(x), -1, -1)
                x = torch.cat([x[:, :1], tokens, x[:, 1 + n * (number > 0) :]], dim=1)
            x = block(x)
        pooled, _ = visual._pool(torch.cat([x[:, :1], x[:, 1 + n :]], dim=1))
        return pooled if visual.proj is None else pooled @ visual.proj

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits (n, C)."""
        features = self.features(images)
        if self.linear:
            return (features - self.shift) / self.scale @ self.weight + self.bias
        return self.clip[0].logit_scale * (nnf.normalize(features, dim=1) @ self.text.T)


@register("visual-prompt")
class VisualPrompt(OnPixels):
    """A learned prompt on the image side; the image tower is frozen.

    ViT towers of open_clip: **Visual Prompt Tuning** (Jia et al. 2022, ECCV; arXiv 2203.12119),
    equations 4 to 8. n learned tokens P follow the class token c: shallow [c, x1, e1] = L1([c, P,
    e]), deep with tokens of its own before every block, [c, _, e] = Li([c, P(i-1), e]). They start
    uniform within sqrt(6 / (3 p p + width)), as in the paper. Here they enter after CLIP's first
    norm, and the head is linear on the embedding in CLIP's joint space, standardised over the
    training part, from zero.

    Other towers: **Visual Prompting** (Bahng et al. 2022; arXiv 2203.17274), section 3 and figure 2
    ("padding"): v is added to the outermost `frame` pixels of the normalised image. Classes are
    told by CLIP's own similarity with the class texts, as in that paper. v starts at zero (there at
    random), so that before training this is zero-shot.

    Both are trained by AdamW for few steps, without augmentation; the papers use SGD for 100 and
    1,000 epochs.
    """

    Parameters = VisualPromptParams

    def build(self, samples: Samples) -> nn.Module:
        """Return the frozen CLIP with prompts."""
        clip = load_clip_again(samples.pixels.spec, samples.pixels.fingerprint)
        text = torch.from_numpy(np.array(samples.text, np.float32, order="C"))
        return Prompted(clip, text, self.params)

    def begin(self, network: nn.Module, train: Samples) -> None:
        """Standardise the head over the stored features, those without a prompt."""
        self.chosen["prompt"] = f"{self.params.depth} tokens" if network.is_vit else "frame"
        if network.linear:
            for buffer, values in zip(
                (network.shift, network.scale), standardisation(train.X), strict=True
            ):
                buffer.copy_(torch.from_numpy(values))
