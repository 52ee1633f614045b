"""Before a long run: whether this machine, the models and the disk can do it, and its time."""

from __future__ import annotations

import contextlib
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from joblib import cpu_count
from packaging.requirements import Requirement

from pipeline.config import ModelSpec, Params
from pipeline.encode.encode import encode_dataset, load_encoder
from pipeline.engine.options import RunOptions
from pipeline.engine.record import MODELS, RunRecord, library_versions
from pipeline.errors import PipelineError
from pipeline.io import partial_path, remove_leftovers, writing
from pipeline.manifest import read_manifest
from pipeline.models.catalogue import catalogue, human
from pipeline.paths import Paths
from pipeline.segment.prompt_quality import compared
from pipeline.segment.segment import load_predictor, segment_dataset
from pipeline.segment.strategies import strategy_class

IMAGES = 10
"""How many images are tried."""
MUCH = 0.9
"""Share of the memory that a run may use; of fp32's time, below which bf16 is worth a store."""
CGROUP = Path("/sys/fs/cgroup")
CHOSEN_FOR = "sam2-micro"
"""The model on which the default strategy, the mask prompt and the zoom were chosen."""


@dataclass
class Finding:
    """What was found about one thing. `status` is "ok", "warning" or "problem"."""

    check: str
    text: str
    remedy: str = ""
    status: str = ""

    def __post_init__(self) -> None:
        self.status = self.status or ("warning" if self.remedy else "ok")

    def line(self) -> str:
        return f"{self.status:8} {self.check}: {self.text}{f' - {self.remedy}' * bool(self.remedy)}"


@dataclass(frozen=True)
class TrialPaths(Paths):
    """A project whose stores are in another folder."""

    folder: Path = field(kw_only=True)

    def cache(self, dataset: str) -> Path:
        return self.folder / dataset


def examine(
    params: Params, paths: Paths, options: RunOptions, dataset: str | None = None
) -> Iterator[Finding]:
    """Yield what is found, one thing after another; nothing of the project is changed.

    Args:
        params: its profile and its sections segment and encode are tried.
        paths: of the project.
        options: device, batch size and workers of the run to come.
        dataset: the one to be run: ten of its images are segmented and encoded into stores of a
            temporary folder in cache/. None tries no images.
    """
    yield from _versions()
    try:
        device = options.model_options(params.segment.precision)["device"]
    except PipelineError as error:
        yield Finding("device", error.message, error.remedy, "problem")
        return
    free, total = memory(device)
    cores = f"{cpu_count()} cores, {human(free)} of {human(total)} memory free"
    yield Finding("device", f"{device}, {cores}")
    models: dict[str, Any] = {}
    sam2, clip = (params.models.sam2, load_predictor), (params.models.clip, load_encoder)
    wanted = {"segment": sam2, "encode": clip}
    if not strategy_class(params.segment).uses_sam2:
        del wanted["segment"]
    for stage, (spec, load) in wanted.items():
        try:
            models[stage] = model = load(params, options)
        except PipelineError as error:
            yield Finding(f"{stage} model", str(error), _fetching(spec), "problem")
            continue
        millions = sum(p.numel() for p in model.model.parameters()) / 1e6
        text = f"{spec.name}, {millions:.1f} M parameters, {model.image_size} px"
        yield Finding(f"{stage} model", text)
        yield _precision(stage, model, getattr(params, stage).precision)
    yield _strategy(params, paths, dataset)
    folder = partial_path(paths.cache("doctor"))
    try:
        with writing(folder):
            folder.mkdir(parents=True)
            remove_leftovers(paths.cache("doctor"))
        yield Finding("cache", f"{folder.parent} can be written")
        if dataset is None:
            yield Finding("trial", "no images were tried", "name a set: doctor --dataset NAME")
        elif len(models) == len(wanted):
            yield from _trial(dataset, params, paths, options, models, folder)
        if len(models) == len(wanted):
            most = "one image" if dataset is None else f"batches of up to {IMAGES} images"
            yield _memory(device, most)
    except PipelineError as error:
        yield Finding("trial", str(error), status="problem")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetching(spec: ModelSpec) -> str:
    """Return the command that fetches a model, "" if it is not in the catalogue."""
    named = [m.name for m in catalogue().values() if m.use["name"] == spec.name]
    return f"or run: pipeline models fetch {named[0]}" if named else ""


def _versions() -> Iterator[Finding]:
    found = library_versions(MODELS)
    yield Finding("versions", ", ".join(f"{name} {version}" for name, version in found.items()))
    for text in metadata.requires("medfocusclip") or ():
        wanted, version = Requirement(text), "missing"
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            with contextlib.suppress(metadata.PackageNotFoundError):
                version = metadata.version(wanted.name)
            if version == "missing" or not wanted.specifier.contains(version, prereleases=True):
                remedy = f'pip install "{wanted}" -c constraints.txt'
                yield Finding("versions", f"{wanted.name} is {version}", remedy, "problem")


