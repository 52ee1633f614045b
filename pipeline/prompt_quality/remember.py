"""A predictor that several strategies share: equal pictures are encoded once."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.models.sam2 import Sam2ImagePredictor
from pipeline.segment.predictor import BatchPredictor, Embedding


class Remembering(BatchPredictor):
    """A predictor that encodes a batch of equal pictures once, whichever prompts follow.

    Not for several threads at once; what is remembered grows until `forget`.
    """

    def __init__(self, predictor: Sam2ImagePredictor):
        super().__init__(predictor)
        self.forget()

    def forget(self) -> None:
        """Drop what is remembered; called after each batch."""
        self._frames: dict[tuple, torch.Tensor] = {}
        self._embedded: dict[tuple, Embedding] = {}

    def preprocess(self, image: np.ndarray) -> torch.Tensor:
        key = (image.shape, image.tobytes())
        if key not in self._frames:
            self._frames[key] = super().preprocess(image)
        return self._frames[key]

    def embed(self, frames: list[torch.Tensor]) -> Embedding:
        key = tuple(map(id, frames))
        if key not in self._embedded:
            self._embedded[key] = super().embed(frames)
        return self._embedded[key]
