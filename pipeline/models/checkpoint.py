"""Find and read checkpoint files; code in them never runs, and errors name what is wrong."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.config import ModelSpec
from pipeline.errors import ModelError, printable

HUB = "hf-hub:"
_FAILED_DOWNLOADS = {
    b"version https://git-lfs": "is a git-LFS pointer, not a checkpoint (run `git lfs pull`)",
    b"<": "is a web page, not a checkpoint",
}


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
            raise self.error(
                f"has SHA-256 {found}, but params.yaml requires {wanted}",
                " again, or correct sha256 in params.yaml",
            )

    def read(self) -> dict[str, torch.Tensor]:
        """Read the tensors of a .safetensors or torch file (official {"model": ...} or flat).

        Returns:
            Tensors by name, on the CPU, in the dtype of the file.

        Raises:
            ModelError: truncated, not a checkpoint, or one that needs code to run.
        """
        with open(self.path, "rb") as file:
            head = file.read(512).lstrip().lower()
        for start, problem in _FAILED_DOWNLOADS.items():
            if head.startswith(start):
                raise self.error(problem)
        try:
            if self.path.suffix == ".safetensors":
                return load_file(self.path)
            with warnings.catch_warnings():  # about old pickles; the errors below say more
                warnings.simplefilter("ignore")
                loaded: Any = torch.load(self.path, map_location="cpu", weights_only=True)
        except (
            pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError,
            SafetensorError,
        ) as error:  # fmt: skip
            problem = "is truncated or not a checkpoint"
            if "Weights only load failed" in str(error) and zipfile.is_zipfile(self.path):
                problem = "contains Python objects that loading would have to run; refused"
            raise self.error(problem, " again (the official files have only tensors)") from None
        for key in ("model", "state_dict"):
            if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
                loaded = loaded[key]
        if not isinstance(loaded, dict) or not all(map(torch.is_tensor, loaded.values())):
            raise self.error("does not contain a dictionary of tensors")
        return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}

    def load_into(
        self, model: torch.nn.Module, state: dict[str, torch.Tensor], *optional: str
    ) -> None:
        """Load tensors into a model in place, with strict names and shapes.

        Args:
            model: the model; tensors are converted to its dtypes.
            state: tensors by name.
            optional: suffixes of names that the file may lack.

        Raises:
            ModelError: names are missing or unexpected, or shapes differ: another model's file.
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
            raise self.error(
                f"is a checkpoint of another model: {'; '.join(text)}",
                ", or correct the model's name in params.yaml",
            )
        model.load_state_dict(state, strict=False)


def find_checkpoint(
    spec: ModelSpec,
    filename: str,
    advice: str,
    package: Path | None = None,
    download: Callable[[str, str], str] = hf_hub_download,
) -> Checkpoint:
    """Return the checkpoint of a model.

    Args:
        spec: the model; a missing checkpoint means "package" if the model is embedded.
        filename: the checkpoint's name in a hub repository.
        advice: what to download and from where, for error messages.
        package: embedded weights, None if the model is not embedded.
        download: returns the local path of a file in a hub repository.

    Raises:
        ModelError: no checkpoint is named, it does not exist, or the hub cannot be reached.
    """
    name = spec.checkpoint or "package"
    if name.startswith(HUB):
        repository = name.removeprefix(HUB)
        advice = f"download {filename} from https://huggingface.co/{printable(repository)}"
        try:
            return Checkpoint(Path(download(repository, filename)), advice)
        except Exception as error:
            raise ModelError(
                f"cannot be downloaded from the hub ({type(error).__name__})",
                path=name,
                remedy=f"write it as {HUB}organisation/name; without network, {advice} and give "
                "its path as `checkpoint`",
            ) from None
    path = package if name == "package" else Path(name).expanduser()
    if path is None or not path.is_file():
        raise ModelError(
            f"there is no such checkpoint of {spec.name}",
            path=path,
            remedy=f"{advice} and set `checkpoint` in params.yaml to its path, or to the name of "
            f"a repository as {HUB}organisation/name",
        )
    return Checkpoint(path, advice)
