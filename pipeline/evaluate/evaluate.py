"""The stage: from predictions to metrics.parquet, metrics.json and plots/*.csv."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from pipeline.audit.table import read_audit
from pipeline.config import Params
from pipeline.engine.record import RunRecord, recorded
from pipeline.evaluate.mask_quality import mask_quality, masks_inputs, summarise_masks
from pipeline.evaluate.predictions import blocks, image_units, read_runs, test_set
from pipeline.evaluate.scores import Columns, compare_block, run_tables, score_block
from pipeline.io import atomic_write_json, atomic_write_text, csv_text
from pipeline.learners.runs import run_inputs, usable_learners, write_table
from pipeline.manifest import read_manifest
from pipeline.paths import Paths
from pipeline.provenance import stamp
from pipeline.remote import exists
from pipeline.store import open_features

TABLES = {
    "metrics": "protocol subset learner view fraction seed metric value lo hi n_images n_labels "
    "note t_lo t_hi n_seeds n_groups",
    "per_class": "protocol subset learner view fraction class support precision precision_lo "
    "precision_hi recall recall_lo recall_hi f1 f1_lo f1_hi",
    "confusion": "protocol learner view fraction actual predicted n",
    "reliability": "protocol learner view fraction bin confidence accuracy n",
    "comparisons": "protocol subset metric fraction learner_a view_a learner_b view_b difference "
    "lo hi p p_holm verdict n_seeds n_images",
    "test_sets": "protocol subset n_images n_classes missing_classes largest_class largest_share",
}
"""Columns of the tables that are made block by block."""


def evaluate_dataset(
    dataset: str, params: Params, paths: Paths, *, jobs: int = 1
) -> dict[str, Any]:
    """Evaluate the predictions of one dataset, and its masks against ground truth.

    Reads the predictions, the manifest, audit.parquet (if any), masks.zarr and the ground-truth
    masks. Writes metrics.parquet, mask_quality.parquet, metrics.json and plots/*.csv, whose
    columns docs/tables.md describes. metrics.parquet states the SHA-256 of its inputs and of the
    other tables, so that tables of two evaluations are never mixed.

    Args:
        dataset, params, paths: the sections `evaluate` and `study` are read.
        jobs: number of threads for the masks.

    Returns:
        What metrics.json holds.

    Raises:
        PipelineError: no predictions, or they, the masks or the leak audit were made from other
            images, labels or features than those there now. Nothing was written but the record.
    """
    manifest = read_manifest(paths.manifest(dataset))  # first: no record of an unknown dataset
    parameters = params.evaluate.model_dump(mode="json")
    record = RunRecord(stage="evaluate", dataset=dataset, parameters=parameters)
    with recorded(record, paths.record(dataset, "evaluate")):
        audit = read_audit(paths.audit(dataset), manifest)
        features = paths.features(dataset)
        store = open_features(features) if exists(features) else None
        learners = usable_learners(params, paths, store)
        runs, classes = read_runs(dataset, learners, paths)
        units = image_units(manifest, audit)
        sources = {f"predictions/{n}": paths.predictions(dataset, n) for n in learners}
        inputs = stamp(**run_inputs(paths, dataset), **sources)
        quality_inputs = stamp(**masks_inputs(paths, dataset))
        quality = mask_quality(dataset, manifest, paths, jobs=jobs)
        clock = time.monotonic()
        made: dict[str, list[Columns]] = {name: [] for name in TABLES}
        for protocol, subset, block in blocks(runs, manifest, audit):
            text = f"evaluate {dataset}: {protocol}, {subset}: {len(block)} runs"
            print(text, file=sys.stderr, flush=True)
            with threadpool_limits(limits=1):  # sums in one order: the same bits on any machine
                scored = score_block(block, units, classes, params.evaluate)
                parts = [part for one in scored for part in run_tables(one, params.evaluate)]
                compared = compare_block(scored, params.study.baseline.key, params.evaluate)
            parts += [("comparisons", row) for row in compared]
            parts += [("test_sets", row) for row in test_set(block, classes)]
            for name, columns in parts:
                if subset == "full" or name not in ("confusion", "reliability"):
                    made[name].append({"protocol": protocol, "subset": subset, **columns})
        tables = {name: join(made[name], columns.split()) for name, columns in TABLES.items()}
        metrics = tables.pop("metrics")
        metrics["reweighted"] = reweighted(metrics, tables["per_class"])
        curve = metrics[(metrics["seed"] == -1) & (metrics["metric"] == "accuracy")]
        curve = curve.assign(dataset=dataset, accuracy=curve["value"])  # Fig. 2 of the paper
        columns = "dataset protocol subset learner view fraction n_labels metric value lo hi"
        tables["curve"] = curve[[*columns.split(), "accuracy"]]
        tables["mask_summary"] = summarise_masks(quality, units, params.evaluate)
        record.seconds["metrics"] = time.monotonic() - clock
        for name, table in tables.items():
            atomic_write_text(paths.plots(dataset) / f"{name}.csv", csv_text(table))
        write_table(paths.mask_quality(dataset), quality, quality_inputs, "snappy")
        inputs |= stamp(**tables_of(paths, dataset))
        # Last, with the hashes of the others.
        write_table(paths.metrics_table(dataset), metrics, inputs, "snappy")
        found = summary(metrics, quality, dataset)
        atomic_write_json(paths.metrics(dataset), found)
        record.total = record.done = len(metrics)
    return found


def join(parts: list[Columns], columns: list[str]) -> pd.DataFrame:
    """Join parts of a table one below the other."""
    rows = [np.broadcast_arrays(*(np.atleast_1d(part[c]) for c in columns)) for part in parts]
    values = map(np.concatenate, zip(*rows, strict=True)) if rows else [[]] * len(columns)
    return pd.DataFrame(dict(zip(columns, values, strict=True)))


def tables_of(paths: Paths, dataset: str) -> dict[str, Path]:
    """Return the tables that belong to metrics.parquet, by the name in its stamp."""
    names = (*TABLES, "mask_summary")[1:]
    plots = {name: paths.plots(dataset) / f"{name}.csv" for name in names}
    return plots | {"mask_quality": paths.mask_quality(dataset)}


def reweighted(metrics: pd.DataFrame, per_class: pd.DataFrame) -> np.ndarray:
    """Return the accuracy on the full test part with each class (its recall) weighted by its share
    of the row's subset, (n,): what the subset's classes alone explain of a difference to `full`.
    NaN in rows of other metrics, of single seeds and of `full`."""
    key = ["protocol", "learner", "view", "fraction"]
    is_full = per_class["subset"] == "full"
    part = per_class[~is_full & (per_class["support"] > 0)].drop(columns="recall")
    part = part.merge(per_class.loc[is_full, [*key, "class", "recall"]], on=[*key, "class"])
    part["right"] = part["recall"] * part["support"]
    sums = part.groupby([*key, "subset"])[["right", "support"]].sum()
    rows = pd.MultiIndex.from_frame(metrics[[*key, "subset"]])
    is_mean = (metrics["metric"] == "accuracy") & (metrics["seed"] == -1)
    return (sums["right"] / sums["support"]).reindex(rows).where(is_mean.to_numpy()).to_numpy()


def summary(metrics: pd.DataFrame, quality: pd.DataFrame, dataset: str) -> dict[str, Any]:
    """Return metrics.json: accuracy and macro-AUROC at fraction 0 and at the smallest and largest
    other one, by protocol, subset, learner and view; mean Dice by strategy."""
    found: dict[str, Any] = {}
    chosen = metrics[(metrics["seed"] == -1) & metrics["metric"].isin(["accuracy", "macro_auroc"])]
    labelled = chosen.loc[chosen["fraction"] > 0, "fraction"]
    ends = (0.0, labelled.min(), labelled.max())
    for row in chosen[chosen["fraction"].isin(ends)].dropna(subset="value").itertuples():
        level = found
        for name in (row.protocol, row.subset, row.learner, row.view, f"{row.fraction:g}"):
            level = level.setdefault(name, {})
        level[row.metric] = round(row.value, 4)
    if len(quality):
        found["dice"] = quality.groupby("strategy")["dice"].mean().dropna().round(4).to_dict()
    return {dataset: found}
