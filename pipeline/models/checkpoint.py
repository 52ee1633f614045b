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
from pipeline.errors import ModelError, printable

CHECKOUT = Path(__file__).resolve().parents[2]
HUB = "hf-hub:"
_FAILED_DOWNLOADS = {
    b"version https://git-lfs": "is a git-LFS pointer, not a checkpoint (run `git lfs pull`)",
    b"<!doctype": "is a web page, not a checkpoint",
    b"<html": "is a web page, not a checkpoint",
    b"<?xml": "is a web page, not a checkpoint",
}


def find_checkpoint(
    spec: ModelSpec,
    advice: str,
    *,
    package: Path | None,
    filename: str,
    download: Callable[[str], str],
) -> tuple[Path, str]:
    """Return the checkpoint file of a model and how to get it again.

    Args:
        spec: the model; a missing checkpoint means "package" if the model is embedded.
        advice: what to download and from where, for error messages.
        package: embedded weights, None if the model is not embedded.
        filename: the checkpoint's name in a hub repository.
        download: returns the local path of a hub repository's checkpoint.

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
        return from_hub(checkpoint.removeprefix(HUB), filename, download)
    path = Path(checkpoint).expanduser()
    for candidate in (path, CHECKOUT / path):
        if candidate.is_file():
            return candidate, advice
    raise ModelError(
        "no such checkpoint",
        path=path,
        remedy=f"{advice} and put it there, or name a repository as {HUB}organisation/name",
    )


def from_hub(repository: str, filename: str, download: Callable[[str], str]) -> tuple[Path, str]:
    """Return the local path of a hub repository's checkpoint and how to get it again.

    Raises:
        ModelError: it is not cached and cannot be downloaded, or there is no such repository.
    """
    advice = f"download {filename} from https://huggingface.co/{printable(repository)}"
    try:
        return Path(download(repository)), advice
    except Exception as error:
        raise ModelError(
            f"cannot be downloaded from the hub ({type(error).__name__})",
            path=f"{HUB}{repository}",
            remedy=f"write it as {HUB}organisation/name; without network, {advice} and give its "
            "path as `checkpoint`",
        ) from None


def check_sha256(path: Path, found: str, wanted: str | None, advice: str) -> None:
    """Raise ModelError if a checkpoint's SHA-256 is not `wanted`; the message has both."""
    if wanted is not None and found != wanted:
        raise ModelError(
            f"has SHA-256 {found}, but params.yaml requires {wanted}",
            path=path,
            remedy=f"{advice} again, or correct sha256 in params.yaml",
        )


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
    with open(path, "rb") as file:
        head = file.read(512)
    for start, problem in _FAILED_DOWNLOADS.items():
        if head.lstrip().lower().startswith(start):
            raise ModelError(problem, path=path, remedy=advice)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():  # about old pickles; the errors below say more
            warnings.simplefilter("ignore")
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError,
        SafetensorError,
    ) as error:  # fmt: skip
        problem = "is truncated or not a checkpoint"
        if "Weights only load failed" in str(error) and zipfile.is_zipfile(path):
            problem = "contains Python objects that loading would have to run; refused"
        raise ModelError(
            problem, path=path, remedy=f"{advice} again (the official files have only tensors)"
        ) from None
    for key in ("model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(
        isinstance(v, torch.Tensor) for v in loaded.values()
    ):
        raise ModelError("does not contain a dictionary of tensors", path=path, remedy=advice)
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


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
        state: tensors by name.
        path: the file of the tensors, for error messages.
        advice: how to get it, for error messages.
        optional: suffixes of names that the file may lack.

    Raises:
        ModelError: names are missing or unexpected, or shapes differ: another model's checkpoint.
    """
    own = model.state_dict()
    wanted = {n for n, t in own.items() if t.numel() and not n.endswith(optional)}
    wrong = {
        "missing": sorted(wanted - set(state)),
        "unexpected": sorted(set(state) - set(own)),
        "of another shape": [n for n in state if n in own and own[n].shape != state[n].shape],
    }
    if any(wrong.values()):
        text = "; ".join(f"{len(n)} {what} ({', '.join(n[:3])})" for what, n in wrong.items() if n)
        raise ModelError(
            f"is a checkpoint of another model: {text}",
            path=path,
            remedy=f"{advice}, or correct the model's name in params.yaml",
        )
    model.load_state_dict(state, strict=False)  # converts to the dtype of the model
