"""What a better mask is worth: results/masks.md, masks.csv, masks_accuracy.csv and masks.svg.

The Dice of every mask there is, and the accuracy of the rows of the study that see it, from what
the stages have left. What was not made has no row; nothing is computed but means. Variants are
measured on many days, and their masks need not be kept: rows of the CSV files that are there stand
until they are measured again, or the manifest of their data set changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.audit.table import read_audit
from pipeline.config import Params, parts_of, variant_of
from pipeline.errors import ManifestError, PipelineError, StoreError
from pipeline.evaluate.comparison import MEAN
from pipeline.evaluate.intervals import mean_interval
from pipeline.evaluate.predictions import Run, image_units, read_runs
from pipeline.io import atomic_write_text, csv_text, sha256_file
from pipeline.learners.choose import kind_of
from pipeline.learners.variants import Variants
from pipeline.manifest import read_manifest
from pipeline.paths import Paths
from pipeline.report import words
from pipeline.report.build import git_commit, render, seen
from pipeline.report.plots import dice_file
from pipeline.splits import load_split_plan
from pipeline.store import open_masks

STORED, TRUTH, RANDOM = "stored", "truth", "random"
"""The masks of `segment`; the ground truth; a region of the stored mask's shape, elsewhere."""
DICE = ["dice", "dice_lo", "dice_hi"]
DICE_KEY = ["dataset", "masks"]
ROWS_KEY = ["dataset", "protocol", "learner", "view"]
TEXT = [*DICE_KEY, *ROWS_KEY[1:], "method", "seed", "name", "verdict", "place", "data", "commit"]
"""Columns that are text, of either table."""
SHOWN = "name learner view accuracy accuracy_lo accuracy_hi n_images"


def write_masks(params: Params, paths: Paths, datasets: Sequence[str]) -> list[Path]:
    """Write masks.md, masks.csv (Dice), masks_accuracy.csv and masks.svg of some datasets to
    results/. PipelineError: no mask was compared with ground truth, or a CSV there is another
    table."""
    dice = pd.DataFrame([row for name in datasets for row in dice_rows(name, params, paths)])
    rows = pd.DataFrame([row for name in datasets for row in accuracy_rows(name, params, paths)])
    if dice.empty:
        remedy = f"run: pipeline evaluate --dataset {datasets[0]}, or pipeline adapt"
        raise PipelineError("no masks were compared with ground truth", remedy=remedy)
    manifests = paths.manifest("x").parent.glob("*.csv")
    data = {file.stem: sha256_file(file)[:8] for file in manifests}
    commit = re.sub(r"(?<=^[0-9a-f]{7})[0-9a-f]{33}", "", git_commit(Path(paths.root)))
    tables = {"masks.csv": (dice, DICE_KEY), "masks_accuracy.csv": (rows, ROWS_KEY)}
    dice, rows = (
        with_earlier(table, key, paths.results / name, data, commit)
        for name, (table, key) in tables.items()
    )
    # A control of a variant is drawn at the Dice of the masks whose region it has elsewhere.
    there = dice.rename(columns={"masks": "place"})[["dataset", "place", *DICE]]
    drawn = rows if rows.empty else rows.merge(there).dropna(subset=["dice", "difference"])
    drawn = drawn[drawn["learner"] == params.study.baseline.learner] if len(drawn) else drawn
    found = {"dice": dice.to_dict("records"), "rows": rows.to_dict("records"), "drawn": len(drawn)}
    named = [*dict.fromkeys(dice["dataset"])]
    found |= {"seen": {name: text for name in named if (text := seen_by_base(name, paths))}}
    by = " ".join(["pipeline results --masks", *(f"--dataset {name}" for name in datasets)])
    files = {"masks.md": render("masks.md.j2", words=words, made_by=by, **found)}
    files |= {"masks.csv": csv_text(dice)}
    files |= {"masks_accuracy.csv": csv_text(rows)} if len(rows) else {}
    files |= {"masks.svg": dice_file(drawn)} if len(drawn) else {}
    for name, text in files.items():
        atomic_write_text(paths.results / name, text)
    if rows.empty:  # so that what was dropped does not come back
        (paths.results / "masks_accuracy.csv").unlink(missing_ok=True)
    return [paths.results / name for name in files]


