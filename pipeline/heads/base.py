"""What a head is, and the few array helpers that every head uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from pipeline.config import TrainParams


class DivergedError(ArithmeticError):
    """A fit whose loss or parameters became infinite or NaN. Its row in runs.parquet says so."""


class Head(Protocol):
    """A classifier on frozen features, in scikit-learn's style.

    A new head is one class with these members and one `@register("name")` line (or an entry
    point of group `pipeline.heads`). Nothing else in the library changes.

    Attributes:
        name: the name in params.yaml and in the tables.
        needs_labels: False for a head that is not trained (zero-shot): it gets one row per
            test set, at fraction 0, instead of one per fraction and seed.
        parameters: names of the fields of `TrainParams` that change the head. Only those
            make a finished fit stale.
        chosen: after `fit`, what the validation part decided (json-able).
        val_score: after `fit`, the accuracy on the validation part, or None.
    """

    name: ClassVar[str]
    needs_labels: ClassVar[bool]
    parameters: ClassVar[tuple[str, ...]]
    chosen: dict[str, Any]
    val_score: float | None

    @classmethod
    def from_params(cls, params: TrainParams, *, seed: int) -> Self:
        """Make an unfitted head from section `train` of params.yaml."""
        ...

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        T: np.ndarray,
        X_val: np.ndarray,
        y_val: np.ndarray,
    ) -> Self:
        """Fit on the train part; the validation part chooses hyperparameters, nothing else.

        Args:
            X: image features of the train part, float32 (n, d).
            y: their classes, int64 (n,), in 0..C-1.
            T: text features of ALL classes, float32 (C, d), row c for class c.
            X_val: image features of the validation part, float32 (m, d); m may be 0.
            y_val: their classes, int64 (m,).

        Raises:
            DivergedError: the fit became infinite or NaN.
        """
        ...

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return class probabilities, float32 (n, C); rows sum to 1."""
        ...

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Return the fitted arrays; with `to_config` they are the whole head."""
        ...

    def to_config(self) -> dict[str, Any]:
        """Return the json-able rest of the fitted head."""
        ...

    @classmethod
    def from_saved(cls, tensors: dict[str, np.ndarray], config: dict[str, Any]) -> Self:
        """Rebuild a fitted head; it predicts the same bits as the one that was saved."""
        ...


def l2_normalise(x: np.ndarray) -> np.ndarray:
    """Return rows of float32 (n, d) scaled to length 1; a row of zeros stays zeros."""
    x = np.asarray(x, dtype=np.float32)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.maximum(length, np.float32(1e-12))


def standardisation(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and scale of each feature over the rows of (n, d), float64 (d,).

    The scale is the deviation, but at least a tenth of the mean deviation: over a few images a
    feature that is nearly dead varies by next to nothing, and divided by that, the one new image
    in which it is alive would be decided by it alone.
    """
    mean = X.mean(axis=0, dtype=np.float64)
    scale = X.std(axis=0, dtype=np.float64)
    return mean, np.maximum(scale, max(0.1 * float(scale.mean()), 1e-12))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return float32 probabilities (n, C) of logits (n, C), computed in float64."""
    z = np.asarray(logits, dtype=np.float64)
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return (z / z.sum(axis=1, keepdims=True)).astype(np.float32)


def log_loss(proba: np.ndarray, y: np.ndarray) -> float:
    """Return the mean negative log probability of the true classes, clipped at 1e-7."""
    p = proba[np.arange(len(y)), y].astype(np.float64)
    return float(-np.log(np.clip(p, 1e-7, 1.0)).mean())


def accuracy(proba: np.ndarray, y: np.ndarray) -> float:
    """Return the share of rows whose largest probability is the true class."""
    return float((proba.argmax(axis=1) == y).mean())


def check_finite(what: str, *arrays: np.ndarray) -> None:
    """Raise DivergedError when any array holds NaN or infinity."""
    for array in arrays:
        if not np.isfinite(array).all():
            raise DivergedError(f"{what} is not finite")
