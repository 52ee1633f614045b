"""Where a learner fits and predicts: processes of this machine, or the workers of an engine."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed

from pipeline.engine.cluster import DIED, Pool, in_workers, load_shared, shared
from pipeline.engine.process import keep_freed_memory
from pipeline.errors import ConfigError, PipelineError
from pipeline.io import writing
from pipeline.learners import runs
from pipeline.learners.base import Learner, Samples, code_digest, load_file


class FitCall(NamedTuple):
    """The arguments of `runs.run_fit`; `samples` is the key of some of them."""

    learner: Learner
    digest: str
    folder: Path
    samples: Any
    train: np.ndarray
    val: np.ndarray


# A worker that has grown ends itself and another one takes its place: no call is lost.
warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)

Fitted = Iterator[tuple[str, runs.Fit | runs.Failure]]
"""What `runs.run_fit` returns, by the digest of the fit."""


def fit_in_processes(
    calls: Iterable[FitCall], samples: Mapping[Any, Samples], jobs: int, file: Path | None
) -> Fitted:
    """Fit in `jobs` processes of this machine, which load the learner's file. PipelineError: one of
    them died."""
    order = []

    def arguments() -> Iterator[tuple]:
        for call in calls:
            order.append(call.digest)
            yield call._replace(samples=samples[call.samples])

    for number, result in enumerate(in_processes(runs.run_fit, arguments(), jobs, file)):
        yield order[number], result


PredictCall = tuple[Learner, Samples, np.ndarray]
"""The arguments of `runs.run_predict`."""


def predict_in_threads(
    calls: Iterable[PredictCall], jobs: int, _file: Path | None = None
) -> Iterator[np.ndarray | runs.Failure]:
    """Yield the predictions of each call in order, made in `jobs` threads: the time goes into
    products of matrices, for which starting processes would not pay."""
    with runs.single_thread():
        parallel = Parallel(jobs, backend="threading", return_as="generator")
        yield from parallel(delayed(runs.run_predict)(*one) for one in calls)


def predict_in_processes(
    calls: Iterable[PredictCall], jobs: int, file: Path | None
) -> Iterator[np.ndarray | runs.Failure]:
    """Predict in `jobs` processes, as `fit_in_processes`: for learners with an encoder in the loop,
    which take long to predict."""
    return in_processes(predict_in_one_thread, calls, jobs, file)


def predict_in_one_thread(
    learner: Learner, samples: Samples, rows: np.ndarray
) -> np.ndarray | runs.Failure:
    """Return what `runs.run_predict` does, the same bits for any number of processes."""
    with runs.single_thread():
        return runs.run_predict(learner, samples, rows)


def in_processes(
    function: Callable[..., Any], calls: Iterable[tuple], jobs: int, file: Path | None
) -> Iterator[Any]:
    """Yield what a function returns for the arguments of each call, in this order."""
    # loky starts fresh processes (never fork after a store was read) and maps X into each.
    start = {"initializer": start_worker, "initargs": (os.getpid(), file)}
    parallel = Parallel(jobs, return_as="generator", max_nbytes="1M", mmap_mode="r", **start)
    try:
        with writing(tempfile.gettempdir()):  # where joblib puts the arrays that workers share
            yield from parallel(delayed(function)(*one) for one in calls)
    except BrokenProcessPool as error:
        raise PipelineError(
            "a worker process died: it was killed, or memory was full",
            remedy="run again with fewer --jobs; finished fits are kept",
        ) from error
    except Exception as error:
        # Interrupted while it starts its workers, joblib raises an error of its own.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__context__
        if cause is not None:
            raise KeyboardInterrupt from error
        raise


def start_worker(parent: int, file: Path | None) -> None:
    """Initialise a worker process as the process that started it."""
    keep_freed_memory()
    runs.start_worker(parent, file)


@dataclass(frozen=True)
class FitTask:
    """Fits of one learner, whose code has the digest `code`, as a `Task` of an engine. The file
    `samples` has the arrays of all stored views, and samples in which the views are named."""

    samples: Path
    file: Path | None
    code: str

    def begin(self) -> dict[Any, Samples]:
        """Return all samples; their arrays are mapped."""
        if self.file is not None:
            load_file(self.file)
        arrays, named = load_shared(self.samples)
        return {
            key: replace(one, features={view: arrays[x] for view, x in one.features.items()})
            for key, one in named.items()
        }

    def run(self, samples: dict[Any, Samples], call: FitCall) -> runs.Fit | runs.Failure:
        """Fit; ConfigError where the learner is another one than the driver's."""
        if code_digest(type(call.learner)) != self.code:
            message = f"other code of the learner {call.learner.name} than the driver's"
            raise ConfigError(message, remedy="install the same on all machines")
        return runs.run_fit(*call._replace(samples=samples[call.samples]))


def fit_in_workers(
    calls: Iterable[FitCall],
    samples: Mapping[Any, Samples],
    pool: Pool,
    file: Path | None,
    cls: type[Learner],
    beside: Path,
) -> Fitted:
    """Fit in the workers of an engine, which read the samples from a file beside the path `beside`.
    PipelineError: see `in_workers`, or the workers died of a fit."""
    # A view that several samples have is written once.
    arrays = {id(x): x for one in samples.values() for x in one.features.values()}
    named = {
        key: replace(one, features={view: id(x) for view, x in one.features.items()})
        for key, one in samples.items()
    }
    with shared((arrays, named), beside) as path:
        task = FitTask(path, file, code_digest(cls))
        for call, result in in_workers(pool, task, calls):
            if result is None:
                remedy = "give workers more memory, and run again; finished fits are kept"
                raise PipelineError(f"no fit: {DIED}", path=call.folder, remedy=remedy)
            yield call.digest, result
