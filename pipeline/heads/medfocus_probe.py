"""The paper's evaluation of MedFocusCLIP: y' = LogisticRegression(M) on frozen M = F(T, I)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from pipeline.heads.linear_probe import LinearProbe
from pipeline.heads.medfocus import MedFocus
from pipeline.heads.registry import register

if TYPE_CHECKING:
    from pipeline.config import TrainParams


@register("medfocus-probe")
class MedFocusProbe:
    """A linear probe on the M of a fitted MedFocusCLIP head.

    Args:
        medfocus: the head that makes M. One that is fitted already (by the `medfocus` row of the
            same images, seed and parameters) is used as it is and not trained a second time.
        probe: the unfitted linear probe.
    """

    name: ClassVar[str]
    needs_labels: ClassVar[bool] = True
    parameters: ClassVar[tuple[str, ...]] = MedFocus.parameters + LinearProbe.parameters
    shares: ClassVar[str] = "medfocus"

    def __init__(self, medfocus: MedFocus | None = None, probe: LinearProbe | None = None):
        self.medfocus = medfocus or MedFocus()
        self.probe = probe or LinearProbe()
        self.chosen: dict[str, Any] = {}
        self.val_score: float | None = None

    @classmethod
    def from_params(cls, params: TrainParams, *, seed: int) -> Self:
        return cls(
            MedFocus.from_params(params, seed=seed), LinearProbe.from_params(params, seed=seed)
        )

    def share(self, fitted: MedFocus) -> None:
        """Use a MedFocusCLIP head fitted on the same data instead of training one."""
        self.medfocus = fitted

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        T: np.ndarray,
        X_val: np.ndarray,
        y_val: np.ndarray,
    ) -> Self:
        """See `Head.fit`: first F (unless shared), then the probe on frozen M."""
        if not hasattr(self.medfocus, "attention_"):
            self.medfocus.fit(X, y, T=T, X_val=X_val, y_val=y_val)
        M, M_val = self.medfocus.fuse(X), self.medfocus.fuse(X_val)
        self.probe.fit(M, y, T=T, X_val=M_val, y_val=y_val)
        self.chosen = {**self.probe.chosen, **self.medfocus.chosen}
        self.val_score = self.probe.val_score
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return float32 (n, C) for image features (n, d)."""
        return self.probe.predict_proba(self.medfocus.fuse(X))

    def to_tensors(self) -> dict[str, np.ndarray]:
        fusion = self.medfocus.to_tensors()
        probe = {f"probe.{name}": array for name, array in self.probe.to_tensors().items()}
        return {**fusion, **probe}

    def to_config(self) -> dict[str, Any]:
        return {"medfocus": self.medfocus.to_config(), "probe": self.probe.to_config()}

    @classmethod
    def from_saved(cls, tensors: dict[str, np.ndarray], config: dict[str, Any]) -> Self:
        own = {n.removeprefix("probe."): t for n, t in tensors.items() if n.startswith("probe.")}
        head = cls(
            MedFocus.from_saved(tensors, config["medfocus"]),
            LinearProbe.from_saved(own, config["probe"]),
        )
        head.chosen = {**head.probe.chosen, **head.medfocus.chosen}
        return head
