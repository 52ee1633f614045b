"""SAM2 for still images: the official SAM2.1 models and SAM2-micro through one factory."""

from __future__ import annotations

import functools
import warnings
from contextlib import nullcontext
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import numpy as np
import sam2
import torch
import yaml
from omegaconf import OmegaConf
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor
from torchvision.transforms import Normalize, Resize

from pipeline.errors import ModelError
from pipeline.models.build import instantiate_sam2
from pipeline.models.checkpoint import (
    check_sha256,
    find_checkpoint,
    hub_repository,
    load_into,
    read_state,
)
from pipeline.models.spec import ModelSpec

CODE_VERSION = 1
"""Raised whenever this module's results change; part of every mask store's identity."""

OFFICIAL = {
    "sam2.1_hiera_tiny": "t",
    "sam2.1_hiera_small": "s",
    "sam2.1_hiera_base_plus": "b+",
    "sam2.1_hiera_large": "l",
}
URL = "https://dl.fbaipublicfiles.com/segment_anything_2/092824"
STABLE = {  # what sam2.build_sam sets for images
    "dynamic_multimask_via_stability": True,
    "dynamic_multimask_stability_delta": 0.05,
    "dynamic_multimask_stability_thresh": 0.98,
}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


class Sam2ImagePredictor(SAM2ImagePredictor):
    """sam2's predictor for any image size and normalisation.

    `set_image`, `set_image_batch`, `predict` and `predict_batch` are sam2's own: images are
    uint8 (H, W, 3) RGB arrays, prompts are in pixels of the image. Neither hole filling nor
    sprinkle removal is on: both need sam2's compiled extension, and results must not depend on
    whether it was built.

    Args:
        model: a SAM2Base in evaluation mode.
        mean: the model's normalisation.
        std: the same.
        precision: "fp32" or "bf16"; the latter computes under autocast, prompts and masks stay
            float32.
        fingerprint: what identifies the model's results.

    Attributes:
        image_size: side of the square the image is squashed to.
        mask_prompt_size: side of a low-resolution mask prompt, image_size / 4.
        fingerprint: JSON-able; name, configuration, checkpoint's SHA-256, versions.
        precision: as given.
    """

    def __init__(
        self,
        model: SAM2Base,
        mean: list[float],
        std: list[float],
        precision: str = "fp32",
        fingerprint: dict[str, Any] | None = None,
    ):
        with warnings.catch_warnings():  # sam2 scripts its resize, which torch calls outdated
            warnings.simplefilter("ignore")
            super().__init__(model, max_hole_area=0.0, max_sprinkle_area=0.0)
        self.image_size = int(model.image_size)
        self.mask_prompt_size = self.image_size // 4
        self.precision = precision
        self.fingerprint = fingerprint or {}
        self._bb_feat_sizes = [(self.image_size // s,) * 2 for s in (4, 8, 16)]
        self._transforms.mean, self._transforms.std = list(mean), list(std)
        self._transforms.transforms = torch.nn.Sequential(
            Resize((self.image_size, self.image_size)), Normalize(list(mean), list(std))
        )

    def _autocast(self) -> Any:
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    @torch.inference_mode()
    def set_image(self, image: np.ndarray) -> None:
        """Encode one uint8 (H, W, 3) image."""
        with self._autocast():
            super().set_image(image)

    @torch.inference_mode()
    def set_image_batch(self, image_list: list[np.ndarray]) -> None:
        """Encode uint8 (H, W, 3) images, each of its own size."""
        with self._autocast():
            super().set_image_batch(image_list)

    @torch.inference_mode()
    def _predict(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        with self._autocast():
            return super()._predict(*args, **kwargs)


def sam2_config(name: str) -> dict[str, Any]:
    """Return a SAM2 configuration: `model` (hydra's `_target_` tree), `mean`, `std`.

    Args:
        name: "sam2-micro" or an official name such as "sam2.1_hiera_large".

    Raises:
        ModelError: there is no such configuration.
    """
    if name in OFFICIAL:
        path = files(sam2) / f"configs/sam2.1/sam2.1_hiera_{OFFICIAL[name]}.yaml"
        # OmegaConf, not yaml: only it reads 1e-6 as a number
        model = OmegaConf.to_container(OmegaConf.create(path.read_text("utf-8")))["model"]
        return {"model": {**model, "sam_mask_decoder_extra_args": dict(STABLE)}, **IMAGENET}
    path = files("pipeline.models") / f"configs/{name}.yaml"
    if not path.is_file():
        names = ", ".join(["sam2-micro", *OFFICIAL])
        raise ModelError(f"{name!r} is no SAM2 configuration", remedy=f"choose one of {names}")
    config = yaml.safe_load(path.read_text("utf-8"))
    return {key: config[key] for key in ("model", "mean", "std")}


def _download(name: str) -> str:
    if name not in OFFICIAL:
        return "restore pipeline/models/weights from git or run `python -m tools.pretrain`"
    return f"download {URL}/{name}.pt (on the hub: {_hub(name).removeprefix('hf-hub:')})"


def _hub(name: str) -> str:
    return f"hf-hub:facebook/{name.replace('_', '-')}" if name in OFFICIAL else ""


def load_sam2(
    spec: ModelSpec,
    device: str = "cpu",
    precision: str = "fp32",
    config: dict[str, Any] | None = None,
) -> Sam2ImagePredictor:
    """Load SAM2 with its weights.

    Args:
        spec: name of the configuration, checkpoint ("package", a path, or "hf-hub:facebook/..."),
            and the hash to check. A missing checkpoint means "package" for sam2-micro.
        device: torch device.
        precision: "fp32" or "bf16".
        config: another configuration than the name's own, as `sam2_config` returns it.

    Returns:
        A predictor, ready for `set_image`.

    Raises:
        ModelError: unknown name; checkpoint missing, damaged, of another model or of another hash.

    Source: N. Ravi et al., SAM 2: Segment Anything in Images and Videos, arXiv:2408.00714.
    """
    config = config or sam2_config(spec.name)
    get = _download(spec.name)
    checkpoint = spec.checkpoint
    if checkpoint is None and spec.name in OFFICIAL:
        raise ModelError(
            f"no checkpoint is given for {spec.name}",
            remedy=f"{get} and set `checkpoint` in params.yaml to where it lies",
        )
    if checkpoint in (None, "package"):
        path = files("pipeline.models") / f"weights/{spec.name}.safetensors"
        path = find_checkpoint(str(path), get)
    elif checkpoint.startswith("hf-hub:"):
        repo = hub_repository(checkpoint)
        get = f"download {spec.name}.pt from https://huggingface.co/{repo}"
        path = _from_hub(repo, spec.name, get)
    else:
        path = find_checkpoint(checkpoint, get, _hub(spec.name))
    digest = check_sha256(path, spec.sha256, get)
    model = instantiate_sam2(config["model"])
    load_into(model, read_state(path, get), path, get, may_lack=("num_batches_tracked",))
    model = model.to(device).eval()
    if torch.device(device).type == "cpu":
        model = model.to(memory_format=torch.channels_last)
    _cache_positions(model)
    fingerprint = {
        "kind": "sam2",
        "name": spec.name,
        "config": config,
        "checkpoint_sha256": digest,
        "code": CODE_VERSION,
        "sam2": version("sam2"),
    }
    return Sam2ImagePredictor(model, config["mean"], config["std"], precision, fingerprint)


def _cache_positions(model: SAM2Base) -> None:
    """Compute the prompt encoder's dense positions once: they depend on nothing but its size."""
    encoder = model.sam_prompt_encoder
    encoder.get_dense_pe = functools.cache(encoder.get_dense_pe)


def _from_hub(repo: str, name: str, get: str) -> Any:
    from pathlib import Path

    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo_id=repo, filename=f"{name}.pt"))
    except Exception as error:
        raise ModelError(
            f"cannot be had from the hub ({type(error).__name__})",
            path=f"hf-hub:{repo}",
            remedy=f"{get} by hand and give its path as `checkpoint`",
        ) from None
