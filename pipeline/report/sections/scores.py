"""The tables: heads x views x fractions for every protocol and subset, all seeds behind them."""

from __future__ import annotations

import json

import pandas as pd

from pipeline.config import Params
from pipeline.report import select
from pipeline.report.gallery import Album
from pipeline.report.inputs import DatasetInputs
from pipeline.report.page import Details, Section, Text
from pipeline.report.tables import (
    NOTHING,
    Cell,
    Table,
    head,
    interval_cell,
    many,
    number,
    percent,
    share,
    title,
)


def labels_rule(params: Params) -> str:
    """Say which labels are counted, and how many of them are for validation."""
    return (
        "Labels count every labelled image that was used: those that trained, and those that "
        "chose hyperparameters (validation). The latter are taken out of the same labels: "
        f"{share(params.splits.val)} of them, by whole patients and groups, at least one of "
        "each class that has two. A share of the labels is drawn in whole patients, groups and "
        "copies too, as near to it as these allow: the number differs a little between seeds, and "
        "the median is given. Nothing is chosen on test images."
    )


def section(found: DatasetInputs, album: Album, params: Params) -> Section | None:
    """Show every figure that `evaluate` made, and every run behind it."""
    if found.metrics is None:
        return None
    made = Section("scores", "All figures")
    made.blocks.append(Text(labels_rule(params)))
    made.blocks += broken_runs(found.runs)
    again = repeated_text(found)
    if again:
        made.blocks.append(Text(again, "note"))
    for i, (protocol, subset) in enumerate(select.distinct_blocks(found.metrics)):
        blocks = [score_table(found.metrics, protocol, subset)]
        blocks += _notes(found.metrics, protocol, subset)
        for metric, name in select.METRICS.items():
            table = select.over_seeds(found.metrics, protocol, subset, metric)
            if metric != "accuracy" and not table.empty:
                other = score_table(found.metrics, protocol, subset, metric)
                blocks.append(Details(title(name), [other]))
        seeds = _seeds(found, protocol, subset)
        if seeds:
            blocks.append(Details("Every seed", [seeds], printed=False))
        name = select.block_name(protocol, subset, found.drawn_split)
        made.blocks.append(Details(name, blocks, open=i == 0))
    return made


def repeated_text(found: DatasetInputs) -> str:
    """Say which blocks are left out since they hold the images of another; "" if none."""
    parts = [
        f"“{select.block_name(*block)}” holds the images of "
        f"“{select.block_name(*earlier, drawn=found.drawn_split)}”"
        for block, earlier in select.repeated(found.metrics).items()
    ]
    return f"Not repeated: {'; '.join(parts)}." if parts else ""


def score_table(
    metrics: pd.DataFrame, protocol: str, subset: str, metric: str = "accuracy"
) -> Table:
    """Return runs x fractions of one metric; the best of each column is marked."""
    table = select.over_seeds(metrics, protocol, subset, metric)
    fractions = select.fractions_of(table)
    as_percent = metric in select.PERCENT_METRICS
    lower = metric in ("ece", "brier")
    best = {}
    for f in fractions:
        at = table[(table["fraction"] - f).abs() < 1e-4]["value"].dropna()
        best[f] = None if at.empty else (at.min() if lower else at.max())
    rows = []
    for run in select.runs_of(table):
        row: list = [head(select.HEADS.get(run[0], run[0])), select.VIEWS.get(run[1], run[1])]
        for f in fractions:
            found = select.one(table, *run, 0.0 if run[0] == "zero-shot" else f)
            if found is None:
                row.append(Cell(NOTHING, look="number"))
                continue
            look = "best" if run[0] != "zero-shot" and found["value"] == best[f] else ""
            row.append(
                interval_cell(
                    found["value"], found["lo"], found["hi"], as_percent=as_percent, look=look
                )
            )
        rows.append(row)
    labels = [(f, select.labels_at(table, f)) for f in fractions]
    headers = [
        "head",
        "view",
        *(f"{share(f)} ({many(n, 'label') if n else '? labels'})" for f, n in labels),
    ]
    images = table["n_images"].dropna()
    unit = "percent" if as_percent else "0 to 1"
    better = "Lower is better. " if lower else ""
    note = (
        f"{better}Mean over the seeds [95 % interval], {unit}; the best of each column in "
        f"bold. Zero-shot uses no labels, so it is the same in every column."
    )
    size = many(round(images.median()), "test image") if len(images) else ""
    caption = f"{title(select.METRICS.get(metric, metric))}, {size}".rstrip(", ")
    return Table(headers, rows, caption=caption, note=note)


