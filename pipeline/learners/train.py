"""Train learners on the stored features: protocols x views x few-shot fractions x seeds."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.progress import Progress
from pipeline.engine.record import RunRecord, recorded
from pipeline.errors import PipelineError, StageFailed
from pipeline.io import ProcessLock, sha256_json, writing
from pipeline.learners.data import Features, read_features
from pipeline.learners.fits import Fit, read_fits, write_fitted, write_partial
from pipeline.learners.fitting import Task, run_task, start_worker
from pipeline.learners.grid import Cell, plan_cells
from pipeline.learners.registry import code_digest, learner_params
from pipeline.learners.runs import run_inputs, write_tables
from pipeline.provenance import stamp

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config import Params
    from pipeline.learners.base import Learner, LearnerParams
    from pipeline.paths import Paths
    from pipeline.splits import SplitPlan
    from pipeline.store import FeatureStore

FLUSH_SECONDS = 5.0
"""Longest time that a finished fit is in memory only."""


def train_dataset(
    dataset: str,
    params: Params,
    paths: Paths,
    learners: Sequence[str] | None = None,
    *,
    jobs: int = 1,
    force: bool = False,
) -> list[RunRecord]:
    """Fit learners on the features of a dataset and predict its test images.

    Each learner has a run folder of its own (see `pipeline.learners.runs`). Fits whose code,
    parameters and data have not changed since an earlier run, or since one that was stopped, are
    taken from there. A fit that fails or diverges is a row of runs.parquet that says so; other
    fits and other learners go on.

    Args:
        dataset: its name.
        params: all parameters; sections `learners`, `train` and `splits` are read.
        paths: of the project.
        learners: names; None: all of `params.learners`.
        jobs: parallel processes, -1 for one per core; results are the same bits for any number.
        force: fit again even what is up to date.

    Returns:
        One record for each learner, also written to cache/<dataset>/records/train-<learner>.json,
        after an error or Ctrl-C too. `total`, `done` and `skipped` count fits, `failed` maps a
        fit to its error, and `parameters["notes"]` has the notes on the splits.

    Raises:
        ConfigError: an unknown learner, or a parameter that it does not allow.
        PipelineError: features of images that the splits name are missing, failed, or made from
            other image bytes or masks; or another process trains the same learner.
        StageFailed: exit code 3; every fit of a learner failed. All other results are written.
    """
    project = _Project(dataset, params, paths)
    chosen = dict.fromkeys(params.learners if learners is None else learners)
    todo = [_Run(project, name) for name in chosen]  # a mistyped name is an error before any work
    todo.sort(key=lambda run: run.make(0).base is not None)  # bases first
    records, lost = [], []
    for run in todo:
        try:
            records.append(run.train(jobs=jobs, force=force))
        except StageFailed as error:
            lost.append(error)
    if lost:
        raise lost[0]
    return records


@dataclass
class _Project:
    """What all learners of a command share, read once."""

    dataset: str
    params: Params
    paths: Paths

    @cached_property
    def manifest(self) -> pd.DataFrame:
        from pipeline.manifest import read_manifest

        return read_manifest(self.paths.manifest(self.dataset))

    @cached_property
    def plan(self) -> SplitPlan:
        from pipeline.splits import load_split_plan

        return load_split_plan(self.dataset, self.params, self.paths)

    @cached_property
    def store(self) -> FeatureStore:
        from pipeline.store import open_features

        return open_features(self.paths.features(self.dataset))

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Digests of what a run is made from: of the store as it was opened."""
        return stamp(**run_inputs(self.paths, self.dataset) | {"features": self.store})

    def features(self, cells: list[tuple[Cell, tuple[str, ...]]]) -> Features:
        """Read the features of some cells; see `read_features`."""
        from pipeline.store import open_masks

        # A user may have the features alone; where there are masks too, they must agree.
        masks = self.paths.masks(self.dataset)
        opened = open_masks(masks) if masks.is_dir() else None
        path = self.paths.features(self.dataset)
        return read_features(self.store, self.manifest, cells, path, opened)


