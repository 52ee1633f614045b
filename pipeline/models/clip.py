"""CLIP from open_clip: any of its models and CLIP-micro behind one small class."""

from __future__ import annotations

import copy
import json
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.timm_model import TimmModel
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transformer import VisionTransformer

from pipeline.errors import ModelError
from pipeline.models.clip_build import build_clip, build_tokenizer, clip_config
from pipeline.models.clip_weights import fill_micro, fill_model, resolve_checkpoint
from pipeline.models.spec import ModelSpec

CODE_VERSION = 1
"""Raised whenever this module's results change; part of every feature store's identity."""

OPENAI = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


class ClipModel:
    """Images and texts in one space.

    Args:
        model: an open_clip CLIP or CustomTextCLIP in evaluation mode.
        tokenizer: open_clip's tokenizer of that model.
        preprocess: mean, std, interpolation.
        precision: "fp32" or "bf16" (autocast).
        fingerprint: what identifies the model's results.

    Attributes:
        image_size: side of the square input, int.
        mean: of the normalisation, three floats; `std` likewise.
        interpolation: "bicubic" or "bilinear", of the resize before it.
        embed_dim: d.
        token_grid: rows and columns of `encode_tokens`, (h, w).
        logit_scale: what cosine similarities are multiplied by, the exponential already taken.
        fingerprint: JSON-able; name, configuration with its activation, checkpoint's SHA-256.
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
        # The same modules and weights, but the tokens are returned as well. The flag of the model's
        # own tower is never touched: other threads are in it.
        self._with_tokens = copy.copy(model.visual)
        self._with_tokens.output_tokens = True
        probe = torch.zeros(1, 3, self.image_size, self.image_size, device=self.device)
        self.embed_dim = int(self.encode_image(probe).shape[1])
        self.token_grid = self._token_grid()

    def _token_grid(self) -> tuple[int, int]:
        visual = self.model.visual
        if isinstance(visual, VisionTransformer):
            return tuple(visual.grid_size)
        side = self.image_size // 32
        return side, side

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
            tokens: return the patch tokens too, of the same forward pass.

        Returns:
            float32 (B, embed_dim), not normalised to length 1; with `tokens` a pair of it and
            what `encode_tokens` gives.

        Raises:
            ModelError: tokens are asked for and the image tower has none.
        """
        if tokens:
            return self._pooled_and_tokens(images)
        with self._autocast():
            return self.model.encode_image(images.to(self.device)).float()

    @torch.inference_mode()
    def encode_tokens(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images to patch tokens in the joint space.

        A ViT's tokens pass its final norm and projection; a convolutional trunk's map passes the
        same head as its mean does, so that for CLIP-micro the mean token is `encode_image`.

        Args:
            images: float (B, 3, image_size, image_size), mean and std already applied.

        Returns:
            float32 (B, h * w, embed_dim), row by row of `token_grid`.

        Raises:
            ModelError: the image tower has no such tokens.
        """
        return self._pooled_and_tokens(images)[1]

    def encode_patches(self, images: torch.Tensor) -> torch.Tensor:
        """Return `encode_tokens` as maps, float32 (B, h, w, embed_dim)."""
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
            float32 (n, embed_dim), not normalised to length 1.

        Raises:
            ModelError: a prompt is longer than the tokenizer takes.
        """
        self.check_text(texts)
        with self._autocast():
            return self.model.encode_text(self.tokenizer(texts).to(self.device)).float()

    def check_text(self, texts: list[str]) -> None:
        """Refuse prompts that the tokenizer would silently cut.

        Raises:
            ModelError: naming the first such prompt and both lengths.
        """
        for text in texts:
            if (length := self.count_tokens(text)) > self.context_length:
                raise ModelError(
                    f"the prompt {text!r} has {length} tokens, the model takes "
                    f"{self.context_length}",
                    remedy="shorten it in data_manifests/prompts.yaml",
                )

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a prompt has, uncut, its start and end tokens included."""
        if isinstance(self.tokenizer, HFTokenizer):
            clean = self.tokenizer.clean_fn(text)
            return len(self.tokenizer.tokenizer(clean, truncation=False)["input_ids"])
        return len(self.tokenizer.encode(text)) + 2

    @property
    def context_length(self) -> int:
        """The most tokens a prompt may have."""
        return int(self.tokenizer.context_length)

    @property
    def tokens(self) -> int:
        """How many tokens `encode_tokens` gives for an image, h * w."""
        return self.token_grid[0] * self.token_grid[1]


def load_clip(
    spec: ModelSpec,
    device: str = "cpu",
    precision: str = "fp32",
    config: dict[str, Any] | None = None,
) -> ClipModel:
    """Load a CLIP with its weights.

    Args:
        spec: name of the configuration, checkpoint ("package", a path, "hf-hub:org/name" or an
            open_clip tag such as "openai"), and the hash to check. A missing checkpoint means
            "package" for clip-micro. A tag decides the activation: OpenAI's weights were
            trained with QuickGELU and lose accuracy silently under GELU.
        device: torch device.
        precision: "fp32" or "bf16".
        config: another configuration than the name's own, as `clip_config` returns it.

    Raises:
        ModelError: unknown name; checkpoint missing, damaged, of another model, of another hash,
            or OpenAI's by its file name while the configuration has no QuickGELU.

    Source: A. Radford et al., arXiv:2103.00020; G. Ilharco et al., OpenCLIP (2021).
    """
    config = copy.deepcopy(config) if config else clip_config(spec.name)
    found = resolve_checkpoint(spec, config)
    if found.quick_gelu is not None:
        config["quick_gelu"] = found.quick_gelu
    elif _named_openai(spec.checkpoint) and not config.get("quick_gelu", False):
        raise ModelError(
            f"is OpenAI's by its name, but {spec.name} computes GELU instead of QuickGELU",
            path=found.path,
            remedy=f"set the model's name to {spec.name}-quickgelu in params.yaml",
        )
    model = build_clip(config)
    fill = fill_micro if found.path is None else fill_model
    digest = fill(model, found, spec)
    model = model.float().to(device).eval().requires_grad_(False)
    # Convolutions run about a third faster on this layout; a transformer does not mind.
    model.visual.to(memory_format=torch.channels_last)
    preprocess = {"interpolation": "bicubic", **OPENAI, **found.preprocess}
    preprocess |= config.get("preprocess_cfg", {})
    config.setdefault("quick_gelu", False)
    fingerprint = {
        "kind": "clip",
        "name": spec.name,
        "config": config,
        "preprocess": {k: preprocess[k] for k in ("mean", "std", "interpolation")},
        "checkpoint_sha256": digest,
        "code": CODE_VERSION,
        "open_clip": version("open_clip_torch"),
    }
    tokenizer = build_tokenizer(spec.name, config)
    return ClipModel(model, tokenizer, preprocess, precision, json.loads(json.dumps(fingerprint)))


def _named_openai(checkpoint: str | None) -> bool:
    """Say whether a file's own name, or a repository's, claims OpenAI's weights."""
    name = checkpoint or ""
    return "openai" in (name if name.startswith("hf-hub:") else Path(name).name).lower()
