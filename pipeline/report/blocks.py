"""The parts a page is made of: tables, plots, galleries, folds and choices, and how numbers read.

Every part has a `kind`, the name of the macro in `templates/blocks.html.j2` that draws it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup

MISSING = "–"
"""Stands for a number that does not exist; never a zero."""


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """Format a number with a true minus sign; `MISSING` for None and NaN."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def percent(value: float | None, digits: int = 1, sign: bool = False) -> str:
    """Format a share between 0 and 1 in percent, without the percent sign."""
    return number(None if value is None else 100 * value, digits, sign)


def share(fraction: float) -> str:
    """Format a share of the labels: "5 %"."""
    return f"{100 * fraction:.3g}\N{NO-BREAK SPACE}%"


def count(value: float | None) -> str:
    """Format an integer with thousands separators."""
    return MISSING if value is None or not math.isfinite(value) else f"{round(value):,}"


def plural(n: int, one: str, many: str | None = None) -> str:
    """Format a count with its noun: "1 image", "2 images"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def more_text(n: int) -> str:
    """Say how many of a list are not shown; "" if none."""
    return f"{n:,} more are not shown." if n > 0 else ""


def join(items: Iterable[str]) -> str:
    """Join words: "a, b and c"."""
    words = list(items)
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def slug(*parts: str) -> str:
    """Make an HTML id; different names that differ only in punctuation get different ids."""
    text = "-".join(parts)
    plain = re.sub(r"[^a-zA-Z0-9]+", "-", text).strip("-").lower()
    return plain if plain == text else f"{plain}-{sum(i * ord(c) for i, c in enumerate(text, 1))}"


def is_known(value: Any) -> bool:
    """Return whether a table's value is a finite number."""
    return value is not None and math.isfinite(value)


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, the value it sorts by, its CSS classes and a tooltip."""

    text: str | Markup
    sort: float | str | None = None
    look: str = ""
    title: str = ""


def cell(value: Any) -> Cell:
    """Turn a value into a cell: integers and floats as numbers, None as `MISSING`."""
    if isinstance(value, Cell):
        return value
    if value is None:
        return Cell(MISSING, look="number")
    if isinstance(value, int):
        return Cell(f"{value:,}", value, "number")
    if isinstance(value, float):
        return Cell(number(value), value, "number")
    return Cell(value)


def head(text: Any, title: str = "") -> Cell:
    """Return the cell that names its row."""
    return Cell(text if isinstance(text, Markup) else str(text), look="head", title=title)


def interval_text(value: float, lo: float, hi: float, *, digits: int, scale: float = 1.0) -> str:
    """Format a value with its interval: "84.2 [81.0, 87.1]"; without one, the value alone."""
    shown = [number(scale * v if is_known(v) else None, digits) for v in (value, lo, hi)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if is_known(lo) and is_known(hi) else shown[0]


def interval_cell(
    value: float,
    lo: float,
    hi: float,
    *,
    digits: int = 1,
    scale: float = 100.0,
    sign: bool = False,
) -> Cell:
    """Return a cell with a value and, in smaller type, its interval."""
    if not is_known(value):
        return Cell(MISSING, look="number")
    text = Markup("<b>{}</b>").format(number(scale * value, digits, sign))
    if is_known(lo) and is_known(hi):
        ends = (number(scale * v, digits, sign) for v in (lo, hi))
        text += Markup(' <span class="ci">[{}, {}]</span>').format(*ends)
    return Cell(text, float(value), "number")


@dataclass(frozen=True)
class Text:
    """A paragraph; `look` is "", "note" or "warning"."""

    kind: ClassVar[str] = "text"
    text: str | Markup
    look: str = ""


@dataclass(frozen=True)
class Points:
    """A bulleted list."""

    kind: ClassVar[str] = "points"
    items: Sequence[str | Markup]


@dataclass(frozen=True)
class Code:
    """Text in a fixed-width font: commands, parameters."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass
class Table:
    """A table with a caption above and a note below.

    Attributes:
        headers: column names, text or `Cell`.
        rows: cells or plain values (see `cell`).
        sortable: whether the column heads are buttons.
    """

    kind: ClassVar[str] = "table"
    headers: Sequence[str | Cell]
    rows: list[Sequence[Any]]
    caption: str = ""
    note: str = ""
    sortable: bool = True

    def __post_init__(self) -> None:
        self.rows = [[cell(value) for value in row] for row in self.rows]
        self.headers = [cell(header) for header in self.headers]
        for i, header in enumerate(self.headers):  # a number's header is aligned with it
            if any("number" in row[i].look for row in self.rows):
                self.headers[i] = Cell(header.text, look=f"number {header.look}".strip())

    def markdown(self) -> str:
        """Return the table as Markdown; markup is reduced to its text."""
        lines = [self.headers, *self.rows]
        texts = [[_plain(c).replace("|", "\\|") for c in line] for line in lines]
        rule = ["---:" if "number" in h.look else "---" for h in self.headers]
        return "\n".join(f"| {' | '.join(line)} |" for line in [texts[0], rule, *texts[1:]])


def _plain(c: Cell) -> str:
    return Markup(c.text).striptags() if isinstance(c.text, Markup) else c.text


@dataclass(frozen=True)
class Plot:
    """A figure: inline SVG, and the table of the values it draws."""

    kind: ClassVar[str] = "plot"
    title: str
    svg: Markup
    table: Table | None = None
    note: str = ""


@dataclass(frozen=True)
class Grid:
    """Plots side by side where the window is wide enough."""

    kind: ClassVar[str] = "grid"
    plots: Sequence[Plot]


@dataclass(frozen=True)
class Picture:
    """A thumbnail: `uri` is "" where there is none, and `note` says why."""

    image_id: str
    uri: str
    caption: str = ""
    note: str = ""
    alt: str = ""


@dataclass(frozen=True)
class Gallery:
    """Thumbnails under a title; with `pairs` every two consecutive ones stay together.

    `more` counts those that are not shown.
    """

    kind: ClassVar[str] = "gallery"
    title: str
    pictures: Sequence[Picture]
    note: str = ""
    more: int = 0
    pairs: bool = False


@dataclass(frozen=True)
class Fold:
    """Blocks behind a line that opens them."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: Sequence[Any]
    printed: bool = True


@dataclass(frozen=True)
class Choice:
    """Alternatives, one of them visible; radio buttons choose, print shows all.

    Attributes:
        id: unique in the page.
        legend: what is chosen.
        options: (label, blocks) pairs; the first is chosen at the start.
    """

    kind: ClassVar[str] = "choice"
    id: str
    legend: str
    options: Sequence[tuple[str, Sequence[Any]]]


@dataclass(frozen=True)
class ConfusionCell:
    """One cell: mean count over the seeds, its share of the row, and the images in it."""

    text: str
    share: float
    correct: bool
    label: str
    gallery: Gallery | None


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix whose cells open the images counted in them."""

    kind: ClassVar[str] = "confusion"
    id: str
    caption: str
    classes: Sequence[str]
    rows: Sequence[Sequence[ConfusionCell]]
    recalls: Sequence[str]


@dataclass
class Section:
    """A fold of a dataset: `id` of its heading, title, a one-line summary and its blocks."""

    key: str
    title: str
    summary: str
    blocks: list[Any] = field(default_factory=list)
    open: bool = False
