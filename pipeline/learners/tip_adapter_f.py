"""Tip-Adapter-F: Tip-Adapter with fine-tuned cache keys (Zhang et al. 2022)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

from pipeline.learners.base import Samples, l2_normalise, register
from pipeline.learners.fine_tuned import FineTuned, FineTunedParams
from pipeline.learners.tip_adapter import TipAdapter, TipAdapterParams
from pipeline.learners.tuned import middle, one_hot


class TipAdapterFParams(TipAdapterParams, FineTunedParams):
    """Tip-Adapter, and the training of its keys."""


@register("tip-adapter-f")
class TipAdapterF(TipAdapter, FineTuned):
    """Tip-Adapter whose keys F, first the training features, are trained with cross-entropy.

    Zhang et al. 2022 (Tip-Adapter, ECCV), section 3.1. Values L and texts T stay as they are. Keys
    are trained at the middle alpha and beta of the grids, then both are chosen, as in the authors'
    code (AdamW, 20 epochs). There the best epoch is that of the test images; here it is that of
    the validation part. Images are trained on as they are cached, without augmentation.
    """

    Parameters = TipAdapterFParams
    not_counted = TipAdapter.not_counted - {"keys_"}  # which are trained here
    eps = 1e-4

    def make_keys(self, images: np.ndarray, val: Samples) -> np.ndarray:
        """Return the trained keys (n, d) for the training images (n, d)."""
        alpha, beta = middle(self.params.alpha), middle(self.params.beta)
        keys = torch.from_numpy(images.copy()).requires_grad_()
        values = torch.from_numpy(one_hot(self.labels_, len(self.text_)))
        text = torch.from_numpy(self.text_)

        def logits(image: Tensor) -> Tensor:
            cache = torch.exp(beta * (image @ keys.T - 1)) @ values
            return alpha * cache + self.params.scale * (image @ text.T)

        rng = Generator().manual_seed(self.seed)
        parts = (images, self.labels_), (l2_normalise(val.X), val.y)
        self.chosen["epoch"] = self.minimise([keys], logits, *parts, rng)
        return keys.detach().numpy()
