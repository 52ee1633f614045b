"""Every plot of the report and of `results/`, drawn by matplotlib as SVG.

The same data give the same bytes: ids are hashed with a fixed salt and no date is written. Text
stays text, so that it can be searched, read aloud and copied, and takes the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report import words
from pipeline.report.blocks import percent, share

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, distinct with every kind of colour vision; yellow is left out."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1)), "-", "-")
QUOTED = "#6b6b6b"
FEW = 10
"""Bins of a reliability diagram with fewer predictions are drawn hollow and unconnected."""
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "medfocusclip",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8a8a",
    "axes.labelcolor": "#444444",
    "text.color": "#222222",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.grid": True,
    "grid.color": "#e8e8e8",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.markersize": 5,
    "lines.linewidth": 1.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Style:
    """The colour, marker and dash of a run, the same in every plot of the page."""

    colour: str
    marker: str
    dash: object


def styles(names: Sequence[object]) -> dict:
    """Give each run a style by its place; beyond seven the dashes are shifted."""
    n = len(COLOURS)
    return {
        name: Style(COLOURS[i % n], MARKERS[i % n], DASHES[(i + i // n) % n])
        for i, name in enumerate(dict.fromkeys(names))
    }


@dataclass(frozen=True)
class Curve:
    """A line of a plot over the shares of the labels: {fraction: (value, lo, hi)}."""

    name: str
    points: Mapping[float, tuple[float, float, float]]
    style: Style
    level: bool = False
    """Drawn as a horizontal line: the run uses no labels."""


@contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure of the given inches and its axes, in the report's style."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots()


def render(figure: Figure) -> str:
    """Return a figure as an SVG file without a date; call it with the report's style set."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    return buffer.getvalue()


def svg(figure: Figure, name: str, label: str) -> Markup:
    """Return a figure as SVG for a page, with ids of its own and a text alternative.

    Args:
        figure: to render; call it inside `canvas`.
        name: prefix of its ids, unique in the page.
        label: read by screen readers.
    """
    text = render(figure)
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = text.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    # The page's own font, in the size that was drawn.
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"font: ((?:bold )?)([\d.]+px)[^;\"]*", r"font-size: \2", text)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    head = (
        f'<svg role="img" aria-label="{escape(label)}" style="aspect-ratio: {size[1]} / {size[2]}"'
    )
    attributes = text[4 : text.index(">")]
    attributes = re.sub(r' (?:width|height)="[^"]*"', "", attributes)
    return Markup(head + attributes + text[text.index(">") :])


