"""The figures of the page: each is an inline SVG with the table of what it shows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.report import select
from pipeline.report.svg import STYLES, Axis, Plot, Style
from pipeline.report.tables import Table, head, interval_cell, number, numeric, percent, share

QUOTED_STYLES = {
    "CLIP": Style("#6C6C6C", "triangle", "1 3"),
    "MedFocusCLIP": Style("#6C6C6C", "diamond", "1 3"),
}


# Bins of fewer predictions than this (over all seeds) are drawn hollow, beside the line.
FEW = 10
# The same run looks the same in every plot of runs, the same view in every plot of views.
RUN_STYLES = {
    ("zero-shot", "whole"): STYLES[0],
    select.BASELINE: STYLES[0],
    select.MASKED_PROBE: STYLES[1],
    ("medfocus", "masked"): STYLES[3],
    select.METHOD: STYLES[2],
}
VIEW_STYLES = dict(zip(select.VIEWS, STYLES, strict=False))


@dataclass(frozen=True)
class Figure:
    """A plot, its title, and the table of the same figures."""

    kind: ClassVar[str] = "figure"
    title: str
    svg: Markup
    table: Table
    caption: str = ""


def curves(
    title: str,
    table: pd.DataFrame,
    runs: Sequence[tuple[str, str]],
    quoted: dict[str, dict[float, float]] | None = None,
    *,
    level: str,
    names: Sequence[str] | None = None,
    chance: float | None = None,
) -> Figure:
    """Draw accuracy over the share of labels, with bands (the paper's Fig. 2).

    Args:
        title: of the figure.
        table: rows of one block and metric over all seeds (`select.over_seeds`).
        runs: (head, view) pairs to draw, in order; zero-shot is drawn as a level line.
        quoted: {architecture: {fraction: accuracy}}; drawn grey and hollow, labelled quoted.
        level: confidence of the intervals, in words.
        names: legend names of the runs.
        chance: draws the level of guessing.
    """
    fractions = select.fractions_of(table)
    spots = {f: i for i, f in enumerate(fractions)}
    quoted = {
        name: {f: v for f, v in row.items() if f in spots}
        for name, row in (quoted or {}).items()
        if name in QUOTED_STYLES
    }
    quoted = {name: row for name, row in quoted.items() if row}
    styles = _styles(runs, by_view=names is not None)
    names = list(names or [select.run_name(*run) for run in runs])
    shown = table[[pair in set(runs) for pair in zip(table["head"], table["view"], strict=True)]]
    values = [*shown["lo"].dropna(), *shown["hi"].dropna(), *shown["value"].dropna()]
    values += [v for row in quoted.values() for v in row.values()]
    values += [] if chance is None else [chance]
    lo, hi = (min(values), max(values)) if values else (0.0, 1.0)
    x = Axis(
        "share of training labels (number of labels used)",
        -0.3,
        len(fractions) - 0.7,
        tuple((i, f"{share(f)}\n({select.labels_at(table, f) or '?'})") for f, i in spots.items()),
    )
    plot = Plot(title, x, Axis.nice("accuracy, %", lo, min(hi, 1.0), scale=100))
    if chance is not None:
        plot.rule([(x.lo, chance), (x.hi, chance)], "guessing")
    rows = []
    for run, name, style in zip(runs, names, styles, strict=True):
        if run[0] == "zero-shot":
            row = select.one(table, *run, 0.0)
            if row is not None:
                plot.line([x.lo, x.hi], [float(row["value"])] * 2, style, name=name, markers=False)
                cell = interval_cell(row["value"], row["lo"], row["hi"])
                rows.append([head(name), *[cell] * len(fractions)])
            continue
        found = [select.one(table, *run, f) for f in fractions]
        v, a, b = (
            [np.nan if row is None else float(row[c]) for row in found]
            for c in ("value", "lo", "hi")
        )
        at = list(spots.values())
        plot.band(at, a, b, style)
        tips = [f"{name}, {share(f)}: {percent(u)} %" for f, u in zip(fractions, v, strict=True)]
        plot.line(at, v, style, name=name, tips=tips)
        rows.append([head(name), *(interval_cell(*t) for t in zip(v, a, b, strict=True))])
    for name, points in quoted.items():
        style = QUOTED_STYLES[name]
        at = [spots[f] for f in points]
        tips = [f"{name} (quoted), {share(f)}: {percent(v)} %" for f, v in points.items()]
        plot.line(at, list(points.values()), style, name=f"{name} (quoted)", tips=tips, hollow=True)
        cells = [interval_cell(points.get(f, np.nan), np.nan, np.nan) for f in fractions]
        rows.append([head(f"{name} (quoted from the paper)"), *cells])
    headers = ["run", *(share(f) for f in fractions)]
    note = f"Accuracy in percent; in brackets the {level} interval. "
    note += "Bands in the plot are the same."
    return Figure(title, plot.svg(), Table(headers, rows, note=note))


def _styles(runs: Sequence[tuple[str, str]], *, by_view: bool) -> list[Style]:
    """Give each run its usual style, and unknown ones those that are left."""
    known = {run: VIEW_STYLES.get(run[1]) if by_view else RUN_STYLES.get(run) for run in runs}
    taken = {style for style in known.values() if style}
    free = iter([s for s in STYLES if s not in taken] + list(STYLES) * len(known))
    return [known[run] or next(free) for run in runs]


def reliability(
    title: str, series: dict[tuple[str, str], tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> Figure:
    """Draw a reliability diagram: in each bin of confidence, how often the run was right.

    Bins of fewer than `FEW` predictions are hollow points beside the line.

    Args:
        series: {(head, view): (mean confidence, accuracy, number of predictions) of the bins}.
    """
    axis = Axis.nice("mean confidence of the prediction", 0, 1)
    plot = Plot(title, axis, Axis.nice("share of right predictions", 0, 1))
    plot.rule([(0, 0), (1, 1)], "perfectly calibrated")
    rows = []
    for style, (run, values) in zip(
        _styles(list(series), by_view=False), series.items(), strict=True
    ):
        name = select.run_name(*run)
        confidence, accuracy, count = values
        few = count < FEW
        tips = [f"{name}: {int(n)} predictions" for n in count[~few]]
        plot.line(confidence[~few], accuracy[~few], style, name=name, tips=tips)
        tips = [f"{name}: only {int(n)} predictions" for n in count[few]]
        plot.points(confidence[few], accuracy[few], style, tips=tips)
        rows += [
            [head(name), numeric(number(float(c), 2)), numeric(percent(float(a))), int(n)]
            for c, a, n in zip(confidence, accuracy, count, strict=True)
        ]
    headers = ["run", "mean confidence", "right, %", "predictions (all seeds)"]
    return Figure(title, plot.svg(), Table(headers, rows))


def histogram(
    title: str,
    series: dict[str, np.ndarray],
    x_title: str,
    *,
    bins: int = 20,
    limits: tuple[float, float] | None = (0.0, 1.0),
) -> Figure:
    """Draw histograms of values over each other, as shares of each series.

    `limits` None: from 0 to a round number above the largest value.
    """
    series = {name: v[np.isfinite(v)] for name, v in series.items()}
    series = {name: v for name, v in series.items() if len(v)}
    if limits is None:
        top = max((float(v.max()) for v in series.values()), default=1.0)
        limits = (0.0, Axis.nice("", 0, max(top, 1e-3)).hi)
    edges = np.linspace(*limits, bins + 1)
    counts = {n: np.histogram(v.clip(*limits), edges)[0] for n, v in series.items()}
    shares = {n: c / c.sum() for n, c in counts.items()}
    top = max((s.max() for s in shares.values()), default=1.0)
    y = Axis.nice("share of images, %", 0, top, scale=100)
    plot = Plot(title, Axis.nice(x_title, *limits), y)
    for i, (name, values) in enumerate(shares.items()):
        style = (Style("#0072B2"), Style("#D55E00", dash="5 3"))[i % 2]
        plot.bars(edges, values, style, name=name, hollow=i % 2 == 1)
    rows = [
        [f"{a:.3g} to {b:.3g}", *(int(c[i]) for c in counts.values())]
        for i, (a, b) in enumerate(itertools.pairwise(edges))
        if any(c[i] for c in counts.values())
    ]
    return Figure(title, plot.svg(), Table([x_title, *counts], rows, note="Numbers of images."))


def scatter(
    title: str,
    x: np.ndarray,
    y: np.ndarray,
    x_title: str,
    y_title: str,
    summary: Table,
    *,
    groups: Sequence[str] = (),
    bins: Sequence[tuple[float, float, float, float]] = (),
) -> Figure:
    """Draw points, one marker a group, with a line through the means of bins.

    Args:
        x: shares from 0 to 1; the axis spans those there are.
        bins: (x, mean, lo, hi) of each bin.
        summary: the table that follows the plot.
    """
    groups = np.asarray(list(groups) or [""] * len(x))
    spread = max(1e-6, float(np.nanmax(np.abs(y))) if len(y) else 1.0)
    across = _fitted(x_title, x)
    plot = Plot(title, across, Axis.nice(y_title, -spread, spread))
    plot.rule([(across.lo, 0), (across.hi, 0)])
    for style, name in zip(STYLES[1:] * 4, sorted(set(groups)), strict=False):
        chosen = groups == name
        plot.points(x[chosen], y[chosen], style, name=name)
    if bins:
        at, mean, lo, hi = map(list, zip(*bins, strict=True))
        plot.errors(at, lo, hi, STYLES[0])
        plot.line(at, mean, STYLES[0], name="mean of a quarter")
    return Figure(title, plot.svg(), summary)


def _fitted(title: str, values: np.ndarray) -> Axis:
    """Return the part of the axis from 0 to 1 that holds the values, with a margin."""
    values = values[np.isfinite(values)]
    if not len(values):
        return Axis.nice(title, 0, 1)
    lo, hi = float(values.min()), float(values.max())
    margin = max(0.05 * (hi - lo), 0.005)
    return Axis.nice(title, max(0.0, lo - margin), min(1.0, hi + margin))
