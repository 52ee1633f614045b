"""A small SVG plot: axes, lines with bands and markers, bars, points, legend.

Own code rather than a plotting library's output: the text stays text (searchable, follows the
page's font), a figure is a few kB, and its bytes depend on nothing but the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 440, 280
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 12, 46
LEGEND_ROW = 18


@dataclass(frozen=True)
class Style:
    """How one series looks: told apart by colour, marker and dash at once."""

    colour: str
    marker: str = "circle"
    dash: str = ""


# Okabe-Ito colours that carry on white; each with its own marker and dash.
STYLES = (
    Style("#000000", "circle", ""),
    Style("#D55E00", "square", "6 3"),
    Style("#0072B2", "triangle", "2 2"),
    Style("#009E73", "diamond", "8 3 2 3"),
    Style("#CC79A7", "cross", "1 3"),
    Style("#E69F00", "down", "10 4"),
    Style("#56B4E9", "plus", "4 1"),
)


@dataclass(frozen=True)
class Axis:
    """A linear axis; `ticks` are (value, label) pairs, a label may have two lines."""

    title: str
    lo: float
    hi: float
    ticks: tuple[tuple[float, str], ...]

    @classmethod
    def nice(cls, title: str, lo: float, hi: float, *, bins: int = 5, scale: float = 1) -> Axis:
        """An axis that begins and ends on round numbers; labels show value * scale."""
        values = MaxNLocator(bins, steps=[1, 2, 2.5, 5, 10]).tick_values(lo, hi)
        ticks = tuple((float(v), f"{v * scale:g}") for v in values)
        return cls(title, float(values[0]), float(values[-1]), ticks)


class Plot:
    """Collects shapes, then gives the SVG."""

    def __init__(self, label: str, x: Axis, y: Axis, *, width: int = WIDTH, height: int = HEIGHT):
        self.label, self.x, self.y = label, x, y
        self.width, self.height = width, height
        self._shapes: list[str] = []
        self._legend: list[tuple[str, str]] = []

    def _px(self, value: float) -> float:
        span = (self.x.hi - self.x.lo) or 1
        return LEFT + (value - self.x.lo) / span * (self.width - LEFT - RIGHT)

    def _py(self, value: float) -> float:
        span = (self.y.hi - self.y.lo) or 1
        return self.height - BOTTOM - (value - self.y.lo) / span * (self.height - TOP - BOTTOM)

    def _at(self, x: float, y: float) -> str:
        return f"{self._px(x):.1f},{self._py(y):.1f}"

    def band(self, xs: Sequence[float], lo: Sequence[float], hi: Sequence[float], style: Style):
        """Shade the interval around a line."""
        points = [(x, a, b) for x, a, b in zip(xs, lo, hi, strict=True) if _ok(a, b)]
        if not points:
            return
        edge = [self._at(x, b) for x, _, b in points]
        edge += [self._at(x, a) for x, a, _ in reversed(points)]
        self._shapes.append(
            f'<polygon points="{" ".join(edge)}" fill="{style.colour}" fill-opacity=".13"/>'
        )

    def line(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        style: Style,
        *,
        name: str = "",
        tips: Sequence[str] = (),
        hollow: bool = False,
        markers: bool = True,
    ) -> None:
        """Draw a line with markers; gaps stay gaps. `tips` are shown on hovering a marker."""
        points = [(x, y, tip) for x, y, tip in _zip_tips(xs, ys, tips) if _ok(x, y)]
        if not markers:
            style = Style(style.colour, style.marker, "12 4")
        if points:
            path = " ".join(self._at(x, y) for x, y, _ in points)
            width = 1 if hollow else 1.8
            self._shapes.append(
                f'<polyline points="{path}" fill="none" stroke="{style.colour}" '
                f'stroke-width="{width}" stroke-dasharray="{style.dash}"/>'
            )
            for x, y, tip in points if markers else []:
                self._shapes.append(marker(self._px(x), self._py(y), style, hollow, tip))
        if name:
            self._legend.append((name, _sample(style, hollow, markers)))

    def points(self, xs, ys, style: Style, *, name: str = "", tips: Sequence[str] = ()) -> None:
        """Draw separate points."""
        for x, y, tip in _zip_tips(xs, ys, tips):
            if _ok(x, y):
                self._shapes.append(marker(self._px(x), self._py(y), style, True, tip, size=3))
        if name:
            self._legend.append((name, marker(12, 0, style, True, size=3)))

    def errors(self, xs, lo, hi, style: Style) -> None:
        """Draw vertical intervals."""
        for x, a, b in zip(xs, lo, hi, strict=True):
            if _ok(a, b):
                self._shapes.append(
                    f'<path d="M{self._at(x, a)}L{self._at(x, b)}" stroke="{style.colour}"/>'
                )

    def bars(self, edges, heights, style: Style, *, name: str = "", hollow: bool = False) -> None:
        """Draw a histogram: `edges` has one more entry than `heights`."""
        for a, b, h in zip(edges, edges[1:], heights, strict=False):
            if not h:
                continue
            x0, x1, y = self._px(a), self._px(b), self._py(h)
            fill = "none" if hollow else style.colour
            self._shapes.append(
                f'<rect x="{x0:.1f}" y="{y:.1f}" width="{x1 - x0:.1f}" '
                f'height="{self._py(self.y.lo) - y:.1f}" fill="{fill}" fill-opacity=".35" '
                f'stroke="{style.colour}" stroke-dasharray="{style.dash}">'
                f"<title>{a:.2f} to {b:.2f}: {h:g}</title></rect>"
            )
        if name:
            fill = "none" if hollow else style.colour
            self._legend.append(
                (
                    name,
                    f'<rect x="4" y="-5" width="16" height="10" fill="{fill}" '
                    f'fill-opacity=".35" stroke="{style.colour}" '
                    f'stroke-dasharray="{style.dash}"/>',
                )
            )

    def rule(self, points: Sequence[tuple[float, float]], name: str = "") -> None:
        """Draw a thin grey guide, e.g. the diagonal or the chance level."""
        path = " ".join(self._at(x, y) for x, y in points)
        self._shapes.insert(0, f'<polyline points="{path}" class="rule"/>')
        if name:
            self._legend.append((name, '<path d="M0,0h24" class="rule"/>'))

    def svg(self) -> Markup:
        """Return the figure as an inline SVG that scales to its box."""
        columns = self._columns()
        rows = math.ceil(len(self._legend) / columns)
        total = self.height + rows * LEGEND_ROW + (12 if rows else 0)
        out = [
            f'<svg viewBox="0 0 {self.width} {total}" role="img" '
            f'aria-label="{escape(self.label)}">',
            *self._axes(),
            *self._shapes,
        ]
        step = (self.width - 20) / columns
        for i, (name, sample) in enumerate(self._legend):
            x, y = 14 + (i % columns) * step, self.height + 14 + (i // columns) * LEGEND_ROW
            out.append(
                f'<g transform="translate({x:.0f},{y})">{sample}'
                f'<text x="31" y="4">{escape(name)}</text></g>'
            )
        return Markup("".join(out) + "</svg>")

    def _columns(self) -> int:
        longest = max((len(name) for name, _ in self._legend), default=0)
        return 1 if longest > 25 else 2 if longest > 15 else 3

    def _axes(self) -> list[str]:
        base, out = self.height - BOTTOM, []
        for value, label in self.y.ticks:
            y = self._py(value)
            out.append(f'<path d="M{LEFT},{y:.1f}H{self.width - RIGHT}" class="grid"/>')
            out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="end">{escape(label)}</text>')
        for value, label in self.x.ticks:
            x = self._px(value)
            out.append(f'<path d="M{x:.1f},{base}v4" class="axis"/>')
            for i, part in enumerate(label.split("\n")):
                look = "mid" if i == 0 else "mid small"
                out.append(
                    f'<text x="{x:.1f}" y="{base + 15 + 11 * i}" class="{look}">'
                    f"{escape(part)}</text>"
                )
        out.append(f'<path d="M{LEFT},{base}H{self.width - RIGHT}" class="axis"/>')
        middle = (LEFT + self.width - RIGHT) / 2
        out.append(
            f'<text x="{middle:.0f}" y="{self.height - 6}" class="mid">'
            f"{escape(self.x.title)}</text>"
            f'<text class="mid" transform="translate(12,{(TOP + base) / 2:.0f}) rotate(-90)">'
            f"{escape(self.y.title)}</text>"
        )
        return out


def marker(
    x: float, y: float, style: Style, hollow: bool, tip: str = "", *, size: float = 4
) -> str:
    """Return one marker; hollow ones are filled with the page's white."""
    s = size
    shapes = {
        "circle": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s}"',
        "square": f'<path d="M{x - s:.1f},{y - s:.1f}h{2 * s}v{2 * s}h{-2 * s}z"',
        "triangle": f'<path d="M{x:.1f},{y - s * 1.2:.1f}l{s * 1.2},{s * 2.2}h{-s * 2.4}z"',
        "down": f'<path d="M{x:.1f},{y + s * 1.2:.1f}l{s * 1.2},{-s * 2.2}h{-s * 2.4}z"',
        "diamond": f'<path d="M{x:.1f},{y - s * 1.3:.1f}l{s * 1.3},{s * 1.3}l{-s * 1.3},{s * 1.3}'
        f'l{-s * 1.3},{-s * 1.3}z"',
        "cross": f'<path d="M{x - s:.1f},{y - s:.1f}l{2 * s},{2 * s}m0,{-2 * s}l{-2 * s},{2 * s}"',
        "plus": f'<path d="M{x - s:.1f},{y:.1f}h{2 * s}m{-s},{-s}v{2 * s}"',
    }
    fill = "#fff" if hollow else style.colour
    title = f"<title>{escape(tip)}</title>" if tip else ""
    return f'{shapes[style.marker]} fill="{fill}" stroke="{style.colour}" stroke-width="1.4">' + (
        f"{title}</{'circle' if style.marker == 'circle' else 'path'}>"
    )


def _sample(style: Style, hollow: bool, markers: bool) -> str:
    width = 1 if hollow else 1.8
    line = (
        f'<path d="M0,0h24" stroke="{style.colour}" stroke-width="{width}" '
        f'stroke-dasharray="{style.dash}"/>'
    )
    return line + (marker(12, 0, style, hollow) if markers else "")


def _zip_tips(xs, ys, tips):
    return zip(xs, ys, tips or [""] * len(xs), strict=True)


def _ok(*values: float) -> bool:
    return all(v is not None and math.isfinite(v) for v in values)
