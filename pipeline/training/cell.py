"""Fit the heads of a cell and predict its test images; runs in a worker process."""

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
class Tested:
    """The rows of X that one cell tests, and that cell's fits by head."""

    fits: dict[str, Fit]
    rows: np.ndarray


@dataclass
class Task:
    """What a worker needs: heads to fit, row numbers into X and y, the cells that wait for them.

    Cells whose training images are the same (every image has ground truth, say, so that two
    protocols agree) are one task: each head is fitted once, and predicts for all of them.
    """

    heads: dict[str, Head]
    train: np.ndarray
    val: np.ndarray
    cells: list[Tested]

    @property
    def fits(self) -> list[Fit]:
        return [fit for cell in self.cells for fit in cell.fits.values()]


def run_task(task: Task, X: np.ndarray, y: np.ndarray, T: np.ndarray) -> list[Fit]:
    """Fit every head of the task on its rows. A head that fails fills its rows, and no other.

    Args:
        task: heads and cells.
        X: features of the view, float32 (n, d).
        y: classes, int64 (n,). The labels of test rows are not looked at.
        T: text features of all classes, float32 (C, d).
    """
    with single_thread():
        X_train, y_train = X[task.train], y[task.train]
        X_val, y_val = X[task.val], y[task.val]
        fitted: dict[str, Head] = {}
        for name, head in task.heads.items():
            waiting = [(cell.fits[name], cell.rows) for cell in task.cells if name in cell.fits]
            try:
                shared = fitted.get(getattr(head, "shares", ""))
                if shared is not None:
                    head.share(shared)
                head.fit(X_train, y_train, T=T, X_val=X_val, y_val=y_val)
            except Exception as error:  # any fault of a head is its rows', never the run's
                for fit, _ in waiting:
                    _fail(fit, error)
                continue
            fitted[name] = head
            for fit, rows in waiting:
                try:
                    _fill(fit, head, X[rows], len(T))
                except Exception as error:
                    _fail(fit, error)
    return task.fits


def _fail(fit: Fit, error: Exception) -> None:
    diverged = isinstance(error, DivergedError)
    fit.status = "diverged" if diverged else "failed"
    text = str(error) if diverged else f"{type(error).__name__}: {error}"
    fit.error = text.encode(errors="replace").decode()  # no file takes half a surrogate pair


def _fill(fit: Fit, head: Head, X: np.ndarray, n_classes: int) -> None:
    """Predict X (n, d) and put what a fitted head leaves into its row.

    What no file could hold is an error here, where it is the head's: in the journal or in the
    outputs it would end the run, and with it the fits of all others.
    """
    proba = np.zeros((0, n_classes), np.float32)  # scikit-learn refuses no rows
    if len(X):
        proba = np.asarray(head.predict_proba(X), dtype=np.float32)
    if proba.shape != (len(X), n_classes):
        raise ValueError(f"predict_proba gave {proba.shape}, not (images, classes)")
    if not np.isfinite(proba).all():
        raise DivergedError("a predicted probability is not finite")
    chosen = _json("chosen", head.chosen)
    score = None if head.val_score is None else float(head.val_score)
    config = json.loads(_json("to_config()", head.to_config()))
    tensors = _on_disk(head.to_tensors())
    fit.chosen, fit.val_score, fit.config, fit.tensors = chosen, score, config, tensors
    fit.proba = proba


def _json(what: str, value: Any) -> str:
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} is not JSON: {error}") from error
    return text


def _on_disk(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return tensors as they are read back from a file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load, save

    try:
        return load(save({name: np.ascontiguousarray(a) for name, a in tensors.items()}))
    except (AttributeError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise TypeError(f"to_tensors() is not a dict of arrays: {error}") from error
