"""Read a checkpoint without ever running code from it, and say plainly what is wrong with it."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.errors import ModelError
from pipeline.io import sha256_file

ROOT = Path(__file__).resolve().parent.parent.parent
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


def find_checkpoint(checkpoint: str, get: str, hub: str = "") -> Path:
    """Return a checkpoint's path, relative ones taken from here or else from the checkout.

    Args:
        checkpoint: the path as written in params.yaml.
        get: what to download and from where, for the message.
        hub: "hf-hub:organisation/name" that has it, for the message; "" = none is known.

    Raises:
        ModelError: there is no such file.
    """
    path = Path(checkpoint).expanduser()
    for candidate in (path, ROOT / path):
        if candidate.is_file():
            return candidate
    if checkpoint.count("/") == 1 and checkpoint[0] not in "./~" and path.suffix not in SUFFIXES:
        hub = f"hf-hub:{checkpoint}"  # most likely meant
    otherwise = f", or set `checkpoint: {hub}`" if hub else ""
    raise ModelError("no such checkpoint", path=path, remedy=f"{get} and put it there{otherwise}")


def hub_repository(checkpoint: str) -> str:
    """Return the repository of "hf-hub:organisation/name".

    Raises:
        ModelError: the hub can have no repository of this name.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    repository = checkpoint.removeprefix("hf-hub:")
    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise ModelError(
            "names no repository that the hub can have",
            path=checkpoint,
            remedy="write it as hf-hub:organisation/name",
        ) from None
    return repository


def check_sha256(path: Path, wanted: str | None, get: str) -> str:
    """Return the file's SHA-256.

    Raises:
        ModelError: it is not the wanted one; the message has both.
    """
    found = sha256_file(path)
    if wanted is not None and found != wanted:
        raise ModelError(
            f"has SHA-256 {found}, but {wanted} is asked for",
            path=path,
            remedy=f"{get} again, or correct sha256 in params.yaml",
        )
    return found


def _reject_text(path: Path, get: str) -> None:
    """Name the two files that downloads often leave in a checkpoint's place."""
    head = path.read_bytes()[:512] if path.stat().st_size < 512 else _head(path)
    start = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(
            "is a git-LFS pointer, not the checkpoint",
            path=path,
            remedy=f"run `git lfs pull`, or {get}",
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError("is a web page, not a checkpoint", path=path, remedy=f"{get}")
    if not head:
        raise ModelError("is empty", path=path, remedy=f"{get}")


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(512)


def _cut_off(path: Path, get: str, error: Exception) -> ModelError:
    words = (str(error) or type(error).__name__).splitlines()[0][:120]
    return ModelError(
        f"is cut off or not a checkpoint ({words})",
        path=path,
        remedy=f"{get} again and compare its size",
    )


def read_state(path: Path, get: str) -> dict[str, torch.Tensor]:
    """Read the tensors of a .safetensors file or of a torch file (official {"model": ...} or flat).

    Args:
        path: the file. A torch file is read with `weights_only`: code in a pickle never runs.
        get: what to download and from where, for the messages.

    Returns:
        Tensors by name, on the CPU, as stored.

    Raises:
        ModelError: cut off, not a checkpoint, or one that wants to run code.
    """
    _reject_text(path, get)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():  # torch's remarks on old pickles; what follows says more
            warnings.simplefilter("ignore")
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and zipfile.is_zipfile(path):
            raise ModelError(
                "holds Python objects that loading would have to run; refused",
                path=path,
                remedy=f"{get} (the official files hold tensors only)",
            ) from None
        raise ModelError("is not a readable checkpoint", path=path, remedy=f"{get}") from None
    except RuntimeError as error:
        if "TorchScript" not in str(error):
            raise _cut_off(path, get, error) from None
        raise ModelError(
            "is a TorchScript archive, which holds code; refused",
            path=path,
            remedy=f"{get} instead",
        ) from None
    except (EOFError, OSError, ValueError, KeyError, SafetensorError) as error:
        raise _cut_off(path, get, error) from None
    for key in ("model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    tables = isinstance(loaded, dict) and all(isinstance(v, torch.Tensor) for v in loaded.values())
    if not tables:
        raise ModelError("holds no table of tensors", path=path, remedy=f"{get}")
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


def load_into(
    model: torch.nn.Module,
    state: dict[str, torch.Tensor],
    path: Path,
    get: str,
    may_lack: tuple[str, ...] = (),
) -> None:
    """Load tensors strictly.

    Args:
        model: changed in place.
        state: tensors by name.
        path: where they come from, for the message.
        get: the remedy, for the message.
        may_lack: endings of names that the file need not hold.

    Raises:
        ModelError: another model's checkpoint; missing, unexpected and misshapen names are given.
    """
    own = model.state_dict()
    needed = [n for n, t in own.items() if t.numel() and not n.endswith(may_lack)]
    missing = [n for n in needed if n not in state]
    unexpected = [n for n in state if n not in own]
    shapes = [
        f"{n} {tuple(t.shape)} instead of {tuple(own[n].shape)}"
        for n, t in state.items()
        if n in own and own[n].shape != t.shape
    ]
    parts = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    problems = "; ".join(
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in parts
        if names
    )
    if problems:
        raise ModelError(
            f"is a checkpoint of another model: {problems}",
            path=path,
            remedy=f"{get}, or correct the model's name in params.yaml",
        )
    model.load_state_dict({n: t.to(own[n].dtype) for n, t in state.items()}, strict=False)
