"""Image encoders of timm in place of CLIP: features of images, and no texts."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import hf_hub_download
from timm.data import resolve_model_data_config

from pipeline.config import TIMM, ModelSpec
from pipeline.errors import ModelError
from pipeline.io import sha256_file
from pipeline.models.checkpoint import HUB, find_checkpoint
from pipeline.models.maps import timm_maps, timm_tokens

CODE_VERSION = 1
"""Increased whenever the features of an encoder change; part of the identity of feature stores."""
FILE, CONFIG = "model.safetensors", "config.json"
"""In a repository of timm: the weights, and what they were trained with."""
RESIZE = {"center": "shortest", "squash": "squash", "border": "longest"}
"""timm's crop modes as `resize_mode`."""


class TimmEncoder:
    """A timm network without its classifier: the features that the classifier would see.

    It stands in for `pipeline.models.clip.ClipModel` wherever images are encoded; see there for the
    attributes. It has no texts; its patch tokens are those of `timm_tokens`.

    Args:
        model: a timm model whose forward pass returns features (B, d), in evaluation mode.
        preprocess: mean, std, interpolation, resize_mode, and image_size in pixels.
        precision: "fp32" or "bf16" (autocast).
        fingerprint: everything that decides the features, JSON-able.

    Raises:
        ModelError: the forward pass fails at this image size, or gives no (B, d).
    """

    has_text = False
    checkpoint: Path | None = None
    token_grid = (0, 0)

    def __init__(
        self,
        model: torch.nn.Module,
        preprocess: dict[str, Any],
        precision: str = "fp32",
        fingerprint: dict[str, Any] | None = None,
    ):
        self.model, self.precision, self.fingerprint = model, precision, fingerprint or {}
        self.image_size = size = preprocess["image_size"]
        self.mean, self.std = tuple(preprocess["mean"]), tuple(preprocess["std"])
        self.interpolation = preprocess["interpolation"]
        self.resize_mode = preprocess["resize_mode"]
        self.device = next(model.parameters()).device
        try:
            (self.embed_dim,) = self.encode_image(torch.zeros(1, 3, size, size)).shape[1:]
        except (ValueError, RuntimeError, AssertionError) as error:
            message = f"this timm model gives no features of {size} x {size} images ({error})"
            raise ModelError(message, remedy="choose an image classifier of timm") from None
        with contextlib.suppress(ModelError), torch.inference_mode():
            probe = torch.zeros(1, 3, size, size, device=self.device)
            self.token_grid = tuple(timm_tokens(model, probe)[1].shape[1:3])
        self.tokens = self.token_grid[0] * self.token_grid[1]

    @torch.inference_mode()
    def encode_image(
        self, images: torch.Tensor, tokens: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return features, float32 (B, embed_dim), of images, float (B, 3, image_size, image_size),
        to which mean and std are applied; with `tokens`, and these, float32 (B, h * w, embed_dim),
        as `ClipModel.encode_image`."""
        images = images.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, self.precision == "bf16"):
            if not tokens:
                return self.model(images).float()
            features, found = timm_tokens(self.model, images)
            return features.float(), found.flatten(1, 2).float()

    @torch.inference_mode()
    def encode_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return features and feature maps of one forward pass, as `ClipModel.encode_maps`."""
        with torch.autocast(self.device.type, torch.bfloat16, self.precision == "bf16"):
            features, maps = timm_maps(self.model, images.to(self.device))
            return features.float(), [each.float() for each in maps]


def load_timm(spec: ModelSpec, device: str = "cpu", precision: str = "fp32") -> TimmEncoder:
    """Load an image encoder of timm with its weights.

    The mean, standard deviation, size and interpolation are those of the config.json beside the
    checkpoint, as timm's repositories have it, else those that timm lists for the name and tag.

    Args:
        spec: `name` is "timm:" and a name of `timm.list_models()`, perhaps with a tag; `checkpoint`
            a path or hf-hub:org/name, default: timm's repository of the name; `sha256` is checked.
        device: torch device.
        precision: "fp32" or "bf16".

    Raises:
        ModelError: unknown name; checkpoint missing, damaged, of another model or another hash; the
            input is not square.

    Source: R. Wightman, PyTorch Image Models (2019), github.com/huggingface/pytorch-image-models.
    """
    name = spec.name.removeprefix(TIMM)
    listed = None
    with contextlib.suppress(RuntimeError):  # an unknown tag
        listed = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if listed is None or spec.text or spec.trained_as:
        message = f"{name!r} is no model of timm with these options"
        remedy = "choose a name of timm.list_models(), such as timm:swin_tiny_patch4_window7_224"
        raise ModelError(message, remedy=f"{remedy}, without text and trained_as")
    repository = listed.hf_hub_id or f"timm/{name}"
    if spec.checkpoint is None:
        spec = spec.model_copy(update={"checkpoint": HUB + repository})
    advice = f"download {FILE} and {CONFIG} from https://huggingface.co/{repository}"
    checkpoint = find_checkpoint(spec, FILE, advice, download=_download)
    digest = sha256_file(checkpoint.path)
    checkpoint.check_sha256(digest, spec.sha256)
    beside = checkpoint.path.with_name(CONFIG)
    stated: dict[str, Any] = {}
    if beside.is_file():
        with contextlib.suppress(OSError, ValueError):
            stated = json.loads(beside.read_text("utf-8"))
    arguments, state = stated.get("model_args") or {}, checkpoint.read()
    if stated.get("architecture", listed.architecture) != listed.architecture:
        message = f"is the configuration of another model than {spec.name}"
        raise ModelError(message, path=beside, remedy="keep each repository in a folder of its own")
    heads = [listed.classifier] if isinstance(listed.classifier, str) else listed.classifier or []
    # The weights' own classifier, of whatever classes, is checked with all else, then removed.
    sizes = [len(state[f"{h}.weight"]) for h in (*heads, "head") if f"{h}.weight" in state]
    try:
        model = timm.create_model(name, **arguments | {"num_classes": [*sizes, 0][0]})
        # Weights of the authors themselves have older names, which timm translates.
        translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        state = translate(state, model) if translate else state
    except Exception as error:  # of timm, by what is wrong
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise checkpoint.error(f"timm cannot build {name} for it ({reason})") from None
    checkpoint.load_into(model, state, "num_batches_tracked")
    if sizes:
        model.reset_classifier(0)
    trained = model.pretrained_cfg | stated.get("pretrained_cfg", {})
    seen = resolve_model_data_config(model, pretrained_cfg=trained)
    channels, height, width = seen["input_size"]
    if channels != 3 or height != width:
        message = f"sees {channels} x {height} x {width} images, not square ones of three colours"
        raise checkpoint.error(message)
    preprocess = {
        "image_size": height,
        "mean": list(map(float, seen["mean"])),
        "std": list(map(float, seen["std"])),
        "interpolation": "bilinear" if seen["interpolation"] == "bilinear" else "bicubic",
        "resize_mode": RESIZE.get(seen["crop_mode"], "shortest"),
    }
    fingerprint = {
        "kind": "timm",
        "name": spec.name,
        "config": {"architecture": listed.architecture, "model_args": arguments},
        "preprocess": preprocess,
        "checkpoint_sha256": digest,
        "code": CODE_VERSION,
        "timm": timm.__version__,
    }
    model = model.float().to(device, memory_format=torch.channels_last)
    model = model.eval().requires_grad_(False)
    loaded = TimmEncoder(model, preprocess, precision, json.loads(json.dumps(fingerprint)))
    loaded.checkpoint = checkpoint.path
    return loaded


def _download(repository: str, filename: str) -> str:
    with contextlib.suppress(Exception):  # not every repository has a configuration
        hf_hub_download(repository, CONFIG)
    return str(Path(hf_hub_download(repository, filename)))
