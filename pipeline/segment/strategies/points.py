"""The clicks in the `points` column of the manifest; an image without any fails."""

from __future__ import annotations

from pipeline.segment.predictor import Prompt
from pipeline.segment.regions import parse_points
from pipeline.segment.strategies.base import Strategy


class Points(Strategy):
    """Clicks on the object (label 1) and on the background (label 0), on the whole image."""

    name = "points"
    columns = ("points",)

    def ask(self, columns, height, width):
        points, labels = parse_points(columns["points"], width, height)
        text = "points " + ";".join(
            f"{x:g},{y:g},{label}" for (x, y), label in zip(points, labels, strict=True)
        )
        return (0, 0, width, height), Prompt(points, labels), text
