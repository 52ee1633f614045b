"""Tables of the result pages on every run: calibration with the most labels, accuracy by seed."""

from __future__ import annotations

import pandas as pd

from pipeline.config import CROSS_VALIDATED
from pipeline.report import select
from pipeline.report.inputs import DatasetInputs
from pipeline.report.tables import (
    NOTHING,
    Cell,
    Table,
    head,
    interval_cell,
    percent,
    share,
    title,
)

CALIBRATION = ("ece", "brier", "macro_auroc")
BETWEEN = " · "


def calibration_table(found: DatasetInputs) -> Table | None:
    """Return splits x heads x views: ECE, Brier score and macro-AUROC with the most labels."""
    fractions = select.fractions_of(found.metrics)
    if not fractions:
        return None
    most, rows = fractions[-1], []
    for block in (select.PUBLISHED, select.GROUPED):
        tables = [select.over_seeds(found.metrics, *block, metric) for metric in CALIBRATION]
        name = select.short_name(*block, drawn=found.drawn_split)
        for model, view in select.runs_of(pd.concat(tables)):
            at = 0.0 if model == "zero-shot" else most
            cells = [_cell(select.one(table, model, view, at)) for table in tables]
            names = select.HEADS.get(model, model), select.VIEWS.get(view, view)
            rows.append([head(name), *names, *cells])
    note = (
        f"Mean over the seeds [{found.level} interval] with {share(most)} of the labels. "
        "ECE: the gap between confidence and accuracy, 0 to 1; Brier: the squared error of the "
        "probabilities, summed over the classes, 0 to 2; lower is better for both. Macro-AUROC: "
        "0 to 1. "
        "Zero-shot uses no labels. Other shares and splits are in the CSV."
    )
    names = [title(select.METRICS[metric]) for metric in CALIBRATION]
    return Table(["split", "head", "view", *names], rows, note=note)


def _cell(row: dict | None) -> Cell:
    if row is None:
        return Cell(NOTHING, look="number")
    return interval_cell(row["value"], row["lo"], row["hi"], as_percent=False)


def seeds_table(found: DatasetInputs, protocol: str, subset: str) -> Table | None:
    """Return runs x shares of labels: the accuracy of every seed in its order.

    A run that failed or diverged is named where its figure would stand; a run that is neither in
    the metrics nor among the failed shows a dash.
    """
    values, ended, source = select.by_seed(found.metrics, found.runs, protocol, subset)
    if source.empty:
        return None
    status = {key: str(run["status"]) for key, run in ended.items()}
    seeds, fractions = sorted({k[3] for k in values | ended}), select.fractions_of(source)
    rows = []
    for model, view in select.runs_of(source):
        row: list = [head(select.HEADS.get(model, model)), select.VIEWS.get(view, view)]
        for f in fractions:
            keys = [(model, view, 0.0 if model == "zero-shot" else f, seed) for seed in seeds]
            keys = [k for k in keys if model != "zero-shot" or k in values | ended]
            row.append(BETWEEN.join(_shown(values.get(k), status.get(k, "ok")) for k in keys))
        rows.append(row)
    headers = ["head", "view", *map(share, fractions)]
    what = "folds" if protocol in CROSS_VALIDATED else "seeds"
    note = (
        f"Accuracy in percent, {what} {', '.join(map(str, seeds))} in this order; a run that "
        "failed or diverged stands in bold by that name, with its figure if it has one. Zero-shot "
        "learns nothing: it has one figure for each test part."
    )
    return Table(headers, rows, note=note)


def _shown(value: float | None, status: str) -> str:
    figure = percent(value)
    if status == "ok":
        return figure
    return f"**{status}**" if figure == NOTHING else f"**{status}** ({figure})"
