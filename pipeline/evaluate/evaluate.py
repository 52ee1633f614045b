"""The stage: from predictions to metrics.parquet, metrics.json and plots/*.csv."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from pipeline.audit.table import read_audit
from pipeline.engine.record import RunRecord, recorded
from pipeline.errors import PipelineError
from pipeline.evaluate.compare import (
    COLUMNS,
    COMPARED,
    compare_block,
    corrected,
    differences,
    matching_pairs,
)
from pipeline.evaluate.mask_quality import mask_quality, masks_inputs, summarise_masks
from pipeline.evaluate.metrics import CLASS_METRICS
from pipeline.evaluate.predictions import Run, read_runs
from pipeline.evaluate.scores import Scored, Scorer, confusion, score_rows
from pipeline.evaluate.test_sets import blocks, image_units, test_set_row
from pipeline.io import atomic_write, atomic_write_json
from pipeline.learners.runs import run_inputs
from pipeline.manifest import read_manifest
from pipeline.provenance import stamp, with_stamp

if TYPE_CHECKING:
    from pipeline.config import EvaluateParams, Params
    from pipeline.paths import Paths

RUN = ["learner", "view", "fraction"]
METRIC_COLUMNS = ["protocol", "subset", *RUN, "seed", "metric", "value", "lo", "hi", "n_images"]
METRIC_COLUMNS += ["n_labels", "note", "t_lo", "t_hi", "n_seeds", "n_groups"]
TABLES = {
    "per_class": ["protocol", "subset", *RUN, "class", "support"]
    + [f"{metric}{end}" for metric in CLASS_METRICS for end in ("", "_lo", "_hi")],
    "confusion": ["protocol", *RUN, "actual", "predicted", "n"],
    "reliability": ["protocol", *RUN, "bin", "confidence", "accuracy", "n"],
    "comparisons": list(COLUMNS),
    "test_sets": [
        *("protocol", "subset", "n_images", "n_classes"),
        *("missing_classes", "largest_class", "largest_share"),
    ],
}
"""Columns of the tables in plots/ that are made block by block."""


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
        stage="evaluate",
        dataset=dataset,
        parameters=params.evaluate.model_dump(mode="json"),
    )
    with recorded(record, paths.record(dataset, "evaluate")):
        data = Predictions.read(dataset, manifest, params, paths)
        inputs = stamp(**data.inputs)
        quality_inputs = stamp(**masks_inputs(paths, dataset))
        quality = mask_quality(dataset, manifest, paths, jobs=jobs)
        clock = time.monotonic()
        metrics, plots = _tables(data, params)
        plots["mask_summary"] = summarise_masks(quality, data.units, params.evaluate)
        record.seconds["metrics"] = time.monotonic() - clock
        for name, table in plots.items():
            _write_csv(table, paths.plots(dataset) / f"{name}.csv")
        _write_parquet(quality, paths.mask_quality(dataset), quality_inputs)
        inputs |= stamp(**tables(paths, dataset))
        _write_parquet(metrics, paths.metrics_table(dataset), inputs)
        found = summary(metrics, quality, dataset)
        atomic_write_json(paths.metrics(dataset), found)
        record.total = record.done = len(metrics)
    return found


@dataclass(frozen=True)
class Predictions:
    """The predictions of a dataset, and what is needed to score them.

    Attributes:
        dataset: its name.
        runs, classes: see `read_runs`.
        manifest, audit: the images, and the leak audit (None = there is none).
        units: unit of each image id, see `image_units`.
        inputs: what they were made from, for `pipeline.provenance.stamp`.
    """

    dataset: str
    runs: list[Run]
    classes: list[str]
    manifest: pd.DataFrame
    audit: pd.DataFrame | None
    units: dict[str, str]
    inputs: dict[str, Any]

    @classmethod
    def read(
        cls, dataset: str, manifest: pd.DataFrame, params: Params, paths: Paths
    ) -> Predictions:
        """Read the predictions of the learners of params.yaml; raises as `evaluate_dataset`."""
        audit = read_audit(paths.audit(dataset), manifest)
        runs, classes = read_runs(dataset, params, paths)
        inputs = run_inputs(paths, dataset)
        for name in params.learners:
            inputs[f"predictions/{name}"] = paths.predictions(dataset, name)
        units = image_units(manifest, audit)
        return cls(dataset, runs, classes, manifest, audit, units, inputs)

    def scored(self, params: EvaluateParams) -> Iterator[tuple[str, str, list[Scored]]]:
        """Yield (protocol, subset, its runs scored), one block after the other."""
        with threadpool_limits(limits=1):  # sums in one order: the same bits on any machine
            for protocol, subset, block in blocks(self.runs, self.manifest, self.audit):
                scorer = Scorer(self.units, params, self.classes)
                yield protocol, subset, [scorer(run) for run in block]


def _tables(data: Predictions, params: Params) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Return metrics.parquet and the tables of plots/ by name."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    metrics: list[dict[str, Any]] = []
    for protocol, subset, scored in data.scored(params.evaluate):
        text = f"evaluate {data.dataset}: {protocol}, {subset}: {len(scored)} runs"
        print(text, file=sys.stderr, flush=True)
        for one in scored:
            of_run, of_classes = score_rows(one, protocol, subset, params.evaluate)
            metrics += of_run
            rows["per_class"] += of_classes
            if subset == "full":
                rows["confusion"] += confusion_rows(one, protocol)
                rows["reliability"] += reliability_rows(one, protocol, params.evaluate.bins)
        compared = compare_block(scored, params.study.baseline.key, params.evaluate)
        rows["comparisons"] += [{"protocol": protocol, "subset": subset, **r} for r in compared]
        tested = test_set_row(protocol, subset, [one.run for one in scored], data.classes)
        rows["test_sets"] += [tested] if tested else []
    plots = {name: pd.DataFrame(table, columns=TABLES[name]) for name, table in rows.items()}
    table = pd.DataFrame(metrics, columns=METRIC_COLUMNS)
    table["reweighted"] = reweighted(table, plots["per_class"])
    plots["curve"] = curve_table(table, data.dataset)
    return table, plots


def compare_runs(dataset: str, params: Params, paths: Paths, a: str, b: str) -> pd.DataFrame:
    """Compare two learners, two views or two `learner/view`: differences a - b.

    Args:
        dataset: its name.
        params: section `evaluate` is read.
        paths: the project folder.
        a, b: both a learner (compared on every view), both a view (of every learner) or both
            `learner/view`.

    Returns:
        Rows with the columns of plots/comparisons.csv. All rows are one family of Holm's
        correction, since any of them may be quoted.

    Raises:
        PipelineError: no predictions, or a name that they do not contain.
    """
    data = Predictions.read(dataset, read_manifest(paths.manifest(dataset)), params, paths)
    known = {name for run in data.runs for name in (*run.key, "/".join(run.key))}
    for name in (a, b):
        if name not in known:
            raise PipelineError(
                f"--compare: there are no predictions of {name!r}",
                path=paths.run(dataset, a).parent,
                remedy=f"name two of the same kind: {', '.join(sorted(known))}",
            )
    rows: list[dict[str, Any]] = []
    for protocol, subset, scored in data.scored(params.evaluate):
        found = differences(matching_pairs(scored, a, b), COMPARED, params.evaluate)
        rows += [{"protocol": protocol, "subset": subset, **row} for row in found]
    if not rows:
        raise PipelineError(
            f"--compare: {a!r} and {b!r} have no view, learner, fraction or seed in common",
            path=paths.run(dataset, a).parent,
            remedy="name two learners, two views or two learner/view of the same protocol",
        )
    return pd.DataFrame(corrected(rows), columns=list(COLUMNS))


def confusion_rows(scored: Scored, protocol: str) -> list[dict[str, Any]]:
    """Return one row per cell of the confusion matrix; `n` is summed over seeds."""
    counts = confusion(scored).sum(axis=0)
    return [
        {**_run(scored, protocol), "actual": actual, "predicted": predicted, "n": round(n)}
        for actual, row in zip(scored.classes, counts, strict=True)
        for predicted, n in zip(scored.classes, row, strict=True)
        if scored.seeds
    ]


def reliability_rows(scored: Scored, protocol: str, bins: int) -> list[dict[str, Any]]:
    """Return one row per confidence bin with predictions (all seeds together)."""
    if not scored.seeds:
        return []
    start = len(scored.classes) ** 2 + 1
    table = scored.sums.sum(axis=0)[start : start + 3 * bins].reshape(3, bins)
    return [
        {
            **_run(scored, protocol),
            "bin": i,
            "confidence": confidence / n,
            "accuracy": right / n,
            "n": round(n),
        }
        for i, (n, confidence, right) in enumerate(table.T.tolist())
        if n > 0
    ]


def _run(scored: Scored, protocol: str) -> dict[str, Any]:
    run = scored.run
    return {
        "protocol": protocol,
        "learner": run.learner,
        "view": run.view,
        "fraction": run.fraction,
    }


def reweighted(metrics: pd.DataFrame, per_class: pd.DataFrame) -> np.ndarray:
    """Return the accuracy on the full test part, with each class weighted by its share of the
    row's subset, (n,): what the subset's classes alone explain of a difference to `full`.

    It is the mean over classes of the recall on the full part, by the number of images of the
    class in the subset. NaN in rows of other metrics, of single seeds and of `full`.
    """
    key = ["protocol", *RUN]
    is_full = per_class["subset"] == "full"
    full = per_class.loc[is_full, [*key, "class", "recall"]]
    part = per_class.loc[
        ~is_full & (per_class["support"] > 0), [*key, "subset", "class", "support"]
    ]
    part = part.merge(full, on=[*key, "class"])
    part["right"] = part["recall"] * part["support"]
    sums = part.groupby([*key, "subset"])[["right", "support"]].sum()
    values = (sums["right"] / sums["support"]).reindex(
        pd.MultiIndex.from_frame(metrics[[*key, "subset"]])
    )
    is_mean = (metrics["metric"] == "accuracy") & (metrics["seed"] == -1)
    return np.where(is_mean, values, np.nan)


def curve_table(metrics: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Return accuracy by fraction (Fig. 2 of the MedFocusCLIP paper), means over seeds."""
    chosen = metrics[(metrics["seed"] == -1) & (metrics["metric"] == "accuracy")]
    columns = ["protocol", "subset", "learner", "view", "fraction", "n_labels"]
    curve = chosen[[*columns, "metric", "value", "lo", "hi"]].copy()
    curve.insert(0, "dataset", dataset)
    curve["accuracy"] = curve["value"]
    return curve


