"""Linear probe: logistic regression on frozen features (Radford et al. 2021, appendix A.3)."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from pipeline.heads.base import accuracy, check_finite, log_loss, softmax, standardisation
from pipeline.heads.registry import register

if TYPE_CHECKING:
    from pipeline.config import TrainParams


@register("linear-probe")
class LinearProbe:
    """L2-regularised multinomial logistic regression; C is chosen on the validation part.

    Features are standardised over the train part (see `standardisation`). The candidates for C are
    log-spaced and fitted from small to large, each started at the one before. The best has the
    highest validation accuracy, then the lowest validation log loss, then the smallest C. The
    sweep ends early when the validation loss has risen twice in a row without a gain in accuracy.

    The model is fitted on the train part only. CLIP's recipe refits on train + validation; here
    the validation part chooses C and does nothing else, so that noise in its place can change C
    only. It still counts as labels used.

    Args:
        c_min, c_max, c_steps: the candidates. Without a validation part the middle one is taken.
        tol: largest entry of the gradient of the mean loss at which the solver stops.
        max_iter: iterations of L-BFGS for one C; reaching it is noted in `chosen`.
    """

    name: ClassVar[str]
    needs_labels: ClassVar[bool] = True
    parameters: ClassVar[tuple[str, ...]] = ("c_min", "c_max", "c_steps", "probe_max_iter")

    def __init__(
        self,
        c_min: float = 1e-4,
        c_max: float = 1e2,
        c_steps: int = 7,
        tol: float = 1e-4,
        max_iter: int = 300,
    ):
        self.c_min, self.c_max, self.c_steps = c_min, c_max, c_steps
        self.tol, self.max_iter = tol, max_iter
        self.chosen: dict[str, Any] = {}
        self.val_score: float | None = None

    @classmethod
    def from_params(cls, params: TrainParams, *, seed: int) -> Self:
        return cls(params.c_min, params.c_max, params.c_steps, max_iter=params.probe_max_iter)

    @property
    def candidates(self) -> np.ndarray:
        """The values of C, ascending, float64."""
        return np.geomspace(self.c_min, self.c_max, self.c_steps)

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        T: np.ndarray,
        X_val: np.ndarray,
        y_val: np.ndarray,
    ) -> Self:
        """See `Head.fit`; of T only the number of classes is used."""
        check_finite("a feature of the train or validation part", X, X_val)
        n_classes = len(T)
        mean, scale = standardisation(X)
        Z = (X - mean) / scale
        # The optimum lies in the span of the rows, so an exact rotation onto that span loses
        # nothing and makes few-shot fits as small as their number of images.
        basis = np.linalg.qr(Z.T)[0] if Z.shape[0] < Z.shape[1] else None
        if basis is not None:
            Z = Z @ basis
        Z = np.ascontiguousarray(Z, dtype=np.float32)

        def folded(model: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
            return _fold(model, n_classes, mean, scale, basis)

        candidates = self.candidates
        if len(X_val) == 0:
            candidates = candidates[[(len(candidates) - 1) // 2]]
        model = LogisticRegression(
            solver="lbfgs", tol=self.tol, max_iter=self.max_iter, warm_start=True
        )
        best: tuple[float, float] | None = None
        last_loss, rises = np.inf, 0
        for c in candidates:
            model.C = float(c)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ConvergenceWarning)
                model.fit(Z, y)
            coef, intercept = folded(model)
            check_finite(f"logistic regression at C = {c:g}", coef, intercept)
            converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
            if len(X_val) == 0:
                score, loss = float("nan"), 0.0
            else:
                proba = softmax(X_val @ coef + intercept)
                score, loss = accuracy(proba, y_val), log_loss(proba, y_val)
            better = best is None or (score, -loss) > best
            gained = best is None or score > best[0]
            if better:
                best = (score, -loss)
                self.coef_, self.intercept_ = coef, intercept
                self.chosen = {"C": float(c), "converged": converged}
                self.val_score = score if len(X_val) else None
            rises = rises + 1 if loss > last_loss and not gained else 0
            last_loss = loss
            if rises == 2:
                break
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return float32 (n, C) for image features (n, d)."""
        return softmax(np.asarray(X, dtype=np.float32) @ self.coef_ + self.intercept_)

    def to_tensors(self) -> dict[str, np.ndarray]:
        return {"coef": self.coef_, "intercept": self.intercept_}

    def to_config(self) -> dict[str, Any]:
        return dict(self.chosen)

    @classmethod
    def from_saved(cls, tensors: dict[str, np.ndarray], config: dict[str, Any]) -> Self:
        head = cls()
        head.coef_, head.intercept_ = tensors["coef"], tensors["intercept"]
        head.chosen = dict(config)
        return head


def _fold(
    model: LogisticRegression,
    n_classes: int,
    mean: np.ndarray,
    scale: np.ndarray,
    basis: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Write the model as float32 (d, C) and (C,) on raw features: rotation and scaling undone.

    A class that the train part lacks gets an intercept so low that its probability is 0.
    """
    w, b = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    if len(w) == 1:  # two classes: scikit-learn keeps their difference
        w, b = np.concatenate([-w / 2, w / 2]), np.concatenate([-b / 2, b / 2])
    w = w.T if basis is None else basis @ w.T
    w = w / scale[:, None]
    b = b - mean @ w
    coef = np.zeros((len(mean), n_classes), dtype=np.float32)
    intercept = np.full(n_classes, -1e4, dtype=np.float32)
    coef[:, model.classes_] = w
    intercept[model.classes_] = b
    return coef, intercept
