"""Accuracy over the share of labels: the paper's Fig. 2, with bands, and what the views add."""

from __future__ import annotations

from pipeline.config import Params
from pipeline.report import select
from pipeline.report.figures import Figure, curves
from pipeline.report.gallery import Album
from pipeline.report.inputs import DatasetInputs
from pipeline.report.page import Grid, Section, Text
from pipeline.report.paper import OTHER_SET


def section(found: DatasetInputs, album: Album, params: Params) -> Section | None:
    """Draw one overview for each protocol and one plot of all views for each trained head."""
    if found.metrics is None:
        return None
    made = Section("curves", "Accuracy and the number of labels")
    made.blocks.append(
        Text(
            f"Each line is the mean over the seeds, each band its {found.level} interval. "
            "The first plot is the paper's Fig. 2 with our runs; grey hollow markers are quoted "
            "from the paper, single runs without an interval. The numbers under the axis count "
            "every label used: training and validation (median over the seeds)."
        )
    )
    if found.name in OTHER_SET and found.quoted:
        made.blocks.append(Text(OTHER_SET[found.name], "warning"))
    figures: list[Figure] = []
    chance = 1 / len(found.classes) if found.classes else None
    for protocol, subset in select.distinct_blocks(found.metrics):
        table = select.over_seeds(found.metrics, protocol, subset)
        if not select.fractions_of(table):
            continue
        figures.append(_overview(found, protocol, subset, table, chance))
    for block in (select.PUBLISHED, select.GROUPED, select.TRUTH, select.GROUPED_TRUTH):
        figures += _views(found, block, chance)
    made.blocks.append(Grid(figures))
    return made


def _overview(found: DatasetInputs, protocol: str, subset: str, table, chance) -> Figure:
    """Baseline, masked baseline and the method in one plot, with the paper's own points."""
    have = select.runs_of(table)
    wanted = [
        ("zero-shot", "whole"),
        select.BASELINE,
        select.MASKED_PROBE,
        ("medfocus", "masked"),
        select.METHOD,
    ]
    runs = [run for run in wanted if run in have] or have[:5]
    points = found.quoted if (protocol, subset) == ("official", "full") else {}
    name = found.block_name(protocol, subset)
    return curves(name, table, runs, points, level=found.level, chance=chance)


def _views(found: DatasetInputs, block: tuple[str, str], chance) -> list[Figure]:
    """One plot a head, all views of it; none where the block was not run."""
    table = select.over_seeds(found.metrics, *block)
    figures = []
    heads = dict.fromkeys(head for head, _ in select.runs_of(table) if head != "zero-shot")
    for name in heads:
        runs = [run for run in select.runs_of(table) if run[0] == name]
        where = select.short_name(*block, drawn=found.drawn_split)
        title = f"All views, {select.HEADS.get(name, name)} ({where})"
        labels = [select.VIEWS.get(view, view) for _, view in runs]
        figures.append(curves(title, table, runs, level=found.level, names=labels, chance=chance))
    return figures
