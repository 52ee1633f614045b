"""All ones: the ablation without a mask (x * 1 = x). No model is run."""

from __future__ import annotations

import math

import numpy as np

from pipeline.segment.strategies.base import Found, Look, Strategy


class Full(Strategy):
    """Every pixel belongs to the mask; its status is therefore `full`."""

    name = "full"
    needs_model = False

    def prepare(self, image, row, sam):
        height, width = image.shape[:2]
        return Look(height, width, (0, 0, width, height), None, words=self.name)

    def segment(self, looks, sam):
        return [
            Found(np.ones((look.height, look.width), bool), math.nan, math.nan, look.words)
            for look in looks
        ]
