"""Two looks: the box around the mask found without a prompt becomes the prompt of a second look."""

from __future__ import annotations

from dataclasses import replace

from pipeline.segment.quality import bounding_box
from pipeline.segment.strategies.base import Found, Strategy, ask_box, cut


class SalientRefine(Strategy):
    """`salient`, then `box` (with its mask prompt and zoom) around what was found.

    An empty first mask is the result: there is nothing to look at more closely.
    """

    name = "salient-refine"

    def parameters(self):
        return {"box_as_mask": self.params.box_as_mask, "zoom": self.params.zoom}

    def prepare(self, image, row, sam):
        look = super().prepare(image, row, sam)
        look.image = image
        return look

    def segment(self, looks, sam) -> list[Found]:
        results = super().segment(looks, sam)
        second: dict[int, object] = {}
        for i, (look, first) in enumerate(zip(looks, results, strict=True)):
            box = bounding_box(first.mask)
            if box is None:
                continue
            region, prompt, words = ask_box(
                box, self.params, look.height, look.width, sam.mask_prompt_size
            )
            frame = sam.preprocess(cut(look.image, region))
            words = f"salient, then {words}"
            second[i] = replace(look, region=region, frame=frame, prompt=prompt, words=words)
        if second:
            refined = super().segment(list(second.values()), sam)
            for i, mask in zip(second, refined, strict=True):
                results[i] = mask
        return results
