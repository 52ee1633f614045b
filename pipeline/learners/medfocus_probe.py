"""The paper's evaluation of MedFocusCLIP: y' = LogisticRegression(M) on frozen M = F(T, I)."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np

from pipeline.learners.base import Learner, Samples, softmax
from pipeline.learners.linear_probe import LinearProbe, LinearProbeParams
from pipeline.learners.medfocus import MedFocus, MedFocusParams
from pipeline.learners.registry import register


class MedFocusProbeParams(MedFocusParams, LinearProbeParams):
    """Parameters of F, as of `medfocus`, and of the logistic regression on M."""


@register("medfocus-probe")
class MedFocusProbe(Learner):
    """A linear probe on the M of a fitted MedFocusCLIP learner, its `base`.

    With the parameters of section `learners.medfocus` F is that of the `medfocus` learner.
    """

    Parameters = MedFocusProbeParams
    uses = (MedFocus, LinearProbe)

    def __init__(self, params: MedFocusProbeParams | None = None, *, seed: int = 0):
        super().__init__(params, seed=seed)
        self.base: MedFocus = MedFocus(_part(self.params, MedFocusParams), seed=seed)

    def fit(self, train: Samples, val: Samples) -> Self:
        """Fit F, unless `base` is fitted already, then the probe on frozen M."""
        if not self.base.tensors:
            self.base.fit(train, val)
        probe = LinearProbe(_part(self.params, LinearProbeParams), seed=self.seed)
        probe.fit(
            *(replace(part, features={part.view: self.base.fuse(part.X)}) for part in (train, val))
        )
        self.chosen = {**probe.chosen, **self.base.chosen}
        self.val_score = probe.val_score
        self.restore(self.base.tensors | probe.tensors, self.chosen)
        return self

    def restore(self, tensors, chosen) -> Self:
        """See `Learner.restore`; the arrays of F belong to `base`."""
        own = {name: tensors[name] for name in ("coef_", "intercept_")}
        self.base.restore({n: t for n, t in tensors.items() if n not in own}, chosen)
        return super().restore(tensors, chosen)

    def predict_proba(self, samples: Samples) -> np.ndarray:
        """Return class probabilities, float32 (n, C)."""
        return softmax(self.base.fuse(samples.X) @ self.coef_ + self.intercept_)


def _part(params: MedFocusProbeParams, cls: type) -> MedFocusParams | LinearProbeParams:
    return cls(**{name: getattr(params, name) for name in cls.model_fields})
