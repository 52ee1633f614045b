"""Precision, recall and F1 of each class."""

from __future__ import annotations

import numpy as np

from pipeline.config import Params
from pipeline.report import select
from pipeline.report.gallery import Album
from pipeline.report.inputs import DatasetInputs
from pipeline.report.page import Details, Section, Text
from pipeline.report.tables import Table, head, interval_cell, share


def section(found: DatasetInputs, album: Album, params: Params) -> Section | None:
    """Show the classes of the two reference runs at the largest and smallest share of labels."""
    table = found.per_class
    if table is None or table.empty:
        return None
    made = Section("per-class", "Each class")
    again = {} if found.metrics is None else select.repeated(found.metrics)
    for protocol, subset in select.blocks(table):
        if (protocol, subset) in again:
            continue
        mine = table[(table["protocol"] == protocol) & (table["subset"] == subset)]
        fractions = select.fractions_of(mine)
        if not fractions:
            continue
        shown = [_table(mine, *run, fractions[-1]) for run in select.reference_runs(mine)]
        if len(fractions) > 1:
            few = [_table(mine, *run, fractions[0]) for run in select.reference_runs(mine)]
            shown.append(Details(f"The same with {share(fractions[0])} of the labels", few))
        first = not made.blocks
        name = found.block_name(protocol, subset)
        made.blocks.append(Details(name, shown, open=first))
    text = (
        f"Percent, mean over the seeds [{found.level} interval]. Where every unit (patient, group, "
        "copies or single image) is right, or every one wrong, the interval of precision and "
        "recall is the exact one (Clopper-Pearson), and F1 has none."
    )
    made.blocks.append(Text(text, "note"))
    return made


def _table(table, run_head: str, view: str, fraction: float) -> Table:
    chosen = table[
        (table["head"] == run_head)
        & (table["view"] == view)
        & ((table["fraction"] - fraction).abs() < 1e-4)
    ]
    rows = []
    for _, r in chosen.iterrows():
        cells = [
            interval_cell(r[m], r.get(f"{m}_lo", np.nan), r.get(f"{m}_hi", np.nan))
            for m in ("precision", "recall", "f1")
        ]
        rows.append([head(r["class"]), *cells, float(r["support"])])
    for row in rows:
        row[-1] = round(row[-1])
    caption = f"{select.run_name(run_head, view)}, {share(fraction)} of the labels"
    headers = ["class", "precision", "recall", "F1", "test images"]
    return Table(headers, rows, caption=caption)
