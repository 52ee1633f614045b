"""Tables of the page: cells with a text, a value to sort by and, where needed, markup."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup, escape

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """One cell: what is shown, what it sorts by, and its look (`quoted`, `bad`, `best`, `head`)."""

    text: str | Markup
    sort: float | str | None = None
    look: str = ""
    title: str = ""


@dataclass
class Table:
    """A table with a caption; `rows` hold cells or plain text. Every column can be sorted."""

    kind: ClassVar[str] = "table"
    headers: Sequence[str | Cell]
    rows: list[Sequence[Any]]
    caption: str | Markup = ""
    note: str = ""
    looks: dict[int, str] = field(default_factory=dict)
    sortable: bool = True

    def html(self) -> Markup:
        """Return the table inside its own scrolling box."""
        out = ['<div class="scroll" tabindex="0" role="region" aria-label="table">']
        sort = ' class="sortable"' if self.sortable and len(self.rows) > 1 else ""
        out.append(f"<table{sort}>")
        if self.caption:
            out.append(f"<caption>{escape(self.caption)}</caption>")
        out.append("<thead><tr>")
        for column, header in enumerate(map(as_cell, self.headers)):
            # Numbers stand right in their column; so does what stands above them.
            cells = [as_cell(row[column]) for row in self.rows]
            right = any("number" in c.look.split() for c in cells)
            look = " ".join(filter(None, [header.look, "number" if right else ""]))
            out.append(f'<th scope="col"{_class(look)}>{escape(header.text)}</th>')
        out.append("</tr></thead><tbody>")
        for row in self.rows:
            out.append("<tr>")
            for column, cell in enumerate(map(as_cell, row)):
                look = " ".join(filter(None, [cell.look, self.looks.get(column, "")]))
                # What a pointer shows on hovering, the Tab key must reach (the style shows it).
                title = f' tabindex="0" title="{escape(cell.title)}"' if cell.title else ""
                missing = cell.sort is None or cell.sort != cell.sort  # NaN sorts as its dash
                sort = "" if missing else f' data-sort="{escape(cell.sort)}"'
                tag = 'th scope="row"' if "head" in look.split() else "td"
                out.append(f"<{tag}{_class(look)}{sort}{title}>{escape(cell.text)}</{tag[:2]}>")
            out.append("</tr>")
        out.append("</tbody></table></div>")
        if self.note:
            out.append(f'<p class="note">{escape(self.note)}</p>')
        return Markup("".join(out))

    __html__ = html

    def markdown(self) -> str:
        """Return the table as Markdown, for the result pages."""
        lines = [_markdown_row(self.headers)]
        lines.append("|" + "---|" * len(self.headers))
        lines += [_markdown_row(row) for row in self.rows]
        title = f"**{self.caption}**\n\n" if self.caption else ""
        note = f"\n\n{self.note}" if self.note else ""
        return title + "\n".join(lines) + note


def _markdown_row(cells: Sequence[Any]) -> str:
    shown = []
    for cell in map(as_cell, cells):
        text = cell.text.striptags() if isinstance(cell.text, Markup) else cell.text
        text = text.replace("|", "\\|").replace("\n", " ")
        shown.append(f"**{text}**" if "best" in cell.look.split() else text)
    return "| " + " | ".join(shown) + " |"


def _class(look: str) -> str:
    return f' class="{escape(look)}"' if look else ""


def as_cell(value: Any) -> Cell:
    """Turn a plain value into a cell; numbers sort as numbers, None shows as a dash."""
    if isinstance(value, Cell):
        return value
    if value is None:
        return Cell(NOTHING, look="number")
    if isinstance(value, Markup | str):
        return Cell(value)
    if isinstance(value, float):
        return Cell(number(value), sort=value, look="number")
    return Cell(str(value), sort=float(value), look="number")


def head(text: Any) -> Cell:
    """A cell that names its row."""
    return Cell(text if isinstance(text, Markup) else str(text), look="head")


def numeric(text: str, sort: float | None = None) -> Cell:
    """A cell whose text is a number already."""
    return Cell(text, sort=sort, look="number")


def number(value: float | None, digits: int = 3) -> str:
    """Show a number, or a dash where there is none (never a zero)."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """Show a share as percent without the sign; a dash where there is none."""
    return NOTHING if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}"


def labels_words(fraction: float) -> str:
    """Name a share of the training labels in a sentence."""
    return "all labels" if fraction >= 1 else f"{share(fraction)} of the labels"


def interval(
    value: float, lo: float, hi: float, *, as_percent: bool = True, digits: int | None = None
) -> str:
    """Show a value with its interval: "84.2 [81.0, 87.1]"."""
    show = _shower(as_percent, digits)
    if not all(map(_finite, (lo, hi))):
        return show(value)
    return f"{show(value)} [{show(lo)}, {show(hi)}]"


def interval_cell(
    value: float,
    lo: float,
    hi: float,
    *,
    as_percent: bool = True,
    digits: int | None = None,
    **kw,
) -> Cell:
    """A cell of a value with its interval on a second line."""
    look = " ".join(filter(None, ["number", kw.pop("look", "")]))
    if not _finite(value):
        return Cell(NOTHING, look=look, **kw)
    show = _shower(as_percent, digits)
    text = Markup("<b>{}</b>").format(show(value))
    if _finite(lo) and _finite(hi):
        text += Markup(' <span class="ci">[{}, {}]</span>').format(show(lo), show(hi))
    return Cell(text, sort=float(value), look=look, **kw)


def _shower(as_percent: bool, digits: int | None) -> Callable[[float], str]:
    show = percent if as_percent else number
    return show if digits is None else lambda value: show(value, digits)


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def title(text: str) -> str:
    """Begin with a capital and leave the rest: "Macro-F1"."""
    return text[:1].upper() + text[1:]


def share(fraction: float) -> str:
    """Name a fraction of the training labels: "5 %"."""
    return f"{100 * fraction:.3g} %"


def many(count: int, one: str, several: str | None = None) -> str:
    """ "1 image", "2 images"."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def listed(items: Iterable[str]) -> str:
    """Join words: "a, b and c"."""
    words = list(items)
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