class _Run:
    """All fits of one learner on one dataset."""

    def __init__(self, project: _Project, name: str):
        self.project, self.name = project, name
        self.cls, self.own = learner_params(project.params, name, project.paths.root)
        self.folder = project.paths.run(project.dataset, name)

    def make(self, seed: int) -> Learner:
        """Return an unfitted learner."""
        return self.cls(self.own, seed=seed)

    def train(self, *, jobs: int, force: bool) -> RunRecord:
        """Fit, predict and write the run folder and the record; see `train_dataset`."""
        dataset = self.project.dataset
        manifest = self.project.manifest  # without one there is nothing to record
        record = RunRecord(
            stage="train",
            dataset=dataset,
            versions=_versions(),
            parameters={"learner": self.name, "jobs": jobs, "notes": [], **self._parameters()},
        )
        path = self.project.paths.record(dataset, f"train-{self.name}")
        # Beside the folder, since DVC takes everything in the folder for an output.
        lock = ProcessLock(self.folder.with_name(f"{self.name}.lock"), "run folder")
        with lock, recorded(record, path):
            fits = self._train(record, manifest, jobs=jobs, force=force)
            if not any(fit.status == "ok" for fit in fits):
                record.status = "failed"
        if record.status == "failed":
            raise StageFailed(
                f"train {dataset}: all {record.total} fits of {self.name} failed: {fits[0].error}",
                path=path,
                remedy="correct the learner or its parameters, or remove it from params.yaml",
            )
        return record

    def _parameters(self) -> dict[str, Any]:
        train = self.project.params.train.model_dump(mode="json")
        return {"train": train, "params": self.own.model_dump(mode="json", exclude_none=True)}

    def _train(
        self, record: RunRecord, manifest: pd.DataFrame, *, jobs: int, force: bool
    ) -> list[Fit]:
        """Do what `train` says and fill in the record; return all fits."""
        project, clock = self.project, time.monotonic()
        cells, notes = plan_cells(self.cls, self.own, project.plan, project.params)
        record.parameters["notes"] = [*project.plan.notes, *notes]
        if not cells:
            raise PipelineError(
                "nothing to train: no protocol of train.views fits this manifest",
                path=project.paths.manifest(project.dataset),
                remedy="add a protocol to train.views in params.yaml",
            )
        inputs = project.inputs  # as they are before anything is read
        features = project.features([(cell, self._views(cell)) for cell in cells])
        record.seconds["read"] = time.monotonic() - clock

        about = {
            "classes": list(features.classes),
            "params": self.own.model_dump(mode="json", exclude_none=True),
            "features": project.store.identity,
        }
        wanted = self._plan_fits(cells, features)
        stored = {} if force else {fit.digest: fit for fit in read_fits(self.folder)}
        done = [stored[digest] for digest in wanted if digest in stored]
        record.total, record.skipped = len(wanted), len(done)
        todo = {digest: one for digest, one in wanted.items() if digest not in stored}
        tasks = self._tasks(todo, features, stored.values())
        done += self._run(tasks, features, about, jobs, record)

        test = {
            d: (cell.test, features.y[features.rows(cell.test)]) for d, (_, cell) in wanted.items()
        }
        write_fitted(self.folder, done, about)
        write_tables(self.folder, done, features.classes, test, inputs)
        record.failed = {
            "/".join(map(str, fit.key)): f"{fit.status}: {fit.error}"
            for fit in done
            if fit.status != "ok"
        }
        record.done = len(done) - record.skipped - len(record.failed)
        return done

    def _views(self, cell: Cell) -> tuple[str, ...]:
        return self.make(cell.seed).views(cell.view)

    def _plan_fits(self, cells: list[Cell], features: Features) -> dict[str, tuple[Fit, Cell]]:
        """Return an unfinished fit for every cell, by digest."""
        decides = _decides(self.cls, self.own, features)
        found = {}
        for cell in cells:
            views = self._views(cell)
            first = features.fit_digest(cell, views, decides)
            digest = features.run_digest(cell, views, first)
            run = cell.protocol, self.name, cell.view, cell.fraction, cell.seed
            sizes = len(cell.train), len(cell.val), len(cell.test)
            found[digest] = Fit(*run, *sizes, fit_digest=first, digest=digest), cell
        return found

    def _tasks(
        self, todo: dict[str, tuple[Fit, Cell]], features: Features, stored: Iterable[Fit]
    ) -> list[Task]:
        """Return one task for each fit digest, the largest first.

        Args:
            todo: unfinished fits and their cells, by digest.
            features: what the cells read.
            stored: fits of earlier runs.
        """
        fitted = {fit.fit_digest: fit for fit in stored}
        base = self.make(0).base
        bases = {}
        if base is not None and todo:
            folder = self.project.paths.run(self.project.dataset, base.name)
            bases = {fit.fit_digest: fit for fit in read_fits(folder)}
            base_decides = _decides(type(base), base.params, features)
        tasks: dict[str, Task] = {}
        for fit, cell in todo.values():
            if fit.fit_digest not in tasks:
                views = self._views(cell)
                learner = self.make(cell.seed)
                if fit.fit_digest in fitted:  # only its test images are new
                    _restore(learner, fitted[fit.fit_digest])
                elif bases:
                    digest = features.fit_digest(cell, views, base_decides)
                    if digest in bases:
                        _restore(learner.base, bases[digest])
                rows = features.rows(cell.train), features.rows(cell.val)
                tasks[fit.fit_digest] = Task(learner, views, *rows, [])
            tasks[fit.fit_digest].runs.append((fit, features.rows(cell.test)))
        return sorted(tasks.values(), key=lambda task: -len(task.train))

    def _run(
        self,
        tasks: list[Task],
        features: Features,
        about: dict[str, Any],
        jobs: int,
        record: RunRecord,
    ) -> list[Fit]:
        """Run the tasks; finished fits are on disk within `FLUSH_SECONDS`, or when stopped."""
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        done: list[Fit] = []
        waiting: list[Fit] = []
        flushed = time.monotonic()
        root, file = Path(self.project.paths.root), self.own.file
        # loky starts fresh processes (never fork after a store was read) and maps X into each.
        parallel = Parallel(
            n_jobs=jobs,
            return_as="generator",
            max_nbytes="1M",
            mmap_mode="r",
            initializer=start_worker,
            initargs=(os.getpid(), [str((root / file).absolute())] if file else []),
        )
        calls = (
            delayed(run_task)(
                task,
                {view: features.X[view] for view in task.views},
                features.y,
                features.text,
                features.classes,
            )
            for task in tasks
        )
        title, left = f"train {record.dataset} {self.name}", record.total - record.skipped
        try:
            with (
                writing(tempfile.gettempdir()),  # where joblib puts the arrays that workers share
                Progress(title, left, reused=record.skipped, unit="fits") as progress,
            ):
                for fits in parallel(calls):
                    done += fits
                    waiting += fits
                    good = sum(fit.status == "ok" for fit in fits)
                    record.done += good
                    progress.add(good, len(fits) - good)
                    if time.monotonic() - flushed > FLUSH_SECONDS:
                        write_partial(self.folder, waiting, about)
                        waiting, flushed = [], time.monotonic()
        except BaseException as error:
            write_partial(self.folder, waiting, about)
            if _interrupted(error):
                raise KeyboardInterrupt from error
            if isinstance(error, TerminatedWorkerError):
                raise PipelineError(
                    "a worker process died: it was killed, or memory was full",
                    remedy="run again with fewer --jobs; finished fits are kept",
                ) from error
            raise
        write_partial(self.folder, waiting, about)  # writing the tables may still fail
        return done


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("numpy", "scikit-learn", "torch")}


def _decides(cls: type[Learner], own: LearnerParams, features: Features) -> str:
    """Return a digest of everything but the images and the seed that decides a fit."""
    return sha256_json(
        {
            "learner": cls.name,
            "params": own.deciding(),
            "code": code_digest(cls),
            "classes": features.classes,
            "text": features.text.tobytes().hex(),
            "versions": _versions(),
        }
    )


def _restore(learner: Learner, fit: Fit) -> None:
    learner.restore(fit.tensors, json.loads(fit.chosen))
    learner.val_score = fit.val_score


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C caused an error: joblib, interrupted while it starts its workers, raises an
    error of its own when it cannot stop them."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