def _legend(axes: Axes, rows: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.figure.legend(handles, labels, loc="outside lower left", ncols=rows, fontsize=8.5)


def curves(
    name: str,
    title: str,
    shown: Sequence[Curve],
    *,
    labels: Mapping[float, int | None],
    quoted: Mapping[str, Mapping[float, float]] | None = None,
    levels: Mapping[str, float] | None = None,
    small: bool = False,
) -> Markup:
    """Draw accuracy over the share of labels, with intervals as bands (the paper's Fig. 2).

    Args:
        name: unique in the page.
        title: read by screen readers.
        shown: the lines, in the order of the legend.
        labels: {fraction: number of labels used}; decides the ticks.
        quoted: {architecture: {fraction: accuracy}} of the paper: grey, hollow, labelled "quoted".
        levels: {name: accuracy} of dotted horizontal lines.
        small: for the overview: shares alone under the axis, and no legend.
    """
    at = {f: i for i, f in enumerate(sorted(labels))}
    with canvas(*((3.4, 2.1) if small else (5.6, 3.4))) as (figure, axes):
        for level, value in (levels or {}).items():
            axes.axhline(100 * value, color="#9a9a9a", lw=1, ls=":", zorder=1)
            text = f"{level.lower()} {percent(value)} %"
            axes.annotate(
                text, (1, 100 * value), xycoords=("axes fraction", "data"), color="#6b6b6b",
                ha="right", va="bottom", fontsize=8.5, xytext=(0, 1), textcoords="offset points",
            )  # fmt: skip
        for curve in shown:
            look = {"color": curve.style.colour, "ls": curve.style.dash, "label": curve.name}
            if curve.level:
                axes.axhline(100 * next(iter(curve.points.values()))[0], lw=1.4, **look)
                continue
            known = [(at[f], *p) for f, p in sorted(curve.points.items()) if f in at]
            x, value, lo, hi = (np.array(column) for column in zip(*known, strict=True))
            axes.fill_between(x, 100 * lo, 100 * hi, color=curve.style.colour, alpha=0.13, lw=0)
            axes.plot(x, 100 * value, marker=curve.style.marker, **look)
        for (architecture, points), marker in zip((quoted or {}).items(), "od^vs", strict=False):
            x = [at[f] for f in points if f in at]
            y = [100 * v for f, v in points.items() if f in at]
            axes.plot(
                x, y, color=QUOTED, marker=marker, mfc="white", lw=1, ls=(0, (2, 2)),
                label=words.QUOTED_NAME.format(architecture),
            )  # fmt: skip
        ticks = [f"{share(f)}\n({labels[f] or '?'})" if not small else share(f) for f in at]
        axes.set_xticks(list(at.values()), ticks)
        axes.set_xlim(-0.2, len(at) - 0.8)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel(words.ACCURACY_AXIS)
        if not small:
            axes.set_xlabel(words.LABELS_AXIS)
            _legend(axes, 3)
        return svg(figure, name, title)


def reliability(
    name: str,
    title: str,
    series: Mapping[str, tuple[Style, np.ndarray, np.ndarray, np.ndarray]],
) -> Markup:
    """Draw a reliability diagram: in each bin of confidence, how often the run was right.

    Args:
        name: unique in the page.
        title: read by screen readers.
        series: {run: (style, mean confidence, accuracy, number of predictions)} by bin; bins of
            fewer than `FEW` predictions are hollow and off the line.
    """
    with canvas(4.0, 3.8) as (figure, axes):
        axes.plot([0, 100], [0, 100], color="#9a9a9a", lw=1, ls=":")
        for run, (style, confidence, accuracy, n) in series.items():
            few = n < FEW
            look = {"color": style.colour, "marker": style.marker}
            axes.plot(
                100 * confidence[~few], 100 * accuracy[~few], ls=style.dash, label=run, **look
            )
            axes.plot(100 * confidence[few], 100 * accuracy[few], ls="", mfc="none", **look)
        axes.set(
            xlabel=words.CONFIDENCE_AXIS, ylabel=words.RIGHT_AXIS, xlim=(0, 102), ylim=(0, 102)
        )
        _legend(axes, 2)
        return svg(figure, name, title)


def histogram(
    name: str, title: str, series: Mapping[str, np.ndarray], x_label: str, edges: np.ndarray
) -> tuple[Markup, dict[str, np.ndarray]]:
    """Draw histograms over each other, as shares of each series.

    Returns:
        The plot, and the number of values in each bin by series.
    """
    counts = {key: np.histogram(v[np.isfinite(v)], edges)[0] for key, v in series.items()}
    with canvas(4.0, 2.8) as (figure, axes):
        for i, (key, n) in enumerate(counts.items()):
            look = {"color": COLOURS[i], "lw": 1.8, "ls": DASHES[i], "label": key}
            heights = 100 * n / max(n.sum(), 1)
            axes.stairs(heights, edges, fill=i == 0, alpha=0.35 if i == 0 else 1, **look)
        axes.set(xlabel=x_label, ylabel=words.IMAGES_AXIS, xlim=(edges[0], edges[-1]))
        axes.grid(axis="x", visible=False)
        if len(counts) > 1:
            _legend(axes, 2)
        return svg(figure, name, title), counts


def scatter(
    name: str,
    title: str,
    x: np.ndarray,
    y: np.ndarray,
    groups: Sequence[str],
    bins: Sequence[tuple[float, float, float, float]],
    x_label: str,
    y_label: str,
) -> Markup:
    """Draw one point an image, a marker for each class, and the mean of each bin with its interval.

    Args:
        name: unique in the page.
        title: read by screen readers.
        x: (n,), where the points are.
        y: (n,).
        groups: the class of each point.
        bins: (x, mean, lo, hi) of each bin.
        x_label: of the axis.
        y_label: of the axis.
    """
    labels = np.asarray(groups)
    with canvas(4.0, 3.2) as (figure, axes):
        axes.axhline(0, color="#9a9a9a", lw=1)
        for group, style in styles(sorted(set(groups))).items():
            here = labels == group
            look = {"color": style.colour, "marker": style.marker, "ms": 3.5, "alpha": 0.55}
            axes.plot(x[here], y[here], ls="", label=group, **look)
        if bins:
            at, mean, lo, hi = np.array(bins).T
            axes.plot(at, mean, color="#111111", lw=1.6, marker="_", label=words.BIN_MEAN)
            axes.vlines(at, lo, hi, color="#111111", lw=1.2)
        axes.set(xlabel=x_label, ylabel=y_label)
        _legend(axes, 2)
        return svg(figure, name, title)


def multiples(panels: Mapping[str, tuple[Sequence[Curve], Sequence[float], float | None]]) -> str:
    """Draw accuracy over the share of labels, a panel for each dataset; an SVG file.

    Args:
        panels: {title: (lines, shares of the labels, share of the largest class)}.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context({**STYLE, "figure.facecolor": "white"}):
        figure = Figure(figsize=(3.9 * columns, 2.5 * rows + 0.4), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        handles: dict[str, object] = {}
        for axes, (title, (shown, shares, largest)) in zip(grid, panels.items(), strict=False):
            at = {f: i for i, f in enumerate(shares)}
            for curve in shown:
                known = [(at[f], *p) for f, p in sorted(curve.points.items()) if f in at]
                if not known:
                    continue
                x, value, lo, hi = (100 * np.array(c) for c in zip(*known, strict=True))
                look = {"color": curve.style.colour, "ls": curve.style.dash}
                axes.fill_between(x / 100, lo, hi, color=curve.style.colour, alpha=0.13, lw=0)
                (line,) = axes.plot(x / 100, value, marker=curve.style.marker, **look)
                handles.setdefault(curve.name, line)
            if largest is not None:
                line = axes.axhline(100 * largest, color="#9a9a9a", lw=1, ls=":")
                handles[words.LARGEST_CLASS] = line
            axes.set_title(title, loc="left", fontweight="bold")
            axes.set_xticks(list(at.values()), [share(f) for f in at])
            axes.grid(axis="x", visible=False)
            axes.set_ylabel(words.ACCURACY_AXIS)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        handles[words.LARGEST_CLASS] = handles.pop(words.LARGEST_CLASS, None)
        handles = {name: line for name, line in handles.items() if line is not None}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, fontsize=8.5)
        return render(figure)
