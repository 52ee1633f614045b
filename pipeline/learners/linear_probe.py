"""Linear probe: logistic regression on frozen features (Radford et al. 2021, appendix A.3)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from pipeline.learners.base import (
    Learner,
    LearnerParams,
    Samples,
    accuracy,
    check_finite,
    in_content_order,
    log_loss,
    register,
    softmax,
    standardisation,
)


class LinearProbeParams(LearnerParams):
    """Logistic regression; its C is chosen on the validation part."""

    c_min: float = Field(1e-4, gt=0)
    """Smallest candidate for C, the inverse of the L2 regularisation."""
    c_max: float = Field(1e2, gt=0)
    """Largest candidate for C."""
    c_steps: int = Field(7, ge=1)
    """Number of candidates, evenly spaced on a logarithmic scale."""
    max_iter: int = Field(300, ge=1)
    """Iterations of L-BFGS for one C."""


@register("linear-probe")
class LinearProbe(Learner):
    """L2-regularised multinomial logistic regression.

    Features are standardised over the training part (see `standardisation`). The candidates for C
    are fitted from small to large, each started from the solution of the one before. The best one
    has the highest validation accuracy, then the lowest validation log loss, then the smallest C.
    The sweep ends early when the validation loss has risen twice in a row without a gain in
    accuracy. Without a validation part the middle candidate is used.

    The order of images and classes, and so what they are called, changes no bit of the fit (see
    `in_content_order`).

    The model is fitted on the training part only. CLIP's recipe refits on train + validation;
    here validation images can change C and nothing else. They still count as labels used.
    """

    Parameters = LinearProbeParams
    needs_text = False
    tol = 1e-4
    """Largest entry of the gradient of the mean loss at which the solver stops."""

    def fit(self, train: Samples, val: Samples) -> Self:
        """Fit on the training part and choose C on the validation part.

        Raises:
            DivergedError: a feature or a coefficient is not finite.
        """
        train, val, order = in_content_order(train, val)
        X, X_val = train.X, val.X
        check_finite("a feature of the training or validation part", X, X_val)
        mean, scale = standardisation(X, train.weights)
        Z = (X - mean) / scale
        # The optimum lies in the span of the rows of Z. Rotating onto that span is exact and makes
        # few-shot problems as small as their number of images; with more images it costs more time
        # than it saves.
        basis = np.linalg.qr(Z.T)[0] if 6 * Z.shape[0] < Z.shape[1] else None
        Z = np.ascontiguousarray(Z if basis is None else Z @ basis, dtype=np.float32)
        model = LogisticRegression(tol=self.tol, max_iter=self.params.max_iter, warm_start=True)

        def solve(c: float) -> tuple[np.ndarray, np.ndarray, bool]:
            model.C = c
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ConvergenceWarning)
                model.fit(Z, train.y)
            converged = not any(issubclass(one.category, ConvergenceWarning) for one in caught)
            return *_on_raw_features(model, len(order), mean, scale, basis), converged

        self.choose_c(solve, lambda coef, intercept: softmax(X_val @ coef + intercept), val.y)
        now = np.argsort(order)
        self.coef_, self.intercept_ = self.coef_[:, now], self.intercept_[now]
        return self

    def choose_c(self, solve: Callable, proba_of: Callable, y_val: np.ndarray) -> None:
        """Set coefficients, `chosen` and `val_score` to those of the best C.

        Args:
            solve: returns weights (d, C), intercept (C,) and whether it converged, for a C.
            proba_of: returns the probabilities of the validation images, for weights and intercept.
            y_val: the classes of the validation images.

        Raises:
            DivergedError: a coefficient is not finite.
        """
        ends = sorted((self.params.c_min, self.params.c_max))
        candidates = np.geomspace(*ends, self.params.c_steps)
        if len(y_val) == 0:
            candidates = candidates[[(len(candidates) - 1) // 2]]
        best, last_loss, rises = (-np.inf, -np.inf), np.inf, 0
        for c in map(float, candidates):
            coef, intercept, converged = solve(c)
            check_finite(f"logistic regression at C = {c:g}", coef, intercept)
            score, loss = 0.0, 0.0
            if len(y_val):
                proba = proba_of(coef, intercept)
                score, loss = accuracy(proba, y_val), log_loss(proba, y_val)
            gained = score > best[0]
            if (score, -loss) > best:
                best = score, -loss
                self.coef_, self.intercept_ = coef, intercept
                self.chosen = {"C": c, "converged": converged}
                self.val_score = score if len(y_val) else None
            rises = rises + 1 if loss > last_loss and not gained else 0
            last_loss = loss
            if rises == 2:
                break

    def predict_proba(self, samples: Samples) -> np.ndarray:
        """Return class probabilities, float32 (n, C)."""
        return softmax(np.asarray(samples.X, dtype=np.float32) @ self.coef_ + self.intercept_)


def _on_raw_features(
    model: LogisticRegression, n_classes: int, mean: np.ndarray, scale: np.ndarray, basis: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (d, C) and intercept (C,), float32, that apply to features as they are.

    Rotation and standardisation are undone. A class without training images gets an intercept so
    low that its probability is 0.
    """
    w, b = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    if len(w) == 1:  # two classes: scikit-learn keeps one row, the difference
        w, b = np.concatenate([-w / 2, w / 2]), np.concatenate([-b / 2, b / 2])
    w = (w.T if basis is None else basis @ w.T) / scale[:, None]
    coef = np.zeros((len(mean), n_classes), dtype=np.float32)
    intercept = np.full(n_classes, -1e4, dtype=np.float32)
    coef[:, model.classes_] = w
    intercept[model.classes_] = b - mean @ w
    return coef, intercept
