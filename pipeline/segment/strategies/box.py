"""The box in the `box` column of the manifest; an image without one fails."""

from __future__ import annotations

from pipeline.segment.regions import parse_box
from pipeline.segment.strategies.base import Strategy


class Box(Strategy):
    """Box corners and, optionally, SAM2's mask prompt, on a crop around the box."""

    name = "box"
    columns = ("box",)

    def parameters(self):
        return {"box_as_mask": self.params.box_as_mask, "zoom": self.params.zoom}

    def ask(self, columns, height, width):
        return self.ask_box(parse_box(columns["box"], width, height), height, width)
