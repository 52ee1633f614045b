"""Ground-truth masks, from the manifest's `mask_path`: the ceiling ablation. No model is run.

An image without a mask file fails, naming the file. It is not taken for an image without a region:
nobody has said that it has none. A mask file that is all black is a statement, and gives `empty`.
"""

from __future__ import annotations

import math

from pipeline.errors import PipelineError
from pipeline.images import read_mask
from pipeline.segment.strategies.base import Found, Look, Strategy


class Manifest(Strategy):
    """The radiologist's region instead of SAM2's."""

    name = "manifest"
    mask_file = True
    needs_model = False

    def prepare(self, image, row, sam):
        height, width = image.shape[:2]
        if not row["truth_file"]:
            raise PipelineError(
                "no ground-truth mask in the manifest",
                remedy="fill its mask_path, or choose another segment.prompt",
            )
        mask = read_mask(row["truth_file"], int(row["frame"]), shape=(height, width))
        return Look(height, width, (0, 0, width, height), None, words=self.name, extra=mask)

    def segment(self, looks, sam):
        return [Found(look.extra, math.nan, math.nan, look.words) for look in looks]
