"""The tables: heads x views x fractions for every protocol and subset, all seeds behind them."""

from __future__ import annotations

import json

import pandas as pd

from pipeline.config import Params
from pipeline.report import select
from pipeline.report.gallery import Album
from pipeline.report.inputs import DatasetInputs
from pipeline.report.largest_class import largest_class
from pipeline.report.page import Details, Points, Section, Text
from pipeline.report.remarks import as_published, evaluate_notes, plan_remarks
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


def labels_rule(found: DatasetInputs, params: Params) -> str:
    """Say which labels are counted, and how many of them are for validation."""
    wholes = "patients, groups and copies" if found.audited else "patients and groups"
    return (
        "Labels count every labelled image that was used: those that trained, and those that "
        "chose hyperparameters (validation). The latter are taken out of the same labels: "
        f"{share(params.splits.val)} of them, by whole patients and groups, at least one of "
        f"each class that has two. A share of the labels is drawn in whole {wholes} too, as near "
        "to it as these allow: the number differs a little between seeds, and the median is "
        "given. Nothing is chosen on test images."
    )


def section(found: DatasetInputs, album: Album, params: Params) -> Section | None:
    """Show every figure that `evaluate` made, and every run behind it."""
    if found.metrics is None:
        return None
    made = Section("scores", "All figures")
    made.blocks.append(Text(labels_rule(found, params)))
    remarks = plan_remarks(found)
    if remarks:
        made.blocks += [Text("What the plan of the splits noted:"), Points(remarks)]
    made.blocks += broken_runs(found.runs)
    again = repeated_text(found)
    if again:
        made.blocks.append(Text(again, "note"))
    for i, (protocol, subset) in enumerate(select.distinct_blocks(found.metrics)):
        blocks = [score_table(found, protocol, subset)]
        notes = evaluate_notes(found.metrics, protocol, subset)
        blocks += [Text(notes, "note")] if notes else []
        for metric, name in select.METRICS.items():
            table = select.over_seeds(found.metrics, protocol, subset, metric)
            if metric != "accuracy" and not table.empty:
                other = score_table(found, protocol, subset, metric)
                blocks.append(Details(title(name), [other]))
        seeds = _seeds(found, protocol, subset)
        if seeds:
            blocks.append(Details("Every seed", [seeds], printed=False))
        name = found.block_name(protocol, subset)
        made.blocks.append(Details(name, blocks, open=i == 0))
    return made


def repeated_text(found: DatasetInputs) -> str:
    """Say which blocks are left out since they hold the images of another; "" if none."""
    parts = [
        f"“{found.block_name(*block)}” holds the images of “{found.block_name(*earlier)}”"
        for block, earlier in select.repeated(found.metrics).items()
    ]
    return f"Not repeated: {'; '.join(parts)}." if parts else ""


def score_table(
    found: DatasetInputs, protocol: str, subset: str, metric: str = "accuracy"
) -> Table:
    """Return runs x fractions of one metric; the best of each column is marked."""
    table = select.over_seeds(found.metrics, protocol, subset, metric)
    fractions = select.fractions_of(table)
    as_percent = metric in select.PERCENT_METRICS
    lower = metric in ("ece", "brier")
    best = table.groupby("fraction")["value"].agg("min" if lower else "max")
    rows = []
    for run in select.runs_of(table):
        row: list = [head(select.HEADS.get(run[0], run[0])), select.VIEWS.get(run[1], run[1])]
        for f in fractions:
            mine = select.one(table, *run, 0.0 if run[0] == "zero-shot" else f)
            if mine is None:
                row.append(Cell(NOTHING, look="number"))
                continue
            look = "best" if run[0] != "zero-shot" and mine["value"] == best.get(f) else ""
            row.append(
                interval_cell(
                    mine["value"], mine["lo"], mine["hi"], as_percent=as_percent, look=look
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
    unit = "percent" if as_percent else "0 to 2" if metric == "brier" else "0 to 1"
    better = "Lower is better. " if lower else ""
    note = (
        f"{better}Mean over the seeds [{found.level} interval], {unit}; the best of each column "
        "in bold. Zero-shot uses no labels, so it is the same in every column."
    )
    floor = largest_class(found, protocol, subset) if metric == "accuracy" else None
    note += f" {floor}" if floor else ""
    if (protocol, subset) == select.PUBLISHED:
        note += as_published([found])
    size = many(round(images.median()), "test image") if len(images) else ""
    caption = f"{title(select.METRICS.get(metric, metric))}, {size}".rstrip(", ")
    return Table(headers, rows, caption=caption, note=note)


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
            name, at = head(select.run_name(*run)), Cell(share(f), sort=f)
            body.append([name, at, sizes, *cells, _all_chosen(ran)])
    headers = ["run", "share", "labels: train + val", *(f"seed {s}" for s in seeds)]
    headers.append("chosen on the validation part")
    note = (
        "Accuracy in percent. Last column: what the validation part chose for each seed, in their "
        "order, and in brackets the score that it had there."
    )
    return Table(headers, body, note=note)


def _seed_cell(value: float | None, run: dict | None) -> Cell:
    if run is not None and run["status"] != "ok":
        shown = f"{run['status']} ({percent(value)})" if value is not None else run["status"]
        return Cell(shown, look="bad", title=str(run.get("error") or ""))
    return Cell(percent(value), sort=value, look="number")


def _all_chosen(ran: list[dict]) -> str:
    """Return what was chosen for each seed."""
    said = [_chosen(run.get("chosen"), run.get("val_score")) for run in ran]
    return " · ".join(said) if any(text != NOTHING for text in said) else NOTHING


def _chosen(text: str | None, score: float | None) -> str:
    if not isinstance(text, str) or text in ("", "{}"):
        return NOTHING
    try:
        values = json.loads(text)
    except (TypeError, ValueError):
        return str(text)
    if not isinstance(values, dict):
        return str(values)
    parts = [f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in values.items()]
    return f"{', '.join(parts)} ({number(score)})"
