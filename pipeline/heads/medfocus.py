"""The MedFocusCLIP head: M = F(T, I), y = C(M), trained with L (paper, section III)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from pipeline.heads.base import (
    DivergedError,
    accuracy,
    check_finite,
    l2_normalise,
    softmax,
    standardisation,
)
from pipeline.heads.registry import register

if TYPE_CHECKING:
    from pipeline.config import TrainParams

_ARRAYS = ("mean", "scale", "text", "attention", "values", "weight", "bias", "inverse_temperature")


@register("medfocus")
class MedFocus:
    """Attention over all class prompts, gated residual, linear classifier, early stopping.

    After training the prompts are fixed, so F is kept in its folded form (see `Fusion.folded`):
    `attention` (d, C) and `values` (C, d). Prediction uses only NumPy.

    At lambda = 1 the loss does not see the classifier C, so prediction then is the softmax of
    the contrastive logits cos(M, T) / temperature. Below 1 it is the softmax of C(M).

    Args:
        lambda_: weight of the contrastive loss.
        learning_rate, weight_decay: of AdamW; the decay spares gate, temperature and bias.
        epochs, patience: at most so many passes; stop after `patience` passes without a better
            validation loss and return to the best one. Without a validation part all passes run.
        batch_size: images a step; the last, smaller batch counts too.
        attention_dim: width of the attention's projections.
        temperature: where the learned temperature of L_c starts (CLIP: 0.07).
        seed: decides initial weights and the order of images.
    """

    name: ClassVar[str]
    needs_labels: ClassVar[bool] = True
    parameters: ClassVar[tuple[str, ...]] = (
        "lambda_",
        "learning_rate",
        "weight_decay",
        "epochs",
        "patience",
        "batch_size",
        "attention_dim",
        "temperature",
    )

    def __init__(
        self,
        lambda_: float = 0.5,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        epochs: int = 100,
        patience: int = 10,
        batch_size: int = 128,
        attention_dim: int = 64,
        temperature: float = 0.07,
        seed: int = 0,
    ):
        self.lambda_, self.learning_rate, self.weight_decay = lambda_, learning_rate, weight_decay
        self.epochs, self.patience, self.batch_size = epochs, patience, batch_size
        self.attention_dim, self.temperature, self.seed = attention_dim, temperature, seed
        self.chosen: dict[str, Any] = {}
        self.val_score: float | None = None

    @classmethod
    def from_params(cls, params: TrainParams, *, seed: int) -> Self:
        return cls(**{field: getattr(params, field) for field in cls.parameters}, seed=seed)

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        T: np.ndarray,
        X_val: np.ndarray,
        y_val: np.ndarray,
    ) -> Self:
        """See `Head.fit`. Same data and seed give the same bits on one thread."""
        from pipeline.heads.training_loop import train_medfocus  # torch is slow to import

        check_finite("a feature of the train or validation part", X, X_val, T)
        image = l2_normalise(X)
        self.mean_, self.scale_ = (a.astype(np.float32) for a in standardisation(image))
        self.text_ = l2_normalise(T)
        fitted = train_medfocus(self, image, y, l2_normalise(X_val), y_val)
        for name, array in fitted.tensors.items():
            setattr(self, f"{name}_", array)
        self.chosen = {"epoch": fitted.epoch, "gate": fitted.gate}
        self.val_score = accuracy(self.predict_proba(X_val), y_val) if len(X_val) else None
        return self

    def fuse(self, X: np.ndarray) -> np.ndarray:
        """Return M = F(T, I), float32 (n, d), for image features X (n, d)."""
        image = l2_normalise(X)
        asked = (image - self.mean_) / self.scale_
        return image + softmax(asked @ self.attention_) @ self.values_

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return class probabilities, float32 (n, C), for image features, float32 (n, d).

        Raises:
            DivergedError: a logit is infinite or NaN.
        """
        M = self.fuse(X)
        if self.lambda_ == 1:
            logits = self.inverse_temperature_ * (l2_normalise(M) @ self.text_.T)
        else:
            logits = ((M - self.mean_) / self.scale_) @ self.weight_ + self.bias_
        if not np.isfinite(logits).all():
            raise DivergedError("a class logit is not finite")
        return softmax(logits)

    def to_tensors(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(getattr(self, f"{name}_")) for name in _ARRAYS}

    def to_config(self) -> dict[str, Any]:
        return {"lambda": self.lambda_, **self.chosen}

    @classmethod
    def from_saved(cls, tensors: dict[str, np.ndarray], config: dict[str, Any]) -> Self:
        head = cls(lambda_=config["lambda"])
        for name in _ARRAYS:
            setattr(head, f"{name}_", tensors[name])
        head.chosen = {key: value for key, value in config.items() if key != "lambda"}
        return head
