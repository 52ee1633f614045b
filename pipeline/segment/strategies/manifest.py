"""Ground-truth masks, from `mask_path` of the manifest: the ceiling ablation. No model is run.

An image without a mask file fails, naming the file: a missing mask does not mean that there is no
region. A mask file that is all black says so, and gives an `empty` mask.
"""

from __future__ import annotations

import math

from pipeline.errors import PipelineError
from pipeline.segment.strategies.base import MaskResult, PreparedImage, Strategy


class Manifest(Strategy):
    """The ground-truth region instead of SAM2's."""

    name = "manifest"
    uses_truth = True
    requires = ()

    def prepare(self, image, columns, truth=None):
        height, width = image.shape[:2]
        if truth is None:
            raise PipelineError(
                "no ground-truth mask in the manifest",
                remedy="fill in its mask_path, or choose another segment.prompt",
            )
        region = (0, 0, width, height)
        return PreparedImage(height, width, region, None, prompt_text=self.name, truth=truth)

    def segment(self, prepared):
        return [MaskResult(one.truth, math.nan, math.nan, one.prompt_text) for one in prepared]
