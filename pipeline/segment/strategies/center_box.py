"""A box in the middle of the image, of the share `segment.center_box` of each side."""

from __future__ import annotations

from pipeline.segment.regions import center_box
from pipeline.segment.strategies.base import Strategy, ask_box


class CenterBox(Strategy):
    """The same box for every image: medical images are mostly taken with the object central."""

    name = "center-box"

    def parameters(self):
        p = self.params
        return {"center_box": p.center_box, "box_as_mask": p.box_as_mask, "zoom": p.zoom}

    def ask(self, row, height, width, size):
        box = center_box(width, height, self.params.center_box)
        return ask_box(box, self.params, height, width, size)
