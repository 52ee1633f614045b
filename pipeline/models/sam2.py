"""SAM2 for still images: the models of SAM 2.0 and 2.1, MedSAM2, EdgeTAM and SAM2-micro."""

from __future__ import annotations

import functools
import warnings
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import sam2
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor
from torchvision.transforms import Normalize, Resize

from pipeline.config import ModelSpec
from pipeline.errors import ModelError
from pipeline.io import sha256_file
from pipeline.models.checkpoint import find_checkpoint

CODE_VERSION = 1
"""Increased whenever the results of this module change; part of the identity of mask stores."""

SIZES = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}
URLS = {
    "sam2.1": "https://dl.fbaipublicfiles.com/segment_anything_2/092824",
    "sam2": "https://dl.fbaipublicfiles.com/segment_anything_2/072824",
}
OFFICIAL = {
    f"{release}_hiera_{size}": f"{release}/{release}_hiera_{short}.yaml"
    for release in URLS
    for size, short in SIZES.items()
}
"""Configurations of the package sam2 by the name of the model."""
MEDSAM2 = {"medsam2": OFFICIAL["sam2.1_hiera_tiny"]}
"""J. Ma et al., MedSAM2, arXiv:2504.03600: SAM2.1 tiny, trained at `MEDSAM2_SIZE` pixels."""
MEDSAM2_SIZE = 512
EDGETAM = {"edgetam": OFFICIAL["sam2_hiera_tiny"]}
"""C. Zhou et al., EdgeTAM, arXiv:2501.07256: SAM 2.0 with RepViT-M1 as trunk and half the layers
of memory attention; its configuration is that of github.com/facebookresearch/EdgeTAM."""
NAMED = OFFICIAL | MEDSAM2 | EDGETAM
VIDEO_ONLY = "spatial_perceiver."
"""The part of EdgeTAM that sam2 lacks: it compresses the memory of a video; images have none."""
STABLE = {  # as in sam2.build_sam for images
    "dynamic_multimask_via_stability": True,
    "dynamic_multimask_stability_delta": 0.05,
    "dynamic_multimask_stability_thresh": 0.98,
}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


