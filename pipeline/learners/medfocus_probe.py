"""The paper's evaluation of MedFocusCLIP: y' = LogisticRegression(M) on frozen M = F(T, I)."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np

from pipeline.learners.base import Samples, softmax
from pipeline.learners.linear_probe import LinearProbe, LinearProbeParams
from pipeline.learners.medfocus import MedFocus, MedFocusParams
from pipeline.learners.registry import register


class MedFocusProbeParams(MedFocusParams, LinearProbeParams):
    """Parameters of F, as of `medfocus`, and of the logistic regression on M."""


@register("medfocus-probe")
class MedFocusProbe(MedFocus):
    """MedFocusCLIP whose classifier C is replaced by a linear probe on frozen M.

    With the parameters of section `learners.medfocus` F is that of the `medfocus` learner.
    """

    Parameters = MedFocusProbeParams
    uses = (LinearProbe,)
    starts_from = MedFocus

    def fit(self, train: Samples, val: Samples) -> Self:
        """Fit F, unless it is there already, then the probe on M."""
        if not self.tensors:
            self.fit_fusion(train, val)
        probe = LinearProbe(self.params, seed=self.seed)
        probe.fit(
            *(replace(part, features={part.view: self.fuse(part.X)}) for part in (train, val))
        )
        self.coef_, self.intercept_ = probe.coef_, probe.intercept_
        self.chosen |= probe.chosen
        self.val_score = probe.val_score
        return self

    def predict_proba(self, samples: Samples) -> np.ndarray:
        """Return class probabilities, float32 (n, C)."""
        return softmax(self.fuse(samples.X) @ self.coef_ + self.intercept_)
