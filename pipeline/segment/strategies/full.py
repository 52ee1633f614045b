"""A mask of ones: the ablation without a mask (x * 1 = x). No model is run."""

from __future__ import annotations

import math

import numpy as np

from pipeline.segment.strategies.base import MaskResult, PreparedImage, Strategy


class Full(Strategy):
    """Every pixel belongs to the mask; its status is therefore `full`."""

    name = "full"
    requires = ()

    def prepare(self, image, columns, truth=None):
        height, width = image.shape[:2]
        return PreparedImage(height, width, (0, 0, width, height), None, prompt_text=self.name)

    def segment(self, prepared):
        return [
            MaskResult(np.ones((one.height, one.width), bool), math.nan, math.nan, one.prompt_text)
            for one in prepared
        ]
