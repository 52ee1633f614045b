"""From predictions to metrics.parquet, metrics.json and plots/*.csv."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from threadpoolctl import threadpool_limits

from pipeline.audit.table import read_audit
from pipeline.config import CROSS_VALIDATED
from pipeline.engine.record import RunRecord
from pipeline.engine.recorded import recorded
from pipeline.evaluate.compare import COLUMNS as COMPARISON_COLUMNS
from pipeline.evaluate.compare import compare_block
from pipeline.evaluate.mask_quality import mask_quality
from pipeline.evaluate.pairing import beside, write_stamped
from pipeline.evaluate.predictions import Run, read_runs
from pipeline.evaluate.scores import POOLED, Block, Scored, metric_rows
from pipeline.evaluate.subsets import fold_ids, image_groups, subset_ids
from pipeline.evaluate.tables import (
    class_rows,
    confusion_rows,
    curve_table,
    reliability_rows,
    summary,
)
from pipeline.io import atomic_write, atomic_write_json
from pipeline.manifest import read_manifest

if TYPE_CHECKING:
    from pipeline.config import EvaluateParams, Params
    from pipeline.paths import Paths


def score_blocks(
    runs: list[Run],
    classes: list[str],
    manifest: pd.DataFrame,
    audit: pd.DataFrame | None,
    params: EvaluateParams,
) -> Iterator[tuple[str, str, list[Scored]]]:
    """Yield (protocol, subset, its runs scored), one block after the other.

    Args:
        runs, classes: of `read_runs`.
        manifest: of `read_manifest`.
        audit: of `read_audit`.
        params: how to resample.
    """
    groups = image_groups(manifest, audit)
    for protocol in dict.fromkeys(run.protocol for run in runs):
        mine = [run for run in runs if run.protocol == protocol]
        for subset, keep in subset_ids(audit, protocol).items():
            block = Block(keep, groups, params, classes)
            yield protocol, subset, [s for s in map(block.score, mine) if s is not None]
        if protocol in CROSS_VALIDATED:
            block = Block(None, groups, params, classes)
            every = fold_ids(manifest, protocol)
            pooled = [block.score(run, pooled=every) for run in mine]
            yield f"{protocol}{POOLED}", "full", [s for s in pooled if s is not None]


def evaluate_dataset(
    dataset: str, params: Params, paths: Paths, *, jobs: int = 1
) -> dict[str, Any]:
    """Evaluate the predictions of one dataset and judge its masks.

    Reads runs.parquet, predictions.parquet, audit.parquet (if any), the manifest and, for mask
    quality, masks.zarr and the ground-truth masks. Writes metrics.parquet, metrics.json,
    mask_quality.parquet and plots/{curve,confusion,reliability,per_class,comparisons}.csv.

    metrics.parquet is long, one row per (protocol, subset, head, view, fraction, seed, metric):
    `value`, `lo`, `hi` (bootstrap at `evaluate.confidence`; seed = -1: the mean over seeds, with
    a bootstrap nested in seeds, see `pipeline.evaluate.intervals`; exact or NaN where it says
    nothing, see `pipeline.evaluate.bounds`, with a note), `t_lo`, `t_hi` (t-interval
    over seeds; only seed = -1), `n_images`, `n_groups` (units that were resampled: patients,
    groups and copies, joined), `n_labels` (train + validation; the median of the seeds where
    seed = -1), `n_seeds`, `note`. Protocols `grouped-pooled` and `grouped_truth-pooled` hold each
    image once, with the prediction of the first seed whose fold tested it; images that none
    tested are counted in `note`. A seed that failed or diverged has NaN and its error as note. The
    metadata of the schema say of which training it is, and which tables are of the same evaluation.

    Args:
        dataset: its name.
        params: section `evaluate` is read.
        paths: where everything lies.
        jobs: parallel threads for mask quality.

    Returns:
        The small nested summary that metrics.json holds. The record of the run is
        cache/<dataset>/records/evaluate.json, after a failure or Ctrl-C too.

    Raises:
        PipelineError: no predictions; masks of older image bytes; or the manifest or the features
            have changed since train or the leak audit; nothing was written but the record.
    """
    manifest = read_manifest(paths.manifest(dataset))
    record = RunRecord(
        stage="evaluate",
        dataset=dataset,
        parameters=params.evaluate.model_dump(mode="json"),
    )
    with recorded(record, paths.record(dataset, "evaluate")):
        return _evaluate(record, manifest, params, paths, jobs)


def _evaluate(
    record: RunRecord, manifest: pd.DataFrame, params: Params, paths: Paths, jobs: int
) -> dict[str, Any]:
    """Do what `evaluate_dataset` says and fill in the record."""
    dataset = record.dataset
    runs, classes, training = read_runs(dataset, paths, manifest, params.learners)
    quality = mask_quality(dataset, manifest, paths, jobs=jobs)  # first: it may refuse
    audit = read_audit(paths.audit(dataset), manifest)
    clock = time.monotonic()
    chosen = params.evaluate
    rows: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("metrics", "confusion", "reliability", "per_class", "comparisons")
    }
    with threadpool_limits(limits=1):  # sums in one order, so the same bits on any machine's cores
        for protocol, subset, scored in score_blocks(runs, classes, manifest, audit, chosen):
            told = f"evaluate {dataset}: {protocol}, {subset}: {len(scored)} heads, views, shares"
            print(told, file=sys.stderr, flush=True)
            for one in scored:
                rows["metrics"] += metric_rows(one, protocol, subset, chosen)
                rows["per_class"] += class_rows(one, protocol, subset, classes, chosen.confidence)
                one.class_replicates = {}  # the largest part, not needed any more
                if subset == "full":
                    rows["confusion"] += confusion_rows(one, protocol, classes)
                    rows["reliability"] += reliability_rows(
                        one, protocol, len(classes), chosen.bins
                    )
            rows["comparisons"] += compare_block(scored, protocol, subset, chosen)
    metrics = pd.DataFrame(rows.pop("metrics"))
    plots = {name: pd.DataFrame(table) for name, table in rows.items()}
    plots["comparisons"] = plots["comparisons"].reindex(columns=list(COMPARISON_COLUMNS))
    plots["curve"] = curve_table(metrics, dataset)
    for name, table in plots.items():
        _write_csv(table, paths.plots(dataset) / f"{name}.csv")
    record.seconds["metrics"] = time.monotonic() - clock
    with atomic_write(paths.mask_quality(dataset)) as partial:
        quality.to_parquet(partial, index=False)
    # After the tables whose bytes it names: what a kill leaves of two evaluations does not match.
    with atomic_write(paths.metrics_table(dataset)) as partial:
        write_stamped(metrics, {**training, **beside(dataset, paths)}, partial)
    found = summary(metrics, dataset)
    if len(quality):
        means = quality.groupby("strategy")["dice"].mean()
        found[dataset]["dice"] = {k: round(float(v), 4) for k, v in means.items() if v == v}
    atomic_write_json(paths.metrics(dataset), found)
    record.total = record.done = len(metrics)
    return found


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    with atomic_write(path) as partial:
        table.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
