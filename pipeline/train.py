"""Train every head on the stored features: few-shot fractions x seeds x views x protocols."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine.progress import Progress
from pipeline.engine.record import RunRecord, recorded
from pipeline.errors import PipelineError, StageFailed
from pipeline.heads.registry import get_head, make_head
from pipeline.io import sha256_json, writing
from pipeline.training.cell import Fit, Task, Tested, run_task
from pipeline.training.code import code_digest
from pipeline.training.data import ViewData, fit_digest, read_views, run_digest
from pipeline.training.grid import Cell, plan_cells
from pipeline.training.journal import Journal
from pipeline.training.outputs import read_outputs, write_outputs
from pipeline.training.worker import end_with

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config import Params, TrainParams
    from pipeline.paths import Paths

FLUSH_SECONDS = 30.0


def train_dataset(
    dataset: str, params: Params, paths: Paths, *, jobs: int = 1, force: bool = False
) -> RunRecord:
    """Fit all heads of `params.train` and write cache/<dataset>/heads/, runs and predictions.

    Fits whose code, parameters and data are those of an earlier run, or of one that was stopped,
    are taken from its files. A head that fails or diverges is a row of runs.parquet that says so.

    Args:
        dataset: its name.
        params: all parameters; sections `train` and `splits` are read.
        paths: where everything lies.
        jobs: parallel processes, -1 for one a core; the results are the same bits for any number.
        force: fit again even what is up to date.

    Returns:
        The record, also written to cache/<dataset>/records/train.json, after a failure or Ctrl-C
        too. `total`, `done` and `skipped` count fits; `failed` maps a fit to its error;
        `parameters` holds the notes.

    Raises:
        ConfigError: there is no head of a name in `params.train.heads`.
        PipelineError: features of images that the splits name are missing, failed, or of older
            bytes or masks; the message counts them by part and names the remedy. Or another process
            trains this dataset: it is named, and its record stands.
        StageFailed: exit code 3; every fit of a head failed or diverged. All else is written.
    """
    from pipeline.io import ProcessLock
    from pipeline.manifest import read_manifest

    for name in params.train.heads:
        get_head(name)  # a mistyped one is an error before any work
    manifest = read_manifest(paths.manifest(dataset))
    record = RunRecord(
        stage="train",
        dataset=dataset,
        versions=_versions(),
        parameters={"jobs": jobs, "notes": [], **params.train.model_dump(mode="json")},
    )
    path = paths.record(dataset, "train")
    heads = paths.heads(dataset)
    # Held as a writer holds the lock of its store; it lies beside the folder, so that DVC skips it.
    with ProcessLock(heads.with_name(f"{heads.name}.lock")), recorded(record, path):
        done = _train(record, manifest, params, paths, jobs=jobs, force=force)
        lost = sorted({f.head for f in done} - {f.head for f in done if f.status == "ok"})
        if lost:
            record.status = "failed"
    if lost:
        reason = next(fit.error for fit in done if fit.head == lost[0])
        raise StageFailed(
            f"train {dataset}: {len(record.failed)} of {record.total} fits failed, among them "
            f"every one of {', '.join(lost)}: {reason}",
            path=path,
            remedy="mend the head or its parameters, or take it out of train.heads; the fits of "
            "the other heads are kept",
        )
    return record


def _train(
    record: RunRecord,
    manifest: pd.DataFrame,
    params: Params,
    paths: Paths,
    *,
    jobs: int,
    force: bool,
) -> list[Fit]:
    """Do what `train_dataset` says and fill in the record; return all fits."""
    from pipeline.manifest import class_names
    from pipeline.splits import load_split_plan
    from pipeline.store import open_features, open_masks

    dataset, clock = record.dataset, time.monotonic()
    classes = class_names(manifest)
    labels = {
        i: classes.index(label)
        for i, label in zip(manifest["image_id"], manifest["label"], strict=True)
    }
    plan = load_split_plan(dataset, params, paths)
    cells, notes = plan_cells(plan, params.train, params.splits.fractions)
    record.parameters["notes"] = [*plan.notes, *notes]
    if not cells:
        raise PipelineError(
            "nothing to train: no protocol of train.views fits this manifest",
            path=paths.manifest(dataset),
            remedy="add a protocol to train.views in params.yaml",
        )
    store = open_features(paths.features(dataset))
    T = np.ascontiguousarray(store.class_features(classes), dtype=np.float32)
    hashes = dict(zip(manifest["image_id"], manifest["sha256"], strict=True))
    # Analysts may have the features alone; where the masks are there too, both must agree.
    masks = open_masks(paths.masks(dataset)) if paths.masks(dataset).is_dir() else None
    views = read_views(store, cells, labels, hashes, paths.features(dataset), masks)
    record.seconds["read"] = time.monotonic() - clock

    test_ids = {cell.where: np.asarray(cell.test, dtype=object) for cell in cells}
    fits = _plan_fits(cells, views, params.train, classes, T)
    journal = Journal(paths.heads(dataset))
    done = [] if force else _reuse(dataset, paths, fits, test_ids, journal)
    record.total, record.skipped = len(fits), len(done)
    tasks = _tasks(cells, fits, {fit.digest for fit in done}, views, params.train)
    done += _run(tasks, views, T, jobs, journal, record)
    write_outputs(dataset, paths, done, test_ids, labels, classes, store.identity)
    journal.clear()

    record.failed = {
        f"{fit.head} {'/'.join(map(str, fit.where))}": f"{fit.status}: {fit.error}"
        for fit in done
        if fit.status != "ok"
    }
    record.done = len(done) - record.skipped - len(record.failed)
    return done


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("numpy", "scikit-learn", "torch")}


def _plan_fits(
    cells: list[Cell],
    views: dict[str, ViewData],
    params: TrainParams,
    classes: list[str],
    T: np.ndarray,
) -> dict[str, Fit]:
    """Return an unfinished fit for every head of every cell, by digest."""
    common = {"classes": classes, "T": hashlib.sha256(T.tobytes()).hexdigest(), **_versions()}
    decides: dict[str, dict[str, Any]] = {}
    for name in params.heads:
        own = {field: getattr(params, field) for field in get_head(name).parameters}
        decides[name] = {**common, "head": name, "own": own, "code": code_digest(name)}
    fits: dict[str, Fit] = {}
    for cell in cells:
        for name in cell.heads:
            text = sha256_json({**decides[name], "where": list(cell.where)})
            first = fit_digest(views[cell.view], cell, text)
            second = run_digest(views[cell.view], cell, first)
            sizes = (len(cell.train), len(cell.val), len(cell.test))
            fits[second] = Fit(name, *cell.where, *sizes, fit_digest=first, digest=second)
    return fits


def _reuse(
    dataset: str,
    paths: Paths,
    fits: dict[str, Fit],
    test_ids: dict[tuple, np.ndarray],
    journal: Journal,
) -> list[Fit]:
    """Return the fits that a stopped or an earlier run left, each once."""
    kept = {f.digest: f for f in journal.read() if f.digest in fits and f.status == "ok"}
    rest = {digest: fit for digest, fit in fits.items() if digest not in kept}
    return [*kept.values(), *read_outputs(dataset, paths, rest, test_ids)]


def _tasks(
    cells: list[Cell],
    fits: dict[str, Fit],
    finished: set[str],
    views: dict[str, ViewData],
    params: TrainParams,
) -> list[tuple[str, Task]]:
    """Return (view, task) for all cells with a fit to do, the largest first; cells of the same
    training images are one task."""
    by_cell: dict[tuple, dict[str, Fit]] = {}
    for digest, fit in fits.items():
        if digest not in finished:
            by_cell.setdefault(fit.where, {})[fit.head] = fit
    tasks: dict[tuple, Task] = {}
    for cell in cells:
        here = by_cell.get(cell.where, {})
        todo = {name: here[name] for name in cell.heads if name in here}
        if not todo:
            continue
        data = views[cell.view]
        train, val = (data.rows(part) if len(part) else _NO_ROWS for part in (cell.train, cell.val))
        same = cell.view, cell.seed, train.tobytes(), val.tobytes(), cell.heads
        task = tasks.setdefault(same, Task({}, train, val, []))
        task.cells.append(Tested(todo, data.rows(cell.test)))
    for (_, seed, *_, heads), task in tasks.items():
        wanted = {fit.head for fit in task.fits}
        task.heads = {n: make_head(n, params, seed=seed) for n in heads if n in wanted}
    return sorted(((view, t) for (view, *_), t in tasks.items()), key=lambda x: -len(x[1].train))


_NO_ROWS = np.array([], dtype=np.int64)


def _run(
    tasks: list[tuple[str, Task]],
    views: dict[str, ViewData],
    T: np.ndarray,
    jobs: int,
    journal: Journal,
    record: RunRecord,
) -> list[Fit]:
    """Run the tasks; what is done is on disk every half minute, also when the run is stopped."""
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    done: list[Fit] = []
    last = time.monotonic()
    # loky starts fresh processes (no fork after a store was read) and maps X into each once.
    parallel = Parallel(
        n_jobs=jobs,
        return_as="generator",
        max_nbytes="1M",
        mmap_mode="r",
        initializer=end_with,
        initargs=(os.getpid(),),
    )
    calls = (delayed(run_task)(task, views[view].X, views[view].y, T) for view, task in tasks)
    title, left = f"train {record.dataset}", record.total - record.skipped
    try:
        with (
            writing(tempfile.gettempdir()),  # where joblib puts what the workers share
            Progress(title, left, reused=record.skipped, unit="fits") as progress,
        ):
            for fits in parallel(calls):
                done += fits
                journal.append(fits)
                good = sum(fit.status == "ok" for fit in fits)
                record.done += good
                progress.add(good, len(fits) - good)
                if time.monotonic() - last > FLUSH_SECONDS:
                    journal.flush()
                    last = time.monotonic()
        journal.flush()  # the outputs may yet fail, or be stopped
    except BaseException as error:
        journal.flush()
        if _interrupted(error):
            raise KeyboardInterrupt from error
        if isinstance(error, TerminatedWorkerError):
            raise PipelineError(
                "a worker process died: killed, or the memory was full",
                remedy="run again with fewer --jobs; it goes on from here",
            ) from error
        raise
    return done


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: joblib, interrupted as it starts its workers, fails to
    stop them with an error of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
