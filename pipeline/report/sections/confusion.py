"""Confusion matrices whose cells open the images in them."""

from __future__ import annotations

import pandas as pd

from pipeline.config import Params
from pipeline.report import select
from pipeline.report.cases import confusion_cases
from pipeline.report.gallery import OUTLINES, Album, Gallery
from pipeline.report.inputs import DatasetInputs
from pipeline.report.page import Confusion, ConfusionCell, Section, Text
from pipeline.report.tables import many, number, percent, share

PER_CELL = 6


def section(found: DatasetInputs, album: Album, params: Params) -> Section | None:
    """Show the matrices of the two reference runs at the largest share of labels."""
    if found.metrics is None:
        return None
    table = select.over_seeds(found.metrics, "official", "full")
    fractions = select.fractions_of(table)
    if not fractions:
        return None
    made = Section("confusion", "Confusions")
    for run in select.reference_runs(table):
        cases = confusion_cases(found, "official", *run, fractions[-1])
        if cases is not None:
            title = f"{select.run_name(*run)}, {share(fractions[-1])} of the labels"
            made.blocks.append(matrix(cases, found.classes, album, title, [found.name, *run]))
    if not made.blocks:
        return None
    made.blocks.insert(
        0,
        Text(
            "Mean number of test images over the seeds. A cell is a button: it opens images of "
            f"that cell, the surest mistakes first: at most {PER_CELL} in pictures, the others by "
            "name."
        ),
    )
    return made


def matrix(
    cases: pd.DataFrame, classes: list[str], album: Album, caption: str, key: list[str]
) -> Confusion:
    """Build the matrix of `cases.confusion_cases`.

    Off the diagonal the images that most seeds call so come first, then those with the lowest
    probability of the true class; on the diagonal those that were closest to being missed.
    """
    names = sorted({*classes, *cases["y_true"], *cases["y_pred"]})
    seeds = int(cases["seeds"].iloc[0])
    rows, totals = [], []
    for true in names:
        mine = cases[cases["y_true"] == true]
        total = mine["n"].sum() / seeds
        row = []
        for predicted in names:
            cell = mine[mine["y_pred"] == predicted]
            mean = cell["n"].sum() / seeds
            label = f"{true} called {predicted}" if true != predicted else f"{true}, recognised"
            row.append(
                ConfusionCell(
                    id=select.slug("cell", *key, true, predicted),
                    text=f"{mean:.1f}".removesuffix(".0") if len(cell) else "0",
                    shade=float(mean / total) if total else 0.0,
                    right=true == predicted,
                    label=f"{label}: {number(mean, 1)} images",
                    gallery=_gallery(cell, album, label, seeds) if len(cell) else None,
                )
            )
        recall = mine[mine["y_pred"] == true]["n"].sum() / seeds / total if total else None
        totals.append(f"{total:.4g} ({percent(recall, 0)} %)" if total else "0")
        rows.append(row)
    return Confusion(caption, names, rows, totals)


def _gallery(cell: pd.DataFrame, album: Album, label: str, seeds: int) -> Gallery:
    ordered = cell.sort_values(["n", "p_true", "image_id"], ascending=[False, True, True])
    if label.endswith("recognised"):
        ordered = cell.sort_values(["n", "p_true", "image_id"])
    shown, others = ordered.head(PER_CELL), ordered["image_id"].iloc[PER_CELL:]
    pictures = [
        album.picture(r["image_id"], f"{r['n']} of {seeds} seeds, p(true) {number(r['p_true'], 2)}")
        for _, r in shown.iterrows()
    ]
    title = f"{label} ({many(len(cell), 'image')})"
    return Gallery(title, pictures, note=OUTLINES, rest=len(others), others=list(others))
