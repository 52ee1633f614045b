"""CLIP models of open_clip behind one small class: images, patch tokens and texts."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.timm_model import TimmModel
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transformer import VisionTransformer

from pipeline.errors import ModelError


class ClipModel:
    """Image and text encoder with a joint embedding space.

    Args:
        model: an open_clip CLIP or CustomTextCLIP in evaluation mode.
        tokenizer: its open_clip tokenizer.
        preprocess: mean, std, interpolation.
        precision: "fp32" or "bf16" (autocast).
        fingerprint: everything that decides the model's results.

    Attributes:
        image_size: side of the square input in pixels.
        mean, std: of the normalisation, three floats each.
        interpolation: "bicubic" or "bilinear", of the resize.
        embed_dim: dimension d of the joint space.
        token_grid: rows and columns of `encode_tokens`, (h, w).
        logit_scale: factor of cosine similarities (after the exponential).
        context_length: maximum number of tokens of a prompt.
        fingerprint: JSON-able: name, configuration with its activation, SHA-256 of the checkpoint.
        precision: as given.
    """

    def __init__(
        self,
        model: CLIP | CustomTextCLIP,
        tokenizer: HFTokenizer | SimpleTokenizer,
        preprocess: dict[str, Any],
        precision: str = "fp32",
        fingerprint: dict[str, Any] | None = None,
    ):
        self.model, self.tokenizer, self.precision = model, tokenizer, precision
        self.fingerprint = fingerprint or {}
        size = model.visual.image_size
        self.image_size = int(size[0] if isinstance(size, (tuple, list)) else size)
        self.mean, self.std = tuple(preprocess["mean"]), tuple(preprocess["std"])
        self.interpolation = preprocess["interpolation"]
        self.logit_scale = float(model.logit_scale.detach().exp())
        self.device = next(model.parameters()).device
        # A shallow copy that also returns tokens: other threads use the model's own tower, so its
        # flag must not be changed.
        self._with_tokens = copy.copy(model.visual)
        self._with_tokens.output_tokens = True
        probe = torch.zeros(1, 3, self.image_size, self.image_size, device=self.device)
        self.embed_dim = int(self.encode_image(probe).shape[1])
        self.token_grid = self._token_grid(probe)
        self.context_length = int(tokenizer.context_length)

    @torch.inference_mode()
    def _token_grid(self, probe: torch.Tensor) -> tuple[int, int]:
        visual = self.model.visual
        if isinstance(visual, VisionTransformer):
            return tuple(visual.grid_size)
        if isinstance(visual, TimmModel):
            maps = visual.trunk.forward_features(probe)
            if maps.ndim == 4:
                return tuple(maps.shape[-2:])
        return (self.image_size // 32,) * 2

    def _autocast(self) -> Any:
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    @torch.inference_mode()
    def encode_image(
        self, images: torch.Tensor, tokens: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Map normalised images to the joint space.

        Args:
            images: float (B, 3, image_size, image_size), mean and std already applied.
            tokens: also return the patch tokens of the same forward pass.

        Returns:
            float32 (B, embed_dim), not normalised; with `tokens` a pair of it and the result of
            `encode_tokens`.

        Raises:
            ModelError: `tokens` is set and the image tower has none.
        """
        if tokens:
            return self._pooled_and_tokens(images)
        with self._autocast():
            return self.model.encode_image(images.to(self.device)).float()

    @torch.inference_mode()
    def encode_tokens(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images to patch tokens in the joint space.

        Tokens of a ViT pass its final norm and projection; the feature map of a convolutional
        trunk passes the same head as its mean, so that the mean token of CLIP-micro is the result
        of `encode_image`.

        Args:
            images: float (B, 3, image_size, image_size), mean and std already applied.

        Returns:
            float32 (B, h * w, embed_dim), in row-major order of `token_grid`.

        Raises:
            ModelError: the image tower has no patch tokens in the joint space.
        """
        return self._pooled_and_tokens(images)[1]

    def encode_patches(self, images: torch.Tensor) -> torch.Tensor:
        """Return `encode_tokens` as float32 (B, h, w, embed_dim)."""
        return self.encode_tokens(images).unflatten(1, self.token_grid)

    def _pooled_and_tokens(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        visual, images = self.model.visual, images.to(self.device)
        with self._autocast():
            if isinstance(visual, TimmModel):
                maps = visual.trunk.forward_features(images)
                if maps.ndim == 4:
                    pooled = visual.head(visual.trunk.forward_head(maps))
                    return pooled.float(), visual.head(maps.flatten(2).transpose(1, 2)).float()
            elif isinstance(visual, VisionTransformer) and visual.attn_pool is None:
                pooled, tokens = self._with_tokens(images)
                if visual.proj is not None:
                    tokens = tokens @ visual.proj
                return pooled.float(), tokens.float()
        raise ModelError(
            "this image tower has no patch tokens in the joint space",
            remedy="set encode.tokens: false, or choose a ViT such as ViT-B-16",
        )

    @torch.inference_mode()
    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """Map texts to the joint space.

        Args:
            texts: n prompts.

        Returns:
            float32 (n, embed_dim), not normalised.

        Raises:
            ModelError: a prompt is longer than `context_length`.
        """
        self.check_text(texts)
        with self._autocast():
            return self.model.encode_text(self.tokenizer(texts).to(self.device)).float()

    def check_text(self, texts: list[str]) -> None:
        """Refuse prompts that the tokenizer would silently truncate.

        Raises:
            ModelError: names the first such prompt and both lengths.
        """
        for text in texts:
            if (length := self.count_tokens(text)) > self.context_length:
                raise ModelError(
                    f"the prompt {text!r} has {length} tokens, the model's maximum is "
                    f"{self.context_length}",
                    remedy="shorten it in data_manifests/prompts.yaml",
                )

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a prompt, with start and end tokens, not truncated."""
        if isinstance(self.tokenizer, HFTokenizer):
            clean = self.tokenizer.clean_fn(text)
            return len(self.tokenizer.tokenizer(clean, truncation=False)["input_ids"])
        return len(self.tokenizer.encode(text)) + 2

    @property
    def tokens(self) -> int:
        """Number of patch tokens of an image, h * w."""
        return self.token_grid[0] * self.token_grid[1]
