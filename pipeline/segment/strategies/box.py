"""The box of the manifest's `box` column; an image without one fails."""

from __future__ import annotations

from pipeline.segment.regions import parse_box
from pipeline.segment.strategies.base import Strategy, ask_box


class Box(Strategy):
    """Corner tokens, and as chosen also SAM2's mask prompt, on a crop around the box."""

    name = "box"
    columns = ("box",)

    def parameters(self):
        return {"box_as_mask": self.params.box_as_mask, "zoom": self.params.zoom}

    def ask(self, row, height, width, size):
        return ask_box(parse_box(row["box"], width, height), self.params, height, width, size)