def memory(device: str = "cpu") -> tuple[int, int]:
    """Return the free and the total memory in bytes of a device, or of this container."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)
    free, total = psutil.virtual_memory().available, psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        limit, used = (int((CGROUP / n).read_text()) for n in ("memory.max", "memory.current"))
        cached = re.search(r"^inactive_file (\d+)", (CGROUP / "memory.stat").read_text(), re.M)
        used -= int(cached[1]) if cached else 0
        free, total = min(free, max(0, limit - used)), min(total, limit)
    return free, total


def _precision(stage: str, model: Any, asked: str) -> Finding:
    """Compare bf16 with fp32 on an empty image, in the image encoder, which takes most time."""
    image = torch.zeros(1, 3, model.image_size, model.image_size, device=model.device)

    def segment() -> None:
        with torch.inference_mode(), model._autocast():
            model.model.forward_image(image)

    encode = segment if stage == "segment" else lambda: model.encode_image(image)
    seconds = probe_precision(model, encode)
    text = f"{asked} is {model.precision} on this device; bf16 "
    if "bf16" not in seconds:
        return Finding(f"{stage} precision", text + "does not run on it")
    ratio = seconds["bf16"] / seconds["fp32"]
    better = "bf16" if ratio < MUCH else "fp32" if ratio > 1 else model.precision
    remedy = f"set {stage}.precision: {better}; the store will be another one"
    text += f"takes {ratio:.2f} times fp32's time"
    return Finding(f"{stage} precision", text, remedy if better != model.precision else "")


def probe_precision(
    model: Any, forward: Callable[[], Any], rounds: int = 3, limit: float = 10.0
) -> dict[str, float]:
    """Return the shortest seconds of a forward pass in "fp32" and "bf16", measured in turns; one
    that the device cannot compute is missing.

    The first pass of each is not counted; after `limit` seconds no further round begins. The
    model's `precision` is left as it was.
    """
    stated, best, start = model.precision, {}, time.monotonic()
    for turn in range(rounds + 1):
        for model.precision in ("fp32", "bf16"):
            with contextlib.suppress(RuntimeError):
                begin = time.monotonic()
                forward()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                seconds = time.monotonic() - begin
                if turn:
                    best[model.precision] = min(seconds, best.get(model.precision, seconds))
        if turn and time.monotonic() - start > limit:
            break
    model.precision = stated
    return best


def _strategy(params: Params, paths: Paths, dataset: str | None) -> Finding:
    """Say for which model the prompt strategy was chosen, and what was measured on this one."""
    section, name = params.segment, params.models.sam2.name
    text = f"segment.prompt is {section.prompt}"
    if not strategy_class(section).uses_sam2 or name == CHOSEN_FOR:
        return Finding("strategy", f"{text}; the defaults were chosen for {CHOSEN_FOR}")
    text += f", zoom {section.zoom:g}, box_as_mask {str(section.box_as_mask).lower()}: the defaults"
    text += f" were chosen for {CHOSEN_FOR}, not for {name}"
    with contextlib.suppress(PipelineError, OSError):  # it was not measured
        record = RunRecord.read(paths.record(dataset or "", "prompt_quality"))
        table = pd.read_parquet(paths.prompt_quality(dataset or ""))
        dice = compared(table)
        if record.parameters.get("profile") == params.profile and len(dice):
            text += "; Dice here: " + ", ".join(f"{n} {value:.3f}" for n, value in dice.items())
            best = dice.index[0]
            remedy = "" if best == section.prompt else f"set segment.prompt: {best}"
            return Finding("strategy", text, remedy)
    remedy = "measure on some of your own masks: pipeline prompt-quality --dataset "
    remedy += f"{dataset or 'NAME'} --profile {params.profile} --images 50, then ask doctor again"
    return Finding("strategy", text, remedy)


def _trial(
    dataset: str,
    params: Params,
    paths: Paths,
    options: RunOptions,
    models: dict[str, Any],
    folder: Path,
) -> Iterator[Finding]:
    """Segment and encode some images as the stages do, and say what all of them will need."""
    manifest = read_manifest(paths.manifest(dataset))
    rows = np.linspace(0, len(manifest) - 1, min(IMAGES, len(manifest))).astype(int)
    only = manifest["image_id"].iloc[rows].tolist()
    options = replace(options, only=only, limit=None, force=False, progress=False)
    stages = {"segment": (segment_dataset, "predictor"), "encode": (encode_dataset, "clip")}
    anyway = {n: getattr(params, n).model_copy(update={"max_failed": 1.0}) for n in stages}
    params = params.model_copy(update=anyway)
    trial = TrialPaths(paths.root, paths.data_root, folder=folder)
    seconds = 0.0
    for stage, (compute, model) in stages.items():
        record = compute(dataset, params, trial, options, **{model: models.get(stage)})
        if record.failed:
            text = f"{len(record.failed)} of {record.total} images failed: {record.failures(1)[0]}"
            remedy = f"see pipeline data check --dataset {dataset}"
            yield Finding(f"{stage} trial failures", text, remedy, "problem")
        if not record.done:
            return
        seconds += record.seconds["total"] / record.done
        text = f"{record.done} images, {record.images_per_second:.2f} images/s"
        masks = ", ".join(f"{n} {status}" for status, n in record.masks.items())
        yield Finding(f"{stage} trial", text + (f"; masks: {masks}" if masks else ""))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / len(only)
    hours = len(manifest) * seconds / 3600
    about = f"{hours:.1f} h" if hours >= 2 else f"{60 * hours:.1f} min"
    text = f"{len(manifest):,} images: about {about} to segment and encode them here"
    yield Finding("time", f"{text}; audit, training and the report come after")
    free, needed = shutil.disk_usage(folder).free, len(manifest) * size
    text = f"stores of at most {human(needed)}, {human(free)} are free"
    remedy = "" if needed < free else "free some space, or put cache/ on another disk"
    yield Finding("disk", text, remedy, "problem" if remedy else "")


def _memory(device: str, tried: str) -> Finding:
    """Compare the most memory that was used until now with what there is; `tried` says for what."""
    if device.startswith("cuda"):
        used, held = torch.cuda.max_memory_reserved(device), torch.cuda.memory_reserved(device)
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        held = psutil.Process().memory_info().rss
    most = memory(device)[0] + held
    text = f"{human(used)} of {human(most)} were used by the models with {tried}"
    remedy = "a smaller --batch-size, or a smaller model" if used > MUCH * most else ""
    return Finding("memory", text, remedy)
