"""A box in the middle of the image that spans the share `segment.center_box` of each side."""

from __future__ import annotations

from pipeline.segment.regions import center_box
from pipeline.segment.strategies.base import Strategy


class CenterBox(Strategy):
    """The same box for every image: in most medical images the object is in the middle."""

    name = "center-box"

    def parameters(self):
        p = self.params
        return {"center_box": p.center_box, "box_as_mask": p.box_as_mask, "zoom": p.zoom}

    def ask(self, columns, height, width):
        return self.ask_box(center_box(width, height, self.params.center_box), height, width)
