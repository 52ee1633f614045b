"""Fit one learner on one training part and predict test images; runs in a worker process."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.learners.base import DivergedError, Learner, Samples
from pipeline.learners.fits import Fit, encode_fits


@dataclass
class Task:
    """One learner to fit, and the runs that wait for it with the rows each of them tests.

    Runs with the same training images share a fit (two protocols, say, that agree because every
    image has a ground-truth mask).

    Attributes:
        learner: unfitted, or restored from an earlier fit with the same digest.
        views: the stored views that it reads.
        train, val: rows of the feature arrays.
        runs: (unfinished fit, rows of its test images).
    """

    learner: Learner
    views: tuple[str, ...]
    train: np.ndarray
    val: np.ndarray
    runs: list[tuple[Fit, np.ndarray]]


def run_task(
    task: Task,
    X: Mapping[str, np.ndarray],
    y: np.ndarray,
    text: np.ndarray,
    classes: tuple[str, ...],
) -> list[Fit]:
    """Fit the learner of a task and predict; any error becomes the status of its fits.

    Args:
        task: the learner and its rows.
        X: features by view, each float32 (n, d).
        y: classes, int64 (n,). Those of test rows are not given to the learner.
        text: text features of all classes, float32 (C, d).
        classes: the class names.
    """
    learner, view = task.learner, task.runs[0][0].view

    def samples(rows: np.ndarray, *, labelled: bool) -> Samples:
        features = {name: X[name][rows] for name in task.views}
        labels = y[rows] if labelled else np.zeros(0, dtype=np.int64)
        return Samples(view, features, labels, text, classes)

    with single_thread():
        try:
            if not learner.tensors:
                learner.fit(samples(task.train, labelled=True), samples(task.val, labelled=True))
        except Exception as error:
            for fit, _ in task.runs:
                _fail(fit, error)
            return [fit for fit, _ in task.runs]
        for fit, rows in task.runs:
            try:
                _fill(fit, learner, samples(rows, labelled=False))
            except Exception as error:
                _fail(fit, error)
    return [fit for fit, _ in task.runs]


def _fail(fit: Fit, error: Exception) -> None:
    diverged = isinstance(error, DivergedError)
    fit.status = "diverged" if diverged else "failed"
    text = str(error) if diverged else f"{type(error).__name__}: {error}"
    fit.error = text.encode(errors="replace").decode()  # no file can hold half a surrogate pair


def _fill(fit: Fit, learner: Learner, test: Samples) -> None:
    """Predict, and put all results of a fitted learner into its row."""
    n_classes = len(test.text)
    proba = np.zeros((0, n_classes), np.float32)  # scikit-learn refuses to predict no rows
    if len(test):
        proba = np.asarray(learner.predict_proba(test), dtype=np.float32)
    if proba.shape != (len(test), n_classes):
        raise ValueError(f"predict_proba returned shape {proba.shape}, not (images, classes)")
    if not np.isfinite(proba).all():
        raise DivergedError("a predicted probability is not finite")
    done = replace(
        fit,
        chosen=json.dumps(learner.chosen, sort_keys=True, allow_nan=False),
        val_score=None if learner.val_score is None else float(learner.val_score),
        proba=proba,
        tensors={name: np.ascontiguousarray(array) for name, array in learner.tensors.items()},
    )
    # What no file can hold is found here, where the error is the learner's; found only when the
    # file is written, it would stop the whole run.
    encode_fits([done], {})
    vars(fit).update(vars(done))


@contextmanager
def single_thread() -> Iterator[None]:
    """Limit BLAS, OpenMP and torch to one thread inside the block.

    Sums are then computed in the same order, so results are the same bits for any number of jobs.
    """
    import torch  # before the limit is set: loading it later would start an unlimited pool

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(before)


def start_worker(parent: int, files: list[str]) -> None:
    """Initialise a worker process: load the files of learners, and exit when the parent dies.

    loky's workers would otherwise wait for work for ever after a `kill -9` of their parent.

    Args:
        parent: process id of the parent.
        files: Python files that register learners.
    """
    from pathlib import Path

    from pipeline.learners.registry import load_file

    for file in files:
        load_file(Path(file))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
