"""The models of a profile as one folder that works on another machine without network.

The folder has the files at the places that they will have in a project, profile.yaml with the lines
for params.yaml, and SHA256SUMS, which `sha256sum -c` reads.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from huggingface_hub import snapshot_download
from open_clip.pretrained import get_pretrained_cfg

from pipeline.config import LOCAL, TIMM, ModelSpec, Params
from pipeline.errors import ConfigError, ModelError
from pipeline.io import atomic_write, partial_path, remove_leftovers, sha256_file, writing
from pipeline.models.checkpoint import HUB, WEIGHTS
from pipeline.models.clip import CONFIG, load_clip
from pipeline.models.sam2 import load_sam2
from pipeline.models.timm_encoder import CONFIG as TIMM_CONFIG
from pipeline.models.timm_encoder import load_timm

SUMS, PROFILE = "SHA256SUMS", "profile.yaml"
TEXT_FILES = ("*.json", "*.txt", "*.model")
"""Of a text tower: configuration and tokenizer, without weights."""


def pack(params: Params, out: Path) -> list[str]:
    """Copy what the chosen profile's models need into a folder; return the places of the files.

    The copies are loaded as on another machine and must be the same models, else nothing is left.

    Raises:
        ConfigError: `out` exists.
        ModelError: a model of the profile cannot be loaded, or its copy is not the same.
        DiskError: the folder cannot be written.
    """
    if out.exists():
        raise ConfigError("exists already", path=out, remedy="name a folder that does not")
    folder = partial_path(out)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
    try:
        specs = {"sam2": params.models.sam2, "clip": params.models.clip}
        lines: dict[str, Any] = {}
        for kind, spec in specs.items():
            model = _load(kind, spec)
            with writing(out):
                copied = _copy(kind, spec, model, folder, params.profile)
            again = _load(kind, copied)
            if again.fingerprint | {"name": ""} != model.fingerprint | {"name": ""}:
                message = f"a copy of the files of {spec.name} is another model"
                remedy = "name its files in the profile by paths (docs/official_weights.md)"
                raise ModelError(message, path=folder, remedy=remedy)
            lines[kind] = copied.model_dump(exclude_none=True)
        with writing(out):
            folder.mkdir(exist_ok=True)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            places = [path.relative_to(folder).as_posix() for path in files]
            sums = [f"{sha256_file(folder / place)}  {place}\n" for place in places]
            (folder / SUMS).write_text("".join(sums), "utf-8")
            profile = yaml.safe_dump({"profiles": {params.profile: lines}}, sort_keys=False)
            (folder / PROFILE).write_text(profile, "utf-8")
            os.rename(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return places


def _load(kind: str, spec: ModelSpec) -> Any:
    load = load_timm if spec.name.startswith(TIMM) else load_clip
    return load_sam2(spec) if kind == "sam2" else load(spec)


def _copy(kind: str, spec: ModelSpec, model: Any, folder: Path, profile: str) -> ModelSpec:
    """Copy the files of a loaded model into a folder, and return the model of that folder."""
    root = Path(os.path.abspath(spec._folder))

    def put(path: Path, below: str = "") -> str:
        """Copy a file, to where it lies below the project or else into a folder of its own."""
        path = Path(os.path.abspath(path))
        at = PurePosixPath("checkpoints", profile, kind, below, path.name)
        if not below and path.is_relative_to(root / "checkpoints"):
            at = PurePosixPath(path.relative_to(root).as_posix())
        (folder / at).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / at)
        return at.as_posix()

    changed: dict[str, str | None] = {}
    weights = model.checkpoint
    if not weights.is_relative_to(WEIGHTS):
        changed["checkpoint"] = put(weights)
        config = weights.with_name(TIMM_CONFIG if spec.name.startswith(TIMM) else CONFIG)
        if kind == "clip" and config.is_file():
            put(config)
        elif kind == "clip" and get_pretrained_cfg(spec.name, spec.checkpoint or ""):
            changed["trained_as"] = spec.checkpoint
        if spec.name.startswith((HUB, LOCAL)):
            changed["name"] = LOCAL + str(PurePosixPath(changed["checkpoint"]).parent)
            changed["checkpoint"] = None
        elif spec.name.endswith(".json"):
            changed["name"] = put(spec.path(spec.name))
        for source in dict.fromkeys(filter(None, getattr(model, "text_from", ()))):
            at = Path(source)
            if not at.is_dir():
                at = Path(snapshot_download(source, allow_patterns=list(TEXT_FILES)))
            inside = at.resolve() == weights.parent.resolve()
            kept = inside or Path(os.path.abspath(at)).is_relative_to(root / "checkpoints")
            for file in sorted({file for pattern in TEXT_FILES for file in at.glob(pattern)}):
                place = put(file, "" if kept else "text")
                changed["text"] = changed.get("text") if inside else str(Path(place).parent)
    copied = spec.model_copy(update=changed)
    copied._folder = folder
    return copied


def unpack(packed: Path, root: Path) -> Iterator[str]:
    """Copy the files of a packed folder to their places in a project; yield a line about each.

    Every file is read and compared before the first is copied. A file that is there with the same
    bytes stays.

    Raises:
        ConfigError: it is no packed folder.
        ModelError: a file of it is missing or has another hash, or its place is taken by another.
        DiskError: it does not fit on the disk.
    """
    remedy = "name the folder that `pipeline models pack` wrote"
    try:
        sums = [line.split("  ", 1) for line in (packed / SUMS).read_text("utf-8").splitlines()]
        profile = (packed / PROFILE).read_text("utf-8")
        places = {place: digest for digest, place in sums}
    except (OSError, ValueError):
        raise ConfigError("is no packed model", path=packed, remedy=remedy) from None
    for place, wanted in places.items():
        path, at = packed / place, root / place
        if ".." in PurePosixPath(place).parts or not place.startswith("checkpoints/"):
            raise ConfigError(f"{place} is outside checkpoints/", path=packed, remedy=remedy)
        found = sha256_file(path) if path.is_file() else "none"
        if found != wanted:
            message = f"has SHA-256 {found}, and {wanted} was packed"
            raise ModelError(message, path=path, remedy="copy the folder again")
        if at.exists() and sha256_file(at) != wanted:
            raise ModelError("is another file", path=at, remedy="move it away, then unpack again")
    for place in places:
        there = (root / place).exists()
        if not there:
            with atomic_write(root / place) as partial:
                shutil.copyfile(packed / place, partial)
        yield f"{place}: {'there already' if there else 'unpacked'}"
    yield f"for params.yaml:\n{profile.rstrip()}"
