"""LP++: a linear probe whose weights contain the class texts (Huang et al. 2024)."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field

from pipeline.learners.base import (
    LearnerParams,
    Samples,
    check_finite,
    l2_normalise,
    register,
    softmax,
)
from pipeline.learners.tuned import Tuned, one_hot, unit


class LpPlusPlusParams(LearnerParams):
    """LP++; nothing but the number of iterations is tuned."""

    iterations: int = Field(300, ge=10, multiple_of=10)
    """Steps of w; validation chooses among every tenth, without it all are taken."""


@register("lp-plus-plus")
class LpPlusPlus(Tuned):
    """softmax(f (w_c + alpha_c t_c)), with w and alpha fitted by steps of known size.

    Huang et al. 2024 (LP++, CVPR), section 3: cross-entropy over class weights w (C, d) and class
    multipliers alpha (C,), both blocks convex. Step sizes are the inverse of bounds on the
    curvature of each block, so no learning rate is searched:

        4 N / lambda_max(F'F) for w,  N / (4 max_c sum_i (f_i t_c)^2) for alpha.

    They, the first w_c (the sum of the images of the class), the first alpha (for all classes 250
    times the mean over classes of the mean cosine of an image with its own text), the momentum of
    0.9 in w and one step of alpha after ten of w are those of the authors' code. There the
    gradients of alpha add up over all iterations, and w has a bias; here, as in the paper's
    equations, each step takes the gradient of its own iteration, and there is no bias.
    """

    Parameters = LpPlusPlusParams
    momentum = 0.9

    def fit(self, train: Samples, val: Samples) -> Self:
        """Fit w and alpha on the training part; validation chooses where to stop.

        Raises:
            DivergedError: a feature or a weight is not finite.
        """
        F, F_val, text = unit(train, val)
        y, n = one_hot(train.y, len(text)), len(F)
        gram = F.T @ F if F.shape[1] < n else F @ F.T  # the same largest eigenvalue
        step_w = np.float32(4 * n / np.linalg.eigvalsh(gram)[-1])
        cosine = F @ text.T
        step_alpha = np.float32(n / (4 * max((cosine**2).sum(axis=0).max(), 1e-12)))
        of_class = (y * cosine).sum(axis=0)[y.any(axis=0)] / y.sum(axis=0)[y.any(axis=0)]
        w, alpha = F.T @ y, np.full(len(text), 250 * of_class.mean(), np.float32)
        velocity, coefficients = np.zeros_like(w), {}
        for iteration in range(1, self.params.iterations + 1):
            error = (softmax(F @ w + alpha * cosine) - y) / np.float32(n)
            velocity = self.momentum * velocity + F.T @ error
            w = w - step_w * velocity
            if iteration % 10 == 0:
                alpha = alpha - step_alpha * (error * cosine).sum(axis=0)
                coefficients[iteration] = w + alpha * text.T
        check_finite("a weight of LP++", w, alpha)
        grid = tuple(coefficients) if len(val) else (self.params.iterations,)
        self.choose(val, lambda iteration: softmax(F_val @ coefficients[iteration]), iteration=grid)
        self.coef_ = coefficients[self.chosen["iteration"]].astype(np.float32)
        return self

    def predict_proba(self, samples: Samples) -> np.ndarray:
        """Return class probabilities, float32 (n, C)."""
        return softmax(l2_normalise(samples.X) @ self.coef_)
