"""Two passes: the box around the mask found without a prompt is the prompt of the second pass."""

from __future__ import annotations

from dataclasses import replace

from pipeline.segment.quality import bounding_box
from pipeline.segment.strategies.base import PreparedImage, Strategy, crop_region


class SalientRefine(Strategy):
    """`salient`, then `box` (with its mask prompt and zoom) around the mask that was found.

    An empty first mask is the result, since there is no box to refine.
    """

    name = "salient-refine"

    def parameters(self):
        return {"box_as_mask": self.params.box_as_mask, "zoom": self.params.zoom}

    def prepare(self, image, columns, truth=None):
        one = super().prepare(image, columns)
        one.image = image
        return one

    def segment(self, prepared):
        results = super().segment(prepared)
        second: dict[int, PreparedImage] = {}
        for i, (one, first) in enumerate(zip(prepared, results, strict=True)):
            box = bounding_box(first.mask)
            if box is None:
                continue
            region, prompt, text = self.ask_box(box, one.height, one.width)
            frame = self.sam2.preprocess(crop_region(one.image, region))
            text = f"salient, then {text}"
            second[i] = replace(one, region=region, frame=frame, prompt=prompt, prompt_text=text)
        if second:
            refined = super().segment(list(second.values()))
            for i, mask in zip(second, refined, strict=True):
                results[i] = mask
        return results
