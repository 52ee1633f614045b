"""The stage: from predictions to metrics.parquet, metrics.json and plots/*.csv."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from pipeline.audit.table import read_audit
from pipeline.engine.record import RunRecord, recorded
from pipeline.evaluate.mask_quality import mask_quality, masks_inputs, summarise_masks
from pipeline.evaluate.metrics import CLASS_METRICS
from pipeline.evaluate.predictions import blocks, image_units, read_runs, test_set
from pipeline.evaluate.scores import RUNS, Columns, compare_block, run_tables, score_block
from pipeline.io import atomic_write, atomic_write_json
from pipeline.learners.runs import run_inputs
from pipeline.manifest import read_manifest
from pipeline.provenance import stamp, with_stamp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.config import Params
    from pipeline.evaluate.predictions import Run
    from pipeline.paths import Paths

BLOCK, RUN = ["protocol", "subset"], ["learner", "view", "fraction"]
TABLES = {
    "metrics": [
        *(*BLOCK, *RUN, "seed", "metric", "value", "lo", "hi", "n_images"),
        *("n_labels", "note", "t_lo", "t_hi", "n_seeds", "n_groups"),
    ],
    "per_class": [
        *(*BLOCK, *RUN, "class", "support"),
        *(f"{metric}{end}" for metric in CLASS_METRICS for end in ("", "_lo", "_hi")),
    ],
    "confusion": ["protocol", *RUN, "actual", "predicted", "n"],
    "reliability": ["protocol", *RUN, "bin", "confidence", "accuracy", "n"],
    "comparisons": [
        *(*BLOCK, "metric", "fraction", *RUNS, "difference", "lo", "hi"),
        *("p", "p_holm", "verdict", "n_seeds", "n_images"),
    ],
    "test_sets": [
        *(*BLOCK, "n_images", "n_classes"),
        *("missing_classes", "largest_class", "largest_share"),
    ],
}
"""Columns of the tables that are made block by block."""


def evaluate_dataset(
    dataset: str, params: Params, paths: Paths, *, jobs: int = 1
) -> dict[str, Any]:
    """Evaluate the predictions of one dataset, and its masks against ground truth.

    Reads the predictions, the manifest, audit.parquet (if any), masks.zarr and the ground-truth
    masks. Writes metrics.parquet, mask_quality.parquet, metrics.json and plots/*.csv, whose
    columns docs/tables.md describes. metrics.parquet is written after the other tables and
    states their SHA-256 and that of its inputs, so that tables of two evaluations are never
    mixed.

    Args:
        dataset: its name.
        params: sections `evaluate` and `study` are read.
        paths: the project folder.
        jobs: number of threads for the masks.

    Returns:
        The nested summary that metrics.json holds. The run record is
        cache/<dataset>/records/evaluate.json, whatever the outcome.

    Raises:
        PipelineError: no predictions, or they, the masks or the leak audit were made from other
            images, labels or features than those there now. Nothing was written but the record.
    """
    manifest = read_manifest(paths.manifest(dataset))  # first: no record of an unknown dataset
    record = RunRecord(
        stage="evaluate", dataset=dataset, parameters=params.evaluate.model_dump(mode="json")
    )
    with recorded(record, paths.record(dataset, "evaluate")):
        audit = read_audit(paths.audit(dataset), manifest)
        runs, classes = read_runs(dataset, params, paths)
        units = image_units(manifest, audit)
        sources = {f"predictions/{n}": paths.predictions(dataset, n) for n in params.learners}
        inputs = stamp(**run_inputs(paths, dataset), **sources)
        quality_inputs = stamp(**masks_inputs(paths, dataset))
        quality = mask_quality(dataset, manifest, paths, jobs=jobs)
        clock = time.monotonic()
        made: dict[str, list[Columns]] = {name: [] for name in TABLES}
        for protocol, subset, block in blocks(runs, manifest, audit):
            text = f"evaluate {dataset}: {protocol}, {subset}: {len(block)} runs"
            print(text, file=sys.stderr, flush=True)
            with threadpool_limits(limits=1):  # sums in one order: the same bits on any machine
                for name, columns in block_tables(block, units, classes, params):
                    if subset == "full" or name not in ("confusion", "reliability"):
                        made[name].append({"protocol": protocol, "subset": subset, **columns})
        tables = {name: join(made[name], columns) for name, columns in TABLES.items()}
        metrics = tables.pop("metrics")
        metrics["reweighted"] = reweighted(metrics, tables["per_class"])
        tables["curve"] = curve_table(metrics, dataset)
        tables["mask_summary"] = summarise_masks(quality, units, params.evaluate)
        record.seconds["metrics"] = time.monotonic() - clock
        for name, table in tables.items():
            with atomic_write(paths.plots(dataset) / f"{name}.csv") as partial:
                table.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
        _write_parquet(quality, paths.mask_quality(dataset), quality_inputs)
        inputs |= stamp(**tables_of(paths, dataset))
        _write_parquet(metrics, paths.metrics_table(dataset), inputs)
        found = summary(metrics, quality, dataset)
        atomic_write_json(paths.metrics(dataset), found)
        record.total = record.done = len(metrics)
    return found


def block_tables(
    block: list[Run], units: dict[str, str], classes: list[str], params: Params
) -> Iterator[tuple[str, Columns]]:
    """Yield (name of `TABLES`, columns) of one block."""
    scored = score_block(block, units, classes, params.evaluate)
    for one in scored:
        yield from run_tables(one, params.evaluate)
    compared = compare_block(scored, params.study.baseline.key, params.evaluate)
    if len(compared):
        yield "comparisons", dict(compared)
    if tested := test_set(block, classes):
        yield "test_sets", tested


def join(parts: list[Columns], columns: list[str]) -> pd.DataFrame:
    """Join parts of a table one below the other."""
    arrays = []
    for part in parts:
        values = np.broadcast_arrays(*map(np.atleast_1d, part.values()))
        arrays.append(dict(zip(part, values, strict=True)))
    if not arrays:
        return pd.DataFrame(columns=columns)
    return pd.DataFrame({name: np.concatenate([of[name] for of in arrays]) for name in columns})


def tables_of(paths: Paths, dataset: str) -> dict[str, Path]:
    """Return the tables that belong to metrics.parquet, by the name in its stamp."""
    names = (*TABLES, "mask_summary")[1:]
    plots = {name: paths.plots(dataset) / f"{name}.csv" for name in names}
    return plots | {"mask_quality": paths.mask_quality(dataset)}


def reweighted(metrics: pd.DataFrame, per_class: pd.DataFrame) -> np.ndarray:
    """Return the accuracy on the full test part, with each class weighted by its share of the
    row's subset, (n,): what the subset's classes alone explain of a difference to `full`.

    It is the mean over classes of the recall on the full part, by the number of images of the
    class in the subset. NaN in rows of other metrics, of single seeds and of `full`.
    """
    key = ["protocol", *RUN]
    is_full = per_class["subset"] == "full"
    full = per_class.loc[is_full, [*key, "class", "recall"]]
    part = per_class.loc[~is_full & (per_class["support"] > 0)].drop(columns="recall")
    part = part.merge(full, on=[*key, "class"])
    part["right"] = part["recall"] * part["support"]
    sums = part.groupby([*key, "subset"])[["right", "support"]].sum()
    rows = pd.MultiIndex.from_frame(metrics[[*key, "subset"]])
    is_mean = (metrics["metric"] == "accuracy") & (metrics["seed"] == -1)
    return (sums["right"] / sums["support"]).reindex(rows).where(is_mean.to_numpy()).to_numpy()


def curve_table(metrics: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Return accuracy by fraction (Fig. 2 of the MedFocusCLIP paper), means over seeds."""
    curve = metrics[(metrics["seed"] == -1) & (metrics["metric"] == "accuracy")]
    columns = ["protocol", "subset", *RUN, "n_labels", "metric", "value", "lo", "hi", "accuracy"]
    curve = curve.assign(dataset=dataset, accuracy=curve["value"])
    return curve[["dataset", *columns]]


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


def _write_parquet(table: pd.DataFrame, path: Path, inputs: dict[str, str]) -> None:
    made = pa.Table.from_pandas(table, preserve_index=False)
    with atomic_write(path) as partial:
        pq.write_table(with_stamp(made, inputs), partial)
