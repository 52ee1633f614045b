"""Fit all heads of one cell and predict its test images; runs in a worker process."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.heads.base import DivergedError, Head
from pipeline.training.threads import single_thread


@dataclass
class Fit:
    """One head in one cell: what becomes a row of runs.parquet, its predictions, its tensors.

    `proba` is float32 (n_test, C), None when the fit failed. `status` is ok, failed or diverged.
    """

    head: str
    protocol: str
    view: str
    fraction: float
    seed: int
    n_train: int
    n_val: int
    n_test: int
    fit_digest: str
    digest: str
    status: str = "ok"
    error: str = ""
    chosen: str = "{}"
    val_score: float | None = None
    proba: np.ndarray | None = None
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> tuple[str, str, float, int]:
        return self.protocol, self.view, self.fraction, self.seed


@dataclass
class Task:
    """What a worker needs for one cell: row numbers into X and y, heads, the rows to fill."""

    heads: list[Head]
    fits: list[Fit]
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def run_task(task: Task, X: np.ndarray, y: np.ndarray, T: np.ndarray) -> list[Fit]:
    """Fit every head of the task on its rows. A head that fails fills its row, and no other.

    Args:
        task: the cell.
        X: features of the view, float32 (n, d).
        y: classes, int64 (n,). The labels of test rows are not looked at.
        T: text features of all classes, float32 (C, d).
    """
    with single_thread():
        X_train, y_train = X[task.train], y[task.train]
        X_val, y_val, X_test = X[task.val], y[task.val], X[task.test]
        fitted: dict[str, Head] = {}
        for head, fit in zip(task.heads, task.fits, strict=True):
            try:
                shared = fitted.get(getattr(head, "shares", ""))
                if shared is not None:
                    head.share(shared)
                head.fit(X_train, y_train, T=T, X_val=X_val, y_val=y_val)
                proba = np.zeros((0, len(T)), np.float32)  # scikit-learn refuses no rows
                if len(X_test):
                    proba = np.asarray(head.predict_proba(X_test), dtype=np.float32)
                if proba.shape != (len(X_test), len(T)):
                    raise ValueError(f"predict_proba gave {proba.shape}, not (images, classes)")
                if not np.isfinite(proba).all():
                    raise DivergedError("a predicted probability is not finite")
                fit.chosen = json.dumps(head.chosen, sort_keys=True)
                fit.val_score = head.val_score
                fit.tensors, fit.config = head.to_tensors(), head.to_config()
                fit.proba = proba
                fitted[fit.head] = head
            except DivergedError as error:
                fit.status, fit.error = "diverged", str(error)
            except Exception as error:  # any fault of a head is its row's, never the run's
                fit.status, fit.error = "failed", f"{type(error).__name__}: {error}"
    return task.fits