def with_earlier(
    table: pd.DataFrame, key: list[str], file: Path, data: dict[str, str], commit: str
) -> pd.DataFrame:
    """Return the rows of a table with `data` (of their dataset) and `commit`, and those of a CSV
    that have another key, unless `data` now says something else of their dataset."""
    if len(table):
        table = table.assign(data=table["dataset"].map(data), commit=commit)
    if not file.is_file():
        return table
    try:  # "NA" may be a name
        how = {"keep_default_na": False, "na_values": [""]}
        earlier = pd.read_csv(file, dtype=dict.fromkeys(TEXT, str), **how)
    except ValueError:  # not a table
        earlier = pd.DataFrame()
    if missing := {*key, "data", "commit"} - {*earlier}:
        remedy = "move it away; what is measured now is then written without earlier rows"
        message = f"no column {min(missing)}: not a table of `pipeline results --masks`"
        raise PipelineError(message, path=file, remedy=remedy)
    earlier = earlier.fillna({name: "" for name in TEXT if name in earlier})
    same = earlier["dataset"].map(data).fillna(earlier["data"]) == earlier["data"]
    table = pd.concat([table, earlier[same]]).drop_duplicates(key)
    return table.sort_values(key[: len(key) // 2], kind="stable", ignore_index=True)


def seen_by_base(dataset: str, paths: Paths) -> str:
    """Say how many images the weights of `segment` were trained on; "" where none is known."""
    with suppress(StoreError, ManifestError):
        return seen(open_masks(paths.masks(dataset)), read_manifest(paths.manifest(dataset)))
    return ""


def dice_rows(dataset: str, params: Params, paths: Paths) -> Iterator[dict[str, Any]]:
    """Yield the mean Dice of each strategy and variant of a dataset, with its interval over units;
    of a variant on images that the adapter of their part has not seen; and the mean of the stored
    masks on the same images."""
    manifest, stored = read_manifest(paths.manifest(dataset)), pd.Series(dtype=float)
    units = image_units(manifest, read_audit(paths.audit(dataset), manifest))

    def row(masks: str, method: str, table: pd.DataFrame, **about: Any) -> dict[str, Any]:
        of = [units.get(i, i) for i in table["image_id"]]
        mean = mean_interval(table["dice"].to_numpy(), of, params.evaluate)
        about |= dict(zip(DICE, mean, strict=True))
        about |= {"stored_dice": stored.reindex(table["image_id"]).mean()}
        n = int(table["dice"].notna().sum())
        return {"dataset": dataset, "masks": masks, "method": method, "n_dice": n} | about

    if (file := paths.mask_quality(dataset)).is_file():
        quality = pd.read_parquet(file)
        stored = quality[~quality["strategy"].isin([*words.FLOORS])].set_index("image_id")["dice"]
        for name, of in quality.groupby("strategy", sort=False):
            yield row(name if name in words.FLOORS else STORED, words.FLOORS.get(name, name), of)
            if name == RANDOM:
                yield row(TRUTH, "ground truth", of.assign(dice=1.0))
    if (file := paths.prompt_quality(dataset)).is_file():
        for (name, given), of in pd.read_parquet(file).groupby(["strategy", "from_truth"]):
            method = "prompt from the ground truth" if given else "prompt strategy"
            yield row(f"{name}, sample", method, of)
    plan = load_split_plan(dataset, params, paths)
    for folder in sorted(paths.adapter(dataset, "x").parent.glob("[!.]*/")):
        if parts := sorted(folder.glob("[!.]*.parquet")):
            about = json.loads(parts[0].with_suffix(".json").read_text("utf-8"))["params"]
            told = {name: about[name] for name in ("shots", "seed", "steps")}
            told["seed"] = str(told["seed"])  # a number of any length
            told |= {"n_parts": len(parts), "of_parts": len(plan.parts(about["protocol"]))}
            table = pd.concat(map(pd.read_parquet, parts))
            told["n_empty"] = int((table["status"] == "empty").sum())
            source = f", from {about['source']}" * bool(about.get("source"))
            yield row(folder.name, f"adapted: {about['method']}{source}", table, **told)


def accuracy_rows(dataset: str, params: Params, paths: Paths) -> Iterator[dict[str, Any]]:
    """Yield the rows of the study, in the mean over shares of labels in cross-validation; those
    that see a mask also without the images that have none, which are shown whole."""
    if not paths.compare(dataset).is_file():
        return
    table = pd.read_parquet(paths.compare(dataset)).query("subset == 'full' and shots == 0")
    runs = read_runs(dataset, sorted(set(table["learner"])), paths)[0]
    plan = load_split_plan(dataset, params, paths)
    variants = Variants(dataset, plan, paths)

    @cache
    def good(name: str) -> frozenset[str]:
        """Return the images of a store of masks whose mask is neither empty nor full."""
        status = open_masks(paths.masks(dataset, name)).table()["status"]
        return frozenset(status.index[status == "ok"])

    def has_mask(ids: np.ndarray, protocol: str, view: str, seed: int) -> set[str]:
        """Return those of some images of which no mask of a run is empty or full."""
        names = {variant_of(variants.stored(v, (protocol, view, 1, seed))) for v in parts_of(view)}
        return set(ids).intersection(*map(good, names - {""} or names))

    for protocol in ("grouped", "grouped_truth"):
        rows = table[table["protocol"] == protocol]
        share = MEAN if (rows["fraction"] == MEAN).any() else rows["fraction"].max()
        by_key: dict[tuple, list[Run]] = {}
        for run in runs:
            if run.protocol == protocol and share in (MEAN, run.fraction):
                by_key.setdefault(run.key, []).append(run)
        base = by_key.get(params.study.baseline.key, [])
        rows = rows[rows["fraction"] == share]
        for one in rows.itertuples():
            row = {"dataset": dataset, "masks": masks_of(one.view), "protocol": protocol}
            row |= {name: getattr(one, name) for name in SHOWN.split()}
            row |= {"difference": one.baseline_difference, "p_holm": one.baseline_p_holm}
            row |= {"difference_lo": one.baseline_lo, "difference_hi": one.baseline_hi}
            row |= {"verdict": one.baseline_verdict}
            row["n_compared"] = int(rows["baseline_p"].notna().sum())
            row["place"] = re.sub(rf"^{RANDOM} \((.+)\)$", r"\1", row["masks"])
            mine = by_key.get((one.learner, one.view))
            if not mine:  # the table is of an older study
                continue
            labels = [n for run in mine for n in run.labels.values()]
            row["n_labels"] = round(float(np.mean(labels)))  # over shares and seeds
            row["n_seeds"] = len(mine[0].seeds)
            row["n_folds"] = len({plan.part(protocol, seed) for seed in mine[0].seeds})
            row["of_folds"] = len(plan.parts(protocol))
            if kind_of(one.view) == "mask":
                tested = {seed: of.ids for seed, of in mine[0].seeds.items()}
                masked = {s: has_mask(ids, protocol, one.view, s) for s, ids in tested.items()}
                row["n_unmasked"] = len(mine[0].image_ids - set().union(*masked.values()))
                row["accuracy_masked"] = accuracy(mine, masked)
                row["baseline_masked"] = accuracy(base, masked)
            yield row


def masks_of(view: str) -> str:
    """Return the masks that a view sees: variants (a person's as well), `TRUTH`, `RANDOM`,
    `STORED`, or "" for none."""
    of = " and ".join(sorted({variant_of(part) for part in parts_of(view)} - {""}))
    control = RANDOM + f" ({of})" * bool(of) if RANDOM in view else ""
    kind = kind_of(view)
    own = of or (TRUTH if kind == "truth" else STORED)
    return {"whole": "", "control": control}.get(kind, own)


def accuracy(runs: list[Run], kept: dict[int, set[str]]) -> float:
    """Return the mean accuracy over shares and seeds, on some images of each seed."""
    each = [(of, kept.get(seed, ())) for run in runs for seed, of in run.seeds.items()]
    right = [(of.proba.argmax(1) == of.y)[pd.Index(of.ids).isin([*ids])] for of, ids in each]
    return float(np.mean([of.mean() for of in right if len(of)] or [np.nan]))
