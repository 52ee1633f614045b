"""Find and read checkpoint files; code in them never runs, and errors name what is wrong."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.config import ModelSpec
from pipeline.errors import ModelError
from pipeline.io import sha256_file

CHECKOUT = Path(__file__).resolve().parents[2]
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
HUB = "hf-hub:"


def find_checkpoint(
    spec: ModelSpec,
    advice: str,
    *,
    package: Path | None,
    filename: str,
    download: Callable[[str], str],
    hub: str = "",
) -> tuple[Path, str]:
    """Return the checkpoint file of a model and how to get it again.

    Args:
        spec: the model; a missing checkpoint means "package" if the model is embedded.
        advice: what to download and from where, for error messages.
        package: embedded weights, None if the model is not embedded.
        filename: the checkpoint's name in a hub repository.
        download: returns the local path of a hub repository's checkpoint.
        hub: "hf-hub:organisation/name" of the official repository, if it is known.

    Returns:
        The path, and `advice` or, for a checkpoint on the hub, the advice for that repository.

    Raises:
        ModelError: no checkpoint is named, it does not exist, or the hub cannot be reached.
    """
    checkpoint = spec.checkpoint
    if checkpoint in (None, "package"):
        if package is None:
            raise ModelError(
                f"no checkpoint is given for {spec.name}",
                remedy=f"{advice} and set `checkpoint` in params.yaml to its path",
            )
        checkpoint = str(package)
    if checkpoint.startswith(HUB):
        repository = _hub_repository(checkpoint)
        advice = f"download {filename} from https://huggingface.co/{repository}"
        return from_hub(repository, download, advice), advice
    path = Path(checkpoint).expanduser()
    for candidate in (path, CHECKOUT / path):
        if candidate.is_file():
            return candidate, advice
    if checkpoint.count("/") == 1 and checkpoint[0] not in "./~" and path.suffix not in SUFFIXES:
        hub = f"{HUB}{checkpoint}"  # most likely a repository without the prefix
    otherwise = f", or set `checkpoint: {hub}`" if hub else ""
    raise ModelError(
        "no such checkpoint", path=path, remedy=f"{advice} and put it there{otherwise}"
    )


def from_hub(repository: str, download: Callable[[str], str], advice: str) -> Path:
    """Return the local path of a hub repository's checkpoint.

    Raises:
        ModelError: it is not cached and cannot be downloaded.
    """
    try:
        return Path(download(repository))
    except Exception as error:
        raise ModelError(
            f"cannot be downloaded from the hub ({type(error).__name__})",
            path=f"{HUB}{repository}",
            remedy=f"{advice} by hand and give its path as `checkpoint`",
        ) from None


def _hub_repository(checkpoint: str) -> str:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    repository = checkpoint.removeprefix(HUB)
    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise ModelError(
            "is not a valid repository on the hub",
            path=checkpoint,
            remedy=f"write it as {HUB}organisation/name",
        ) from None
    return repository


def check_sha256(path: Path, wanted: str | None, advice: str, found: str | None = None) -> str:
    """Return the SHA-256 of a checkpoint, `found` or that of the file.

    Raises:
        ModelError: it is not `wanted`; the message has both.
    """
    found = found or sha256_file(path)
    if wanted is not None and found != wanted:
        raise ModelError(
            f"has SHA-256 {found}, but params.yaml requires {wanted}",
            path=path,
            remedy=f"{advice} again, or correct sha256 in params.yaml",
        )
    return found


def read_state(path: Path, advice: str) -> dict[str, torch.Tensor]:
    """Read the tensors of a .safetensors or torch file (official {"model": ...} or flat).

    Args:
        path: the file. Torch files are read with `weights_only`: code in a pickle never runs.
        advice: what to download and from where, for error messages.

    Returns:
        Tensors by name, on the CPU, in the dtype of the file.

    Raises:
        ModelError: truncated, not a checkpoint, or one that needs code to run.
    """
    _check_head(path, advice)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():  # about old pickles; the errors below say more
            warnings.simplefilter("ignore")
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and zipfile.is_zipfile(path):
            problem = "contains Python objects that loading would have to run; refused"
            remedy = f"{advice} (the official files contain only tensors)"
            raise ModelError(problem, path=path, remedy=remedy) from None
        raise ModelError("is not a readable checkpoint", path=path, remedy=advice) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, SafetensorError) as error:
        if "TorchScript" in str(error):
            problem = "is a TorchScript archive, which contains code; refused"
            raise ModelError(problem, path=path, remedy=f"{advice} instead") from None
        words = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise ModelError(
            f"is truncated or not a checkpoint ({words})",
            path=path,
            remedy=f"{advice} again and compare its size",
        ) from None
    for key in ("model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(
        isinstance(v, torch.Tensor) for v in loaded.values()
    ):
        raise ModelError("does not contain a dictionary of tensors", path=path, remedy=advice)
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


def _check_head(path: Path, advice: str) -> None:
    """Refuse the files that failed downloads often leave."""
    with open(path, "rb") as file:
        head = file.read(512)
    problem = ""
    if not head:
        problem = "is empty"
    elif head.startswith(b"version https://git-lfs"):
        problem, advice = (
            "is a git-LFS pointer, not a checkpoint",
            f"run `git lfs pull`, or {advice}",
        )
    elif head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        problem = "is a web page, not a checkpoint"
    if problem:
        raise ModelError(problem, path=path, remedy=advice)


def load_into(
    model: torch.nn.Module,
    state: dict[str, torch.Tensor],
    path: Path,
    advice: str,
    optional: tuple[str, ...] = (),
) -> None:
    """Load tensors into a model in place, with strict names and shapes.

    Args:
        model: the model.
        state: tensors by name, converted to the dtype of the model.
        path: the file of the tensors, for error messages.
        advice: how to get it, for error messages.
        optional: suffixes of names that the file may lack.

    Raises:
        ModelError: names are missing or unexpected, or shapes differ: another model's checkpoint.
    """
    own = model.state_dict()
    problems = {
        "missing": [
            n for n, t in own.items() if t.numel() and not n.endswith(optional) and n not in state
        ],
        "unexpected": [n for n in state if n not in own],
        "of another shape": [
            f"{n} {tuple(t.shape)} instead of {tuple(own[n].shape)}"
            for n, t in state.items()
            if n in own and own[n].shape != t.shape
        ],
    }
    if any(problems.values()):
        text = "; ".join(
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in problems.items()
            if names
        )
        raise ModelError(
            f"is a checkpoint of another model: {text}",
            path=path,
            remedy=f"{advice}, or correct the model's name in params.yaml",
        )
    model.load_state_dict({n: t.to(own[n].dtype) for n, t in state.items()}, strict=False)
