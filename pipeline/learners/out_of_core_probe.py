"""The linear probe on features that do not fit in memory."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import ClassVar, Self

import numpy as np
from scipy.optimize import minimize

from pipeline.learners.base import Samples, check_finite, register, softmax
from pipeline.learners.linear_probe import LinearProbe, _on_raw_features
from pipeline.learners.on_disk import OnDisk, blocks


@register("out-of-core-probe")
class OutOfCoreProbe(LinearProbe):
    """`linear-probe` for millions of images: the same function is minimised,

        mean_i -log softmax(W^T z_i + b)[y_i]  +  |W|^2 / (2 C n),

    of the same standardised features z, for the same C. Its value and gradient are sums over blocks
    of images, so that memory does not grow with their number, where scikit-learn holds all of them
    several times. The solver is L-BFGS (Liu and Nocedal 1989) with the stopping rules of
    scikit-learn. Sums are in another order, so fits are equal to the tolerance of the solver, not
    to the bit; the order of images and classes changes no bit of either.

    With two classes scikit-learn has one vector w, and |w|^2 / 2 for the pair -w / 2, w / 2: hence
    twice the weight of |W|^2 here.
    """

    joins = False
    out_of_core: ClassVar[bool] = True
    """`train` gives it features as `OnDisk`."""

    def fit(self, train: Samples, val: Samples) -> Self:
        """Fit on the training part and choose C on the validation part; errors as of the base."""
        train, val = (of.take(_by_content(of.X), labelled=True) for of in (train, val))
        texts = sorted(range(len(train.text)), key=lambda c: train.text[c].tobytes())
        order = np.array(list(dict.fromkeys([*train.y.tolist(), *texts])))
        back = np.argsort(order)
        y, y_val, (n, d) = back[train.y], back[val.y], train.X.shape
        present, of_row = np.unique(y, return_inverse=True)
        mean = sum(x.sum(axis=0, dtype=np.float64) for _, x in blocks(train.X)) / n
        spread = sum(((x - mean) ** 2).sum(axis=0) for _, x in blocks(train.X)) / n
        check_finite("a feature of the training part", mean, spread)
        scale = np.sqrt(spread) / train.weights  # as of `standardisation`
        scale = np.maximum(scale, max(0.1 * float(scale.mean()), 1e-12))

        def objective(flat: np.ndarray, c: float) -> tuple[float, np.ndarray]:
            W, b = np.split(flat.reshape(d + 1, len(present)), [d])
            loss, slope = 0.0, np.zeros((d + 1, len(present)))
            for at, x in blocks(train.X):
                z, here = ((x - mean) / scale).astype(np.float32), np.arange(len(x))
                logits = z @ W.astype(np.float32) + b
                logits -= logits.max(axis=1, keepdims=True)
                p = np.exp(logits)
                total = p.sum(axis=1, keepdims=True)
                loss += (np.log(total[:, 0]) - logits[here, of_row[at]]).sum()
                p /= total
                p[here, of_row[at]] -= 1
                slope[:d] += z.T @ p.astype(np.float32)
                slope[d] += p.sum(axis=0)
            decay = (2 if len(present) == 2 else 1) / (c * n)
            slope /= n
            slope[:d] += decay * W
            return loss / n + decay / 2 * (W * W).sum(), slope.ravel()

        how = {"maxiter": self.params.max_iter, "gtol": self.tol, "maxls": 50}
        how["ftol"] = 64 * np.finfo(float).eps
        w = np.zeros((d + 1) * len(present))

        def solve(c: float) -> tuple[np.ndarray, np.ndarray, bool]:
            nonlocal w
            found = minimize(objective, w, (c,), "L-BFGS-B", jac=True, options=how)
            w, W = found.x, found.x.reshape(d + 1, -1)
            model = SimpleNamespace(coef_=W[:d].T, intercept_=W[d], classes_=present)
            return *_on_raw_features(model, len(order), mean, scale, None), bool(found.success)

        self.choose_c(solve, lambda coef, intercept: _predict(val.X, coef, intercept), y_val)
        self.coef_, self.intercept_ = self.coef_[:, back], self.intercept_[back]
        return self

    def predict_proba(self, samples: Samples) -> np.ndarray:
        """Return class probabilities, float32 (n, C)."""
        return _predict(samples.X, self.coef_, self.intercept_)


def _predict(X: np.ndarray | OnDisk, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    return np.concatenate([softmax(x @ coef + intercept) for _, x in blocks(X)])


def _by_content(X: np.ndarray | OnDisk) -> np.ndarray:
    """Return the order of the rows by a hash of their bytes, int64 (n,)."""
    keys = [hashlib.sha256(row.tobytes()).digest() for _, x in blocks(X) for row in x]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