def summary(metrics: pd.DataFrame, quality: pd.DataFrame, dataset: str) -> dict[str, Any]:
    """Return metrics.json: accuracy and macro-AUROC at fraction 0 and at the smallest and largest
    other one, by protocol, subset, learner and view; mean Dice by strategy."""
    found: dict[str, Any] = {}
    chosen = metrics[(metrics["seed"] == -1) & metrics["metric"].isin(["accuracy", "macro_auroc"])]
    labelled = chosen.loc[chosen["fraction"] > 0, "fraction"]
    ends = {0.0, labelled.min(), labelled.max()} if len(labelled) else {0.0}
    for row in chosen[chosen["fraction"].isin(ends)].itertuples():
        if not np.isfinite(row.value):
            continue
        level = found
        for name in (row.protocol, row.subset, row.learner, row.view, f"{row.fraction:g}"):
            level = level.setdefault(name, {})
        level[row.metric] = round(row.value, 4)
    if len(quality):
        means = quality.groupby("strategy")["dice"].mean().dropna()
        found["dice"] = {name: round(float(value), 4) for name, value in means.items()}
    return {dataset: found}


def tables(paths: Paths, dataset: str) -> dict[str, Path]:
    """Return the tables that belong to metrics.parquet, by the name in its stamp."""
    plots = {name: paths.plots(dataset) / f"{name}.csv" for name in (*TABLES, "mask_summary")}
    return plots | {"mask_quality": paths.mask_quality(dataset)}


def _write_parquet(table: pd.DataFrame, path: Path, inputs: dict[str, str]) -> None:
    made = pa.Table.from_pandas(table, preserve_index=False)
    with atomic_write(path) as partial:
        pq.write_table(with_stamp(made, inputs), partial)


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    with atomic_write(path) as partial:
        table.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