class Sam2ImagePredictor(SAM2ImagePredictor):
    """sam2's predictor for any input size and normalisation.

    Its methods are those of sam2: images are uint8 (H, W, 3) RGB arrays, prompts are in pixels of
    the image. Hole filling and sprinkle removal are off: both need sam2's compiled extension, and
    results must not depend on it. The stages use `pipeline.segment.predictor.BatchPredictor`.

    Args:
        model: a SAM2Base in evaluation mode.
        mean, std: normalisation of the model.
        precision: "fp32", or "bf16" for autocast, which `BatchPredictor` applies.
        fingerprint: everything that decides the model's results, JSON-able: name, configuration,
            SHA-256 of the checkpoint, versions.

    Attributes:
        image_size: side of the square input in pixels.
        mask_prompt_size: side of a low-resolution mask prompt, image_size / 4.
        checkpoint: the file of the weights, if it was loaded from one.
    """

    checkpoint: Path | None = None

    def __init__(
        self,
        model: SAM2Base,
        mean: list[float],
        std: list[float],
        precision: str = "fp32",
        fingerprint: dict[str, Any] | None = None,
    ):
        with warnings.catch_warnings():  # sam2 uses torch.jit.script, which is deprecated
            warnings.simplefilter("ignore")
            super().__init__(model, max_hole_area=0.0, max_sprinkle_area=0.0)
        self.image_size = int(model.image_size)
        self.mask_prompt_size = self.image_size // 4
        self.precision = precision
        self.fingerprint = fingerprint or {}
        self._bb_feat_sizes = [(self.image_size // s,) * 2 for s in (4, 8, 16)]
        self._transforms.mean, self._transforms.std = mean, std
        self._transforms.transforms = torch.nn.Sequential(
            Resize((self.image_size, self.image_size)), Normalize(mean, std)
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, self.precision == "bf16")


def sam2_config(name: str) -> dict[str, Any]:
    """Return a SAM2 configuration: `model` (hydra's `_target_` tree), `mean`, `std`.

    `name` is "sam2-micro", "medsam2", "edgetam" or an official one such as "sam2.1_hiera_large";
    else a ModelError.
    """
    if name in NAMED:
        path = files(sam2) / "configs" / NAMED[name]
        # yaml would read 1e-6 as text
        model = OmegaConf.to_container(OmegaConf.create(path.read_text("utf-8")))["model"]
        model |= {"image_size": MEDSAM2_SIZE} if name in MEDSAM2 else {}
        if name in EDGETAM:
            trunk = {"_target_": "pipeline.models.trunk.TimmTrunk", "name": "repvit_m1"}
            model["image_encoder"]["trunk"] = trunk | {"out_indices": [0, 1, 2, 3]}
            model["image_encoder"]["neck"]["backbone_channel_list"] = [384, 192, 96, 48]
            model["memory_attention"]["num_layers"] = 2
        return {"model": {**model, "sam_mask_decoder_extra_args": dict(STABLE)}, **IMAGENET}
    path = files(__package__) / f"configs/{name}.yaml"
    if not path.is_file():
        names = ", ".join(["sam2-micro", *NAMED])
        raise ModelError(f"{name!r} is not a SAM2 configuration", remedy=f"choose from {names}")
    config = yaml.safe_load(path.read_text("utf-8"))
    return {key: config[key] for key in ("model", "mean", "std")}


def instantiate_sam2(model_config: dict[str, Any]) -> SAM2Base:
    """Build a SAM2Base with random weights from the `model` part of a configuration."""
    return instantiate(OmegaConf.create(model_config), _recursive_=True)


def load_sam2(
    spec: ModelSpec, device: str = "cpu", precision: str = "fp32", config: dict | None = None
) -> Sam2ImagePredictor:
    """Load SAM2 with its weights.

    Args:
        spec: name of the configuration, checkpoint ("package", a path, or "hf-hub:facebook/..."),
            the hash to check, and the size of the input if it is not that of the configuration.
        device: torch device.
        precision: "fp32" or "bf16".
        config: a configuration to use instead of that of `spec.name`, as of `sam2_config`.

    Returns:
        A predictor, ready for `set_image`.

    Raises:
        ModelError: unknown name; checkpoint missing, damaged, of another model or another hash;
            MedSAM2's weights by their file name at a size that they were not trained for.

    Source: N. Ravi et al., SAM 2: Segment Anything in Images and Videos, arXiv:2408.00714.
    """
    config = config or sam2_config(spec.name)
    if spec.image_size:
        config = config | {"model": config["model"] | {"image_size": spec.image_size}}
    file, repository = f"{spec.name}.pt", f"facebook/{spec.name.replace('_', '-')}"
    url = URLS.get(spec.name.split("_")[0], "")
    advice = f"download {url}/{file} (or set `checkpoint: hf-hub:{repository}`)"
    if spec.name in MEDSAM2 | EDGETAM:
        file = "MedSAM2_latest.pt" if spec.name in MEDSAM2 else file
        repository = "wanglab/MedSAM2" if spec.name in MEDSAM2 else "facebook/EdgeTAM"
        advice = f"download {file} from https://huggingface.co/{repository}"
    package = "" if spec.name in NAMED else f"{spec.name}.safetensors"
    checkpoint = find_checkpoint(spec, file, advice, package)
    if "medsam2" in checkpoint.path.name.lower() and not (spec.name in MEDSAM2 or spec.image_size):
        size = config["model"]["image_size"]
        message = f"is MedSAM2's by its name, and {spec.name} has {size} px"
        remedy = f"set the model's name to medsam2 ({MEDSAM2_SIZE} px), or state its image_size"
        raise ModelError(message, path=checkpoint.path, remedy=remedy)
    digest = sha256_file(checkpoint.path)
    checkpoint.check_sha256(digest, spec.sha256)
    model = instantiate_sam2(config["model"])
    state = checkpoint.read()
    if spec.name in EDGETAM:
        state = {name: t for name, t in state.items() if not name.startswith(VIDEO_ONLY)}
    checkpoint.load_into(model, state, "num_batches_tracked")
    model = model.to(device).eval()
    if torch.device(device).type == "cpu":
        model = model.to(memory_format=torch.channels_last)
    encoder = model.sam_prompt_encoder
    encoder.get_dense_pe = functools.cache(encoder.get_dense_pe)  # depends on its size alone
    fingerprint = {
        "kind": "sam2",
        "name": spec.name,
        "config": config,
        "checkpoint_sha256": digest,
        "code": CODE_VERSION,
        "sam2": version("sam2"),
    }
    loaded = Sam2ImagePredictor(model, config["mean"], config["std"], precision, fingerprint)
    loaded.checkpoint = checkpoint.path
    return loaded
