"""Accuracy by share of labels and differences by system, drawn by matplotlib as SVG.

The same data give the same bytes: ids are hashed with a fixed salt and no date is written. Text
stays text, so that it can be searched, read aloud and copied, and takes the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from pipeline.config import Params, parts_of
from pipeline.learners.choose import CONTROLS
from pipeline.report import words
from pipeline.report.data import TRUTH, Block, Dataset, Run

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, distinct with every kind of colour vision; yellow is left out."""
DRAWN = len(COLOURS)
"""Runs of the study in a curve; the tables and the forest plot have all of them."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1)), "-", "-")
MARKS = {"better": ("#0072B2", "o", "better beyond chance"),
         "no difference": ("#6b6b6b", "o", "no difference"),
         "worse": ("#D55E00", "s", "worse beyond chance")}  # fmt: skip
"""Colour, marker and legend of each verdict of a forest plot, after Holm's correction."""
STYLE = Path(__file__).with_name("templates") / "plots.mplstyle"


def styles(params: Params) -> dict[Run, dict]:
    """Give each run its colour, marker and dash, the same in every plot.

    The study's runs come first, then the other views of the baseline's learner, which plots of
    images with a ground-truth mask show. Beyond seven the dashes are shifted.
    """
    learner = params.study.baseline.learner
    of = params.learners.get(learner, {}).get("views") or params.train.views
    views = [view for name, _ in TRUTH for view in of.get(name, ())]
    other = [(learner, view) for view in (*views, *params.encode.views)]
    n = len(COLOURS)
    return {
        run: {"color": COLOURS[i % n], "marker": MARKERS[i % n], "ls": DASHES[(i + i // n) % n]}
        for i, run in enumerate(dict.fromkeys([*(r.key for r in params.study.runs), *other]))
    }


def curve(
    name: str,
    data: Dataset,
    block: Block,
    runs: Sequence[Run],
    *,
    quoted: Mapping[str, Mapping[float, float]] | None = None,
    small: bool = False,
) -> Markup:
    """Draw the accuracy of some runs on a block for the page, with bands of intervals, and a dotted
    line at what always answering the largest class gets (the paper's Fig. 2).

    Args:
        name: prefix of the SVG's ids, unique in the page.
        data: the dataset.
        block: the protocol and subset.
        runs: the lines, in the order of the legend.
        quoted: {architecture: {fraction: accuracy}} of the paper: grey, hollow, labelled "quoted".
        small: for the overview: no legend, no numbers of labels.
    """
    looks, labels = styles(data.params), data.labels_used(block)
    with matplotlib.rc_context(fname=STYLE):
        figure = Figure(figsize=(3.4, 2.1) if small else (5.6, 3.4), layout="constrained")
        axes = figure.subplots()
        for run in runs:
            by, look = data.accuracy(block)[run], looks[run]
            known = [(i, by[f].value, by[f].lo, by[f].hi) for i, f in enumerate(labels) if f in by]
            if not known:  # uses no labels: a level line
                level = {k: look[k] for k in ("color", "ls")}
                axes.axhline(100 * by[0.0].value, lw=1.4, label=data.run_name(run), **level)
                continue
            x, value, lo, hi = np.array(known).T
            axes.fill_between(x, 100 * lo, 100 * hi, color=look["color"], alpha=0.13, lw=0)
            axes.plot(x, 100 * value, label=data.run_name(run), **look)
        row = data.tested.get(block)
        if row is not None:
            axes.axhline(100 * row.largest_share, color="#9a9a9a", lw=1, ls=":")
            text = f"largest class {words.percent(row.largest_share)}\N{NO-BREAK SPACE}%"
            axes.annotate(
                text, (1, 100 * row.largest_share), xycoords=("axes fraction", "data"),
                color="#6b6b6b", ha="right", va="bottom", fontsize=8.5, xytext=(0, 1),
                textcoords="offset points",
            )  # fmt: skip
        for (architecture, points), marker in zip((quoted or {}).items(), "od^vs", strict=False):
            known = [(i, 100 * points[f]) for i, f in enumerate(labels) if f in points]
            look = {"color": "#6b6b6b", "marker": marker, "mfc": "white", "ls": (0, (2, 2))}
            if known:
                axes.plot(*np.array(known).T, lw=1, label=f"{architecture} (quoted)", **look)
        axes.set_xlim(-0.2, len(labels) - 0.8)
        axes.set_ylabel("accuracy, %")
        heads = [words.share(f) + f"\n({n})" * (not small) for f, n in labels.items()]
        axes.set_xticks(range(len(labels)), heads)
        if not small:
            axes.set_xlabel("share of the training labels (number of labels)")
            figure.legend(loc="outside lower left", ncols=3)
        title = f"Accuracy by share of labels, {data.name}: {words.block(data, block)}"
        return inline_svg(figure, name, title)


class Bar(NamedTuple):
    """A row of a forest plot: a paired difference to the baseline, -1 to 1, and its verdict."""

    difference: float
    lo: float
    hi: float
    verdict: str


def forest(panels: Mapping[str, Mapping[str, Bar]]) -> Figure:
    """Draw paired differences, percentage points: a panel for each dataset, a row for each system.

    A filled mark is beyond chance after Holm's correction, a hollow one is not. All panels share
    their rows, in the order of the first that has them.

    Args:
        panels: {dataset: {system: bar}}; call it with the report's style set.
    """
    names = list(dict.fromkeys(name for bars in panels.values() for name in bars))
    width, height = (5.6, 2.2 + 1.9 * len(panels))[len(panels) > 1], 0.9 + 0.19 * len(names)
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False).ravel()
    for axes, (dataset, bars) in zip(grid, panels.items(), strict=True):
        for kind, (colour, marker, text) in MARKS.items():
            mine = {
                name: bar
                for name, bar in bars.items()
                if bar.verdict == kind or (kind == "no difference" and bar.verdict not in MARKS)
            }
            y = [names.index(name) for name in mine]
            value, lo, hi = 100 * np.array([bar[:3] for bar in mine.values()]).reshape(-1, 3).T
            axes.hlines(y, lo, hi, color=colour, lw=1.4)
            face = "white" if kind == "no difference" else colour
            axes.plot(value, y, marker, color=colour, mfc=face, ms=4.5, label=text)
        axes.axvline(0, color="#8a8a8a", lw=1)
        axes.grid(axis="x")
        axes.set_title(dataset, loc="left", fontweight="bold", fontsize=9)
    grid[0].set_yticks(range(len(names)), names)
    grid[0].set_ylim(len(names) - 0.4, -0.6)
    figure.supxlabel("difference in accuracy, percentage points", fontsize=9, color="#444444")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def forest_file(panels: Mapping[str, Mapping[str, Bar]]) -> str:
    """Return `forest` as an SVG file."""
    with matplotlib.rc_context({"figure.facecolor": "white"}, STYLE):
        return render(forest(panels))


def forest_inline(name: str, dataset: str, bars: Mapping[str, Bar]) -> Markup:
    """Return `forest` of one dataset for the page; `name` is the prefix of its ids."""
    with matplotlib.rc_context(fname=STYLE):
        title = f"Paired differences to the baseline by system, {dataset}"
        return inline_svg(forest({dataset: bars}), name, title)


def dice_file(table: pd.DataFrame) -> str:
    """Draw what rows gain over the whole image against the Dice of their masks, both with their
    intervals (bands of the Dice, bars of the difference), a panel for each dataset, as an SVG
    file.

    A filled mark is beyond chance after Holm's correction, a hollow one is not; a control, whose
    `place` is not its masks, is a cross.

    Args:
        table: columns dataset, masks, place, view, verdict; dice (0 to 1) and difference (-1 to 1),
            each with the ends _lo and _hi.
    """
    plain = {control: view for view, control in CONTROLS.items()} | {"oracle": "masked"}
    named = [[part.partition("@")[0] for part in parts_of(view)] for view in table["view"]]
    table = table.assign(shown=["+".join(plain.get(n, n) for n in names) for names in named])
    names = sorted(set(table["shown"]))
    n, k = table["dataset"].nunique(), max(1, len(names) - 1)
    looks = {  # more markers where the colours are used up
        name: (COLOURS[at % len(COLOURS)], MARKERS[at // len(COLOURS) % len(MARKERS)])
        for at, name in enumerate(names)
    }
    with matplotlib.rc_context({"figure.facecolor": "white"}, STYLE):
        figure = Figure(figsize=(1.2 + 3.4 * n, 4.4), layout="constrained")
        grid = figure.subplots(1, n, squeeze=False).ravel()
        for axes, (dataset, mine) in zip(grid, table.groupby("dataset"), strict=True):
            for row in mine.itertuples():
                (colour, marker), control = looks[row.shown], row.place != row.masks
                beside = 0.04 * (names.index(row.shown) / k - 0.5) + 0.008 * control
                x = row.dice + beside
                ends = 100 * row.difference_lo, 100 * row.difference_hi
                axes.vlines(x, *ends, color=colour, lw=1)
                face = colour if row.verdict in ("better", "worse") else "white"
                marker = "x" if control else marker
                axes.plot(x, 100 * row.difference, marker, color=colour, mfc=face, ms=5)
            places, near = mine.drop_duplicates("place").sort_values(["dice", "place"]), 0
            for row in places.assign(gap=places["dice"].diff().fillna(1)).itertuples():
                axes.axvspan(row.dice_lo, row.dice_hi, color="#f0f0f0", lw=0, zorder=0)
                axes.axvline(row.dice, color="#d8d8d8", lw=1, zorder=0)
                near = near + 1 if row.gap < 0.06 else 0  # labels side by side, then at the top
                side, high = "left" if near % 2 else "right", near // 2 % 2
                at = {"xycoords": ("data", "axes fraction"), "rotation": 90, "fontsize": 7}
                at |= {"ha": side, "va": "top" if high else "bottom"}
                axes.annotate(row.place, (row.dice, 0.98 if high else 0.02), **at)
            axes.axhline(0, color="#8a8a8a", lw=1)
            axes.set(xlabel="mean Dice of the masks", ylabel="accuracy minus whole image, points")
            axes.set_xlim(-0.03, 1.06)
            axes.set_title(dataset, loc="left", fontweight="bold", fontsize=9)
        for name, (colour, marker) in looks.items():
            grid[0].plot([], [], marker, color=colour, label=name)
        if (table["place"] != table["masks"]).any():
            grid[0].plot([], [], "x", color="#6b6b6b", label="control of these masks")
        figure.legend(loc="outside lower left", ncols=2 * n, fontsize=7)
        return render(figure)


def render(figure: Figure) -> str:
    """Return a figure as an SVG file without a date; call it with the report's style set."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=metadata)
    return buffer.getvalue()


def inline_svg(figure: Figure, name: str, label: str) -> Markup:
    """Return a figure as SVG for a page, with a prefix of its ids and a text alternative."""
    text = render(figure)
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = text.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    # The page's own font, in the size that was drawn.
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"font: ((?:bold )?)([\d.]+px)[^;\"]*", r"font-size: \2", text)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    start = f'<svg role="img" aria-label="{escape(label)}" style="aspect-ratio:{size[1]}/{size[2]}"'
    attributes = re.sub(r' (?:width|height)="[^"]*"', "", text[4 : text.index(">")])
    return Markup(start + attributes + text[text.index(">") :])