def _notes(metrics: pd.DataFrame, protocol: str, subset: str) -> list[Text]:
    """Say what `evaluate` noted, e.g. classes left out of a mean."""
    if "note" not in metrics:
        return []
    rows = metrics[(metrics["protocol"] == protocol) & (metrics["subset"] == subset)]
    notes = sorted({str(n) for n in rows["note"].dropna() if str(n).strip()})
    return [Text("Notes: " + "; ".join(notes[:8]), "note")] if notes else []


def broken_runs(runs: pd.DataFrame | None) -> list[Text | Table]:
    """Count the runs that failed or diverged and list each with its reason."""
    if runs is None:
        return []
    bad = runs[runs["status"] != "ok"]
    if bad.empty:
        return [Text(f"All {len(runs):,} runs ended well: none failed, none diverged.", "note")]
    rows = [
        [
            Cell(r["status"], look="bad"),
            r["protocol"],
            head(r["head"]),
            r["view"],
            share(r["fraction"]),
            int(r["seed"]),
            str(r.get("error") or NOTHING),
        ]
        for _, r in bad.iterrows()
    ]
    headers = ["status", "protocol", "head", "view", "share of labels", "seed", "reason"]
    text = f"{len(bad)} of {len(runs):,} runs failed or diverged."
    return [Text(text, "warning"), Table(headers, rows, caption="Failed and diverged runs")]


def _seeds(found: DatasetInputs, protocol: str, subset: str) -> Table | None:
    """Return accuracy by seed for every run, with the status of those that did not end well."""
    values, chosen, source = select.by_seed(found.metrics, found.runs, protocol, subset)
    if source.empty:
        return None
    seeds = sorted({int(s) for s in source["seed"]})
    body = []
    for run in select.runs_of(source):
        mine = source[(source["head"] == run[0]) & (source["view"] == run[1])]
        for f in sorted({round(float(f), 4) for f in mine["fraction"]}):
            cells = []
            for seed in seeds:
                key = (*run, f, seed)
                cells.append(_seed_cell(values.get(key), chosen.get(key)))
            ran = [chosen[k] for s in seeds if (k := (*run, f, s)) in chosen]
            sizes = f"{ran[0]['n_train']} + {ran[0]['n_val']}" if ran else NOTHING
            body.append([head(select.run_name(*run)), Cell(share(f), sort=f), sizes, *cells])
    headers = ["run", "share", "labels: train + val", *(f"seed {s}" for s in seeds)]
    note = "Accuracy in percent. Hover or focus a cell for what the validation part chose."
    return Table(headers, body, note=note)


def _seed_cell(value: float | None, run: dict | None) -> Cell:
    if run is not None and run["status"] != "ok":
        shown = f"{run['status']} ({percent(value)})" if value is not None else run["status"]
        return Cell(shown, look="bad", title=str(run.get("error") or ""))
    hint = ""
    if run is not None and run.get("chosen"):
        hint = _chosen(run["chosen"], run.get("val_score"))
    return Cell(percent(value), sort=value, look="number", title=hint)


def _chosen(text: str, score: float | None) -> str:
    try:
        values = json.loads(text)
    except (TypeError, ValueError):
        return str(text)
    if not isinstance(values, dict):
        return str(values)
    parts = [f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in values.items()]
    return ", ".join([*parts, f"validation {number(score)}"])
