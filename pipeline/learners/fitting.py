"""Fit one learner on one training part and predict test images; runs in a worker process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.errors import DiskError
from pipeline.learners.base import DivergedError, Learner, Samples
from pipeline.learners.registry import load_file
from pipeline.learners.runs import Fit, write_fits


@dataclass(frozen=True)
class Outcome:
    """What a run gave: predictions float32 (n, C), or why there are none ("failed", "diverged")."""

    proba: np.ndarray | None = None
    status: str = "ok"
    error: str = ""


def run_fit(
    learner: Learner,
    fit: Fit | str,
    folder: Path,
    samples: Samples,
    parts: tuple[np.ndarray, np.ndarray, Sequence[np.ndarray]],
) -> tuple[Fit | None, list[Outcome]]:
    """Fit a learner, save the fit, and predict; an error of the learner becomes an outcome.

    Args:
        learner: unfitted, or with the arrays of `fit`.
        fit: an earlier fit, or the digest that a new one gets.
        folder: a new fit is written there at once, as a file of its own.
        samples: all images. The labels of test images are not given to the learner.
        parts: rows of the training part, of the validation part, and of each test part.

    Returns:
        The fit, None if it failed; and one outcome for each test part.

    Raises:
        DiskError: the fit cannot be written.
    """
    train, val, tests = parts
    with single_thread():
        try:
            if isinstance(fit, str):
                learner.fit(samples.take(train, labelled=True), samples.take(val, labelled=True))
                fit = Fit.of(learner, fit)
                write_fits(folder / f"partial-{fit.digest[:16]}.safetensors", [fit])
        except DiskError:
            raise
        except Exception as error:
            return None, [_failure(error)] * len(tests)
        return fit, [_predict(learner, samples.take(rows, labelled=False)) for rows in tests]


def _predict(learner: Learner, test: Samples) -> Outcome:
    n_classes = len(test.text)
    try:
        proba = np.zeros((0, n_classes), np.float32)  # scikit-learn refuses to predict no rows
        if len(test):
            proba = np.asarray(learner.predict_proba(test), dtype=np.float32)
        if proba.shape != (len(test), n_classes):
            raise ValueError(f"predict_proba returned shape {proba.shape}, not (images, classes)")
        if not np.isfinite(proba).all():
            raise DivergedError("a predicted probability is not finite")
        return Outcome(proba)
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> Outcome:
    diverged = isinstance(error, DivergedError)
    text = str(error) if diverged else f"{type(error).__name__}: {error}"
    text = text.encode(errors="replace").decode()  # no file can hold half a surrogate pair
    return Outcome(None, "diverged" if diverged else "failed", text)


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


def start_worker(parent: int, file: Path | None) -> None:
    """Initialise a worker process: load the learner's file, and exit when the parent dies.

    loky's workers would otherwise wait for work for ever after a `kill -9` of their parent.
    """
    if file is not None:
        load_file(file)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
