"""Adapters and their masks for a dataset: one for each test part of a split, which it never sees.

    cache/<dataset>/adapters/<variant>/<part>.safetensors, .json    see `files`
    cache/<dataset>/masks/<variant>/<part>.zarr                     masks of all images by this one

A part is "official", or the number of a fold: features of the training and the test images of that
fold then both come from an adapter that was trained on images of the other folds alone.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.adapt.examples import Examples, MaskOf, draw, true_mask
from pipeline.adapt.files import KNOWN, LatePredictor, read_about, write_adapter
from pipeline.adapt.fit import fit
from pipeline.adapt.methods import insert
from pipeline.config import DATASET_NAME, AdaptParams, Params
from pipeline.engine.options import RunOptions
from pipeline.engine.progress import show_progress
from pipeline.engine.record import RunRecord, library_versions, recorded
from pipeline.engine.run import image_items
from pipeline.errors import ConfigError, ManifestError, StoreError
from pipeline.images import read_mask
from pipeline.io import FileHashes, ProcessLock, atomic_write, sha256_json
from pipeline.manifest import read_manifest
from pipeline.models import Sam2ImagePredictor
from pipeline.paths import Paths
from pipeline.remote import exists
from pipeline.segment.quality import overlap
from pipeline.segment.segment import load_predictor, segment_dataset
from pipeline.splits import load_split_plan
from pipeline.store import WorkItem, open_masks
from pipeline.store.items import canonical, identity_diff

CODE_VERSION = 1
"""Increased whenever the same masks and parameters give another adapter."""


@dataclass(frozen=True)
class Adapted:
    """What `adapt_dataset` made: the record of the run, and for each part the number of images
    with ground truth in it (which its adapter never saw) and their mean Dice."""

    variant: str
    record: RunRecord
    dice: dict[str, tuple[int, float]]

    def summary(self) -> str:
        """Return one line for each part, and their mean."""
        lines = [self.record.summary()]
        for part, (n, mean) in self.dice.items():
            lines.append(f"{self.variant}/{part}: mean Dice {mean:.3f} on {n} images of this part")
        if not self.dice:
            lines.append(f"{self.variant}: no ground truth to compare the masks with")
        if len(self.dice) > 1:
            mean = np.mean([mean for _, mean in self.dice.values()])
            lines.append(f"{self.variant}: mean Dice over the parts {mean:.3f}")
        return "\n".join(lines)


def adapt_dataset(
    dataset: str,
    params: Params,
    paths: Paths,
    options: RunOptions = RunOptions(),
    *,
    variant: str = "",
    load: Callable[[], Sam2ImagePredictor] | None = None,
) -> Adapted:
    """Fine-tune SAM2 on ground-truth masks of training images, and segment all images with it.

    Nothing is prompted. One adapter is trained for each part of the split `adapt.protocol`, on
    `adapt.shots` images whose patient, group and copies are all outside that part; labels decide
    nothing. What is there already is kept; an interrupted run continues. With `adapt.source` the
    masks learned from are those of a variant that a person corrected; ground truth only measures.

    Args:
        dataset: name of data_manifests/<dataset>.csv.
        params: `adapt`, `splits`, `segment` and the profile's `sam2` are used.
        paths: of the project folder.
        options: of this run; `force` trains again.
        variant: the name of what is made; default e.g. lora-16, or lora-16-seed-1.
        load: returns a fresh SAM2, instead of the one of the profile.

    Raises:
        ConfigError: fewer masks than shots; or the variant exists with other choices.
        ManifestError: no image of a training part has a mask to learn from.
        ImageError: a mask that is learned from is empty or cannot be read.
        ModelError, StageFailed, StoreError: as `segment_dataset`.
    """
    section, manifest = params.adapt, read_manifest(paths.manifest(dataset))
    variant = variant or default_name(section)
    if not re.fullmatch(DATASET_NAME, variant):
        remedy = "use letters, digits, - and _"
        raise ConfigError(f"{variant!r} cannot be the name of a variant", remedy=remedy)
    plan, hashes = load_split_plan(dataset, params, paths), FileHashes(paths.hashes(dataset))
    marked = manifest[(manifest["mask_path"] != "") & (manifest["mask_area"] != "0")]
    items = image_items(marked, paths.data(dataset), truth=True, hashes=hashes)
    teachers, mask_of = items, true_mask
    if section.source:
        teachers, mask_of = corrected(dataset, section.source, manifest, paths)
    hashes.save()
    if without := sorted(set(manifest["label"]) - {item.row["label"] for item in teachers}):
        text = f"adapt {dataset}: no image of {', '.join(without)} has a mask: where such an image "
        text += "gets an empty mask, that alone tells its class (docs/adapt.md)"
        print(text, file=sys.stderr, flush=True)
    load = load or partial(load_predictor, params, options)
    prompt = section.average or "no-prompt"
    # Variants from before there was `average` are those without it.
    chosen = section.model_dump(mode="json", exclude=set() if section.average else {"average"})
    base = load()
    known = {name: getattr(base, name) for name in KNOWN}
    del base  # a model for each part is loaded where there is something to do
    parts, units = plan.parts(section.protocol), plan.units
    record = RunRecord(f"adapt-{variant}", dataset, total=len(parts))
    record.parameters = {"profile": params.profile, "adapt": section.model_dump(mode="json")}
    record.versions, dice = library_versions(), {}
    folder = paths.adapter(dataset, variant)
    with (
        ProcessLock(folder.with_suffix(".lock"), "variant"),
        recorded(record, paths.record(dataset, record.stage)),
    ):
        for seed, part in enumerate(parts):
            split = plan.get(section.protocol, seed)
            test, learned = set(split.test), {*split.train, *split.val}
            taboo = {units[image_id] for image_id in test}
            free = [i for i in teachers if i.image_id in learned and units[i.image_id] not in taboo]
            examples = choose(free, section, units, part, paths.manifest(dataset))
            path = folder / f"{part}.safetensors"
            about = {
                **{"dataset": dataset, "variant": variant, "part": part, "code": CODE_VERSION},
                **{"base": known["fingerprint"], "params": chosen},
                "keys": sorted(item.key for item in examples),
                "images": [item.image_id for item in examples],
            }
            if is_there(path, about, force=options.force):
                record.skipped += 1
            else:
                title = f"adapt {dataset} {variant}/{part}"
                shown = {"unit": "steps", "show": options.progress}
                with show_progress(title, section.steps, **shown) as count:
                    train_adapter(path, load(), examples, mask_of, params, canonical(about), count)
                record.done += 1
            adapted = LatePredictor(path, known, dataset, load)
            unprompted = params.segment.model_copy(update={"prompt": prompt})
            asked = params.model_copy(update={"segment": unprompted})
            how = replace(options, force=False, on_mismatch="rebuild")
            name = f"{variant}/{part}"
            segment_dataset(dataset, asked, paths, how, predictor=adapted, variant=name)
            if unseen := [item for item in items if item.image_id in test]:
                dice[part] = measure(unseen, dataset, paths, name)
    return Adapted(variant, record, dice)


def is_there(path: Path, about: dict[str, Any], *, force: bool) -> bool:
    """Return whether the adapter at `path` is the one that `about` describes; ConfigError if it is
    another one, unless that one is to be replaced."""
    stored = None if force else read_about(path)
    if stored is None:
        return False
    if other := identity_diff({key: stored.get(key) for key in about}, canonical(about)):
        message = f"the variant was made with other choices: {'; '.join(other)[:300]}"
        remedy = "give this one another --name, or replace it with --force"
        raise ConfigError(message, path=path, remedy=remedy)
    return True


def default_name(section: AdaptParams) -> str:
    """Return the name of a variant: its method, number of masks, and seed unless it is 0."""
    name = f"{section.method}-{section.shots or 'all'}"
    name += f"-{section.source}" if section.source else ""
    name += "-official" if section.protocol == "official" else ""
    name += f"-{section.average}" if section.average else ""
    return name + (f"-seed-{section.seed}" if section.seed else "")


def choose(
    free: list[WorkItem], section: AdaptParams, units: dict[str, str], part: str, manifest: Path
) -> list[WorkItem]:
    """Return the items that the adapter of a part learns from, by id; see `draw`."""
    by_id = {item.image_id: item for item in free}
    if not by_id:
        message = f"no image outside part {part} has a ground-truth mask"
        remedy = "give masks with `pipeline data add --masks`, or segment without an adapter"
        if section.source:
            message = f"no image outside part {part} has a corrected mask in {section.source}"
            remedy = "correct more of them with `pipeline review`"
        raise ManifestError(message, path=manifest, remedy=remedy)
    if section.shots > len(by_id):
        message = f"only {len(by_id)} images outside part {part} have a mask, not {section.shots}"
        raise ConfigError(message, path=manifest, remedy="give --shots that many; 0 means all")
    return [by_id[i] for i in draw(list(by_id), units, section.shots, section.seed, part)]


def corrected(
    dataset: str, source: str, manifest: pd.DataFrame, paths: Paths
) -> tuple[list[WorkItem], MaskOf]:
    """Return the images whose mask in a variant a person has corrected, but empty ones, and what
    gives their masks. StoreError if there is no such variant, or it is the work of an adapter."""
    path = paths.masks(dataset, f"{source}/all")
    masks = open_masks(path) if exists(path) else None
    if masks is None or masks.identity.get("stage") != "review":
        remedy = f"run: pipeline review --dataset {dataset}"
        raise StoreError("there are no masks corrected by a person", path=path, remedy=remedy)
    table = masks.table().reindex(manifest["image_id"])
    said = table["prompt"].fillna("").str.startswith("reviewed")
    usable = said & (table["area"] > 0) & (table["sha256"] == manifest["sha256"].to_numpy())
    rows = manifest[usable.to_numpy()]
    crc = table["crc"]
    items = image_items(rows, paths.data(dataset), lambda row: {"mask": int(crc[row["image_id"]])})
    return items, lambda item, shape: masks[item.image_id]


def train_adapter(
    path: Path,
    predictor: Sam2ImagePredictor,
    items: list[WorkItem],
    mask_of: MaskOf,
    params: Params,
    about: dict[str, Any],
    count: Callable[[int, int], None],
) -> None:
    """Train an adapter on some items and write it; `predictor` is a fresh one, `about` decides the
    adapter. On the CPU one thread computes, so that it is the same bits on any machine's cores."""
    section, before = params.adapt, torch.get_num_threads()
    base = {
        name: value.detach().cpu().clone() for name, value in predictor.model.named_parameters()
    }
    examples = Examples.read(items, predictor, params.images.shown, mask_of)
    state = path.with_name(f"{path.stem}-{sha256_json(about)[:16]}.pt")
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(section.seed)
            insert(predictor.model, section.method, section.rank)
            losses = fit(predictor, examples, section, state, count)
    finally:
        torch.set_num_threads(before)
    tenth = max(1, len(losses) // 10)
    ends = {"first": float(np.mean(losses[:tenth])), "last": float(np.mean(losses[-tenth:]))}
    write_adapter(path, predictor, base, about | {"loss": ends})
    for left in (*path.parent.glob(f"{path.stem}-*.pt"), *path.parent.glob(f".{path.stem}-*.pt")):
        left.unlink(missing_ok=True)  # those of other choices, and those half written, as well


def measure(items: list[WorkItem], dataset: str, paths: Paths, variant: str) -> tuple[int, float]:
    """Compare the masks of a variant with the ground truth of some items; write their Dice to
    <part>.parquet beside the adapter (image_id, dice, iou, status) and return number and mean."""
    masks, rows = open_masks(paths.masks(dataset, variant)), []
    status = masks.table()["status"]
    for item in items:
        if status.get(item.image_id) in ("ok", "empty", "full"):
            mask = masks[item.image_id]
            truth = read_mask(item.row["truth_file"], item.frame, shape=mask.shape)
            rows.append((item.image_id, *overlap(mask, truth), status[item.image_id]))
    table = pd.DataFrame(rows, columns=["image_id", "dice", "iou", "status"])
    with atomic_write(paths.adapter(dataset, variant).with_suffix(".parquet")) as partial:
        table.to_parquet(partial, index=False)
    return len(table), float(table["dice"].mean())
