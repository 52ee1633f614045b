"""The pieces a page is put together from; templates/page.html.j2 draws each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pipeline.report.gallery import Gallery


@dataclass
class Text:
    """A paragraph; `look` is "", "note" or "warning"."""

    kind: ClassVar[str] = "text"
    text: str
    look: str = ""


@dataclass
class Points:
    """A list of statements; with `lead` they are the headlines."""

    kind: ClassVar[str] = "points"
    items: Sequence[str]
    lead: bool = False


@dataclass
class Grid:
    """Figures beside each other where there is room."""

    kind: ClassVar[str] = "grid"
    figures: Sequence[Any]


@dataclass
class Details:
    """Blocks behind a line that opens them; `printed` ones open by themselves for printing."""

    kind: ClassVar[str] = "details"
    title: str
    blocks: Sequence[Any]
    open: bool = False
    printed: bool = True


@dataclass
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass
class ConfusionCell:
    """One cell: the number shown, how dark, whether right, and the images behind it."""

    id: str
    text: str
    shade: float
    right: bool
    label: str
    gallery: Gallery | None = None


@dataclass
class Confusion:
    """A confusion matrix whose cells open their images."""

    kind: ClassVar[str] = "confusion"
    caption: str
    classes: Sequence[str]
    rows: Sequence[Sequence[ConfusionCell]]
    totals: Sequence[str] = ()


@dataclass
class Code:
    """Preformatted text."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass
class Section:
    """One part of the page under its own heading; `split` names the one split it shows."""

    key: str
    title: str
    blocks: list[Any] = field(default_factory=list)
    id: str = ""
    split: str = ""
