"""The paper's table beside our figures, each in its own labelled columns."""

from __future__ import annotations

from pipeline.config import Params
from pipeline.report import select
from pipeline.report.gallery import Album
from pipeline.report.inputs import DatasetInputs
from pipeline.report.page import Section, Text
from pipeline.report.paper import OTHER_SET, quoted_table
from pipeline.report.tables import Cell, Table, head, interval_cell, percent, share

# The paper's architecture and the run of ours that asks the same question.
COUNTERPARTS = {"CLIP": select.BASELINE, "MedFocusCLIP": select.METHOD}

COPIES = ", on the set's own test part, in which copies of training images occur"
# Of the splits that the paper tested on, these are known.
SPLITS = {"brain": COPIES, "covid": COPIES, "breast": ", on a split that is not published"}


def section(found: DatasetInputs, album: Album, params: Params) -> Section | None:
    """Show the paper's table; None for a dataset that the paper does not have, and for phantoms."""
    paper = found.quoted
    if not paper:
        return None
    where = "a test part drawn here" if found.drawn_split else "the set's own test part"
    made = Section("quoted", "Beside the paper's figures")
    made.blocks.append(
        Text(
            f"Columns labelled “quoted” are copied from the paper's table "
            f"{quoted_table(found.name)}: single runs, without intervals, with other and larger "
            f"models{SPLITS.get(found.name, '')}. “Ours” are the runs of this page on "
            f"{where}."
        )
    )
    if found.name in OTHER_SET:
        made.blocks.append(Text(OTHER_SET[found.name], "warning"))
    made.blocks.append(quoted_beside(found, paper))
    return made


def quoted_beside(found: DatasetInputs, paper: dict[str, dict[float, float]]) -> Table:
    """Return architectures x shares, quoted columns first, then ours with their intervals."""
    shares = list(next(iter(paper.values())))
    table = None
    if found.metrics is not None:
        table = select.over_seeds(found.metrics, "official", "full")
    rows = []
    for name, points in paper.items():
        row: list = [head(name)]
        row += [Cell(percent(points[f], 2), sort=points[f], look="number quoted") for f in shares]
        run = COUNTERPARTS.get(name)
        row.append(select.run_name(*run) if run else None)
        for f in shares:
            ours = select.one(table, *run, f) if run and table is not None else None
            row.append(
                None if ours is None else interval_cell(ours["value"], ours["lo"], ours["hi"])
            )
        rows.append(row)
    headers = [
        "architecture (paper)",
        *(Cell(f"quoted, {share(f)}", look="quoted") for f in shares),
        "our nearest run",
        *(f"ours, {share(f)}" for f in shares),
    ]
    return Table(headers, rows, caption="Accuracy in percent, quoted from the paper and ours")
