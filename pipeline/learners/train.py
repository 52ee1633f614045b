"""Train learners on the stored features: protocols x views x few-shot fractions x seeds."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config import CROSS_VALIDATED
from pipeline.engine.progress import Progress
from pipeline.engine.record import RunRecord, recorded
from pipeline.errors import PipelineError, StageFailed
from pipeline.io import ProcessLock, sha256_json, writing
from pipeline.learners.base import Samples
from pipeline.learners.data import Features, read_features
from pipeline.learners.fitting import Outcome, run_fit, start_worker
from pipeline.learners.registry import code_digest, learner_params
from pipeline.learners.runs import RUN, Fit, run_inputs, stored_fits, write_fits, write_tables
from pipeline.manifest import read_manifest
from pipeline.provenance import stamp
from pipeline.splits import Split, SplitPlan, load_split_plan
from pipeline.store import open_features

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config import Params
    from pipeline.learners.base import Learner, LearnerParams
    from pipeline.paths import Paths

LIBRARIES = ("numpy", "scikit-learn", "torch")
"""Libraries whose version decides a fit."""

RunKey = tuple[str, str, float, int]
"""Protocol, view, fraction and seed."""


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
    taken from there; predictions are always made anew. A fit that fails or diverges is a row of
    runs.parquet that says so; other fits and other learners go on.

    Args:
        dataset: its name.
        params: all parameters; sections `learners`, `train` and `splits` are read.
        paths: of the project.
        learners: names; None: all of `params.learners`.
        jobs: parallel processes, -1 for one per core; results are the same bits for any number.
        force: fit again even what is up to date.

    Returns:
        One record for each learner, also written to cache/<dataset>/records/train-<learner>.json,
        after an error or Ctrl-C too. `total`, `done` and `skipped` count runs, `failed` maps a
        run to its error, and `parameters["notes"]` has the notes on the splits.

    Raises:
        ConfigError: an unknown learner, or a parameter that it does not allow.
        PipelineError: features of images that the splits name are missing, failed, or made from
            other image bytes or masks; or another process trains the same learner.
        StageFailed: exit code 3; every fit of a learner failed. All other results are written.
    """
    names = dict.fromkeys(params.learners if learners is None else learners)
    found = {name: learner_params(params, name, paths.root) for name in names}
    manifest = read_manifest(paths.manifest(dataset))  # without one there is nothing to record
    records, lost = [], []
    for name, (cls, own) in found.items():
        about = {"params": own.model_dump(mode="json", exclude_none=True)}
        about |= {"train": params.train.model_dump(mode="json"), "learner": name, "jobs": jobs}
        versions = {library: version(library) for library in LIBRARIES}
        record = RunRecord("train", dataset, versions=versions, parameters=about)
        path, folder = paths.record(dataset, f"train-{name}"), paths.run(dataset, name)
        # Beside the folder, since DVC takes everything in the folder for an output.
        lock = ProcessLock(folder.with_name(f"{name}.lock"), "run folder")
        try:
            with lock, recorded(record, path):
                train_learner(record, cls, own, manifest, params, paths, jobs=jobs, force=force)
                if len(record.failed) == record.total:
                    raise StageFailed(
                        f"train {dataset}: all {record.total} fits of {name} failed: "
                        f"{next(iter(record.failed.values()))}",
                        path=path,
                        remedy="correct the learner or its parameters, or remove it from "
                        "params.yaml",
                    )
            records.append(record)
        except StageFailed as error:
            lost.append(error)
    if lost:
        raise lost[0]
    return records


def train_learner(
    record: RunRecord,
    cls: type[Learner],
    own: LearnerParams,
    manifest: pd.DataFrame,
    params: Params,
    paths: Paths,
    *,
    jobs: int,
    force: bool,
) -> None:
    """Fit one learner, write its run folder and fill in the record; see `train_dataset`."""
    dataset, folder, clock = record.dataset, paths.run(record.dataset, cls.name), time.monotonic()
    runs, notes = plan_runs(cls, own, load_split_plan(dataset, params, paths), params)
    record.parameters["notes"], record.total = notes, len(runs)
    if not runs:
        raise PipelineError(
            "nothing to train: no protocol of train.views fits this manifest",
            path=paths.manifest(dataset),
            remedy="add a protocol to train.views in params.yaml",
        )
    views = {key[1]: cls(own).views(key[1]) for key in runs}
    needed: dict[str, set[str]] = {}
    for key, split in runs.items():
        for view in views[key[1]]:
            needed.setdefault(view, set()).update(split.train, split.val, split.test)
    store = open_features(paths.features(dataset))
    inputs = stamp(**run_inputs(paths, dataset) | {"features": store})
    features = read_features(dataset, paths, store, manifest, needed)
    record.seconds["read"] = time.monotonic() - clock

    def digest_of(key: RunKey, decides: str) -> str:
        """Return the digest of all that decides a fit."""
        (_, view, _, seed), split = key, runs[key]
        parts = [features.digest(ids, views[view]) for ids in (split.train, split.val)]
        return sha256_json([decides, view, seed, parts])

    decides = _decides(cls, own, features)
    digests = {key: digest_of(key, decides) for key in runs}
    stored = {} if force else stored_fits(folder)
    base, bases = cls.starts_from, {}
    if base is not None and not stored.keys() >= set(digests.values()):
        same = {name: getattr(own, name) for name in base.Parameters.model_fields}
        base_decides = _decides(base, base.Parameters(**same), features)
        bases = stored_fits(paths.run(dataset, base.name))
    groups: dict[str, list[RunKey]] = {}  # runs with the same training images share a fit
    for key in sorted(runs, key=lambda key: (digests[key] not in stored, -len(runs[key].train))):
        groups.setdefault(digests[key], []).append(key)

    def call(digest: str) -> tuple:
        """Return the arguments of `run_fit`."""
        key, fit = groups[digest][0], stored.get(digest)
        learner = cls(own, seed=key[3])
        start = bases.get(digest_of(key, base_decides)) if bases and fit is None else fit
        if start is not None:
            start.restore(learner)
        parts = features.rows(runs[key].train), features.rows(runs[key].val)
        tests = [features.rows(runs[key].test) for key in groups[digest]]
        X = {view: features.X[view] for view in views[key[1]]}
        samples = Samples(key[1], X, features.y, features.text, features.classes)
        return learner, fit or digest, folder, samples, (*parts, tests)

    fits: dict[str, Fit] = {}
    outcomes: dict[RunKey, Outcome] = {}
    left = sum(digest not in stored for digest in digests.values())
    file = None if own.file is None else (paths.root / own.file).absolute()
    results = _in_parallel(map(call, groups), jobs if left else 1, file)
    title = f"train {dataset} {cls.name}"
    with Progress(title, left, reused=len(runs) - left, unit="fits") as progress:
        for digest, (fit, found) in zip(groups, results, strict=True):
            outcomes |= zip(groups[digest], found, strict=True)
            good = sum(outcome.status == "ok" for outcome in found)
            if fit is not None:
                fits[digest] = fit
            if digest in stored:
                record.skipped += good
            else:
                record.done += good
                progress.add(good, len(found) - good)

    about = {"params": record.parameters["params"], "classes": features.classes}
    write_fits(folder / "fitted.safetensors", fits.values(), about | {"features": store.identity})
    for path in folder.glob("*partial-*.safetensors"):  # those a kill left half written as well
        path.unlink(missing_ok=True)
    rows, tested = [], []
    for key in sorted(runs):
        (protocol, view, fraction, seed), split, outcome = key, runs[key], outcomes[key]
        run = dict(zip(RUN, (protocol, cls.name, view, fraction, seed), strict=True))
        run |= {f"n_{part}": len(ids) for part, ids in vars(split).items()}
        fit = fits[digests[key]] if outcome.status == "ok" else Fit(digests[key], {}, "{}", None)
        run |= {"chosen": fit.chosen, "val_score": fit.val_score, "status": outcome.status}
        rows.append(run | {"error": outcome.error, "digest": fit.digest})
        tested.append((split.test, features.y[features.rows(split.test)], outcome.proba))
        if outcome.status != "ok":
            where = "/".join(str(run[column]) for column in RUN)
            record.failed[where] = f"{outcome.status}: {outcome.error}"
    write_tables(folder, rows, tested, features.classes, inputs)


def plan_runs(
    cls: type[Learner], own: LearnerParams, plan: SplitPlan, params: Params
) -> tuple[dict[RunKey, Split], list[str]]:
    """Return the runs of a learner with the images of each, and notes on the splits.

    A learner without labels has one run for each test set, at fraction 0: seed 0, and in
    cross-validation, where each seed tests another fold, one run for each seed.
    """
    seeds = own.seeds if own.seeds is not None else params.train.seeds
    runs: dict[RunKey, Split] = {}
    notes = list(plan.notes)
    for protocol, views in (own.views or params.train.views).items():
        if protocol not in plan.protocols:
            notes.append(f"protocol {protocol} is left out: the manifest does not allow it")
        elif cls.needs_labels:
            for seed, fraction in product(seeds, own.fractions or params.splits.fractions):
                split = plan.get(protocol, seed, fraction)
                runs |= {(protocol, view, fraction, seed): split for view in views}
        else:
            none = np.array([], dtype=object)
            for seed in seeds if protocol in CROSS_VALIDATED else (0,):
                split = Split(none, none, plan.get(protocol, seed, 1.0).test)
                runs |= {(protocol, view, 0.0, seed): split for view in views}
    return runs, notes


def _decides(cls: type[Learner], own: LearnerParams, features: Features) -> str:
    """Return a digest of everything but the images and the seed that decides a fit."""
    return sha256_json(
        {
            "params": own.deciding(),
            "code": code_digest(cls),
            "classes": features.classes,
            "text": features.text.tobytes().hex(),
            "versions": [version(library) for library in LIBRARIES],
        }
    )


def _in_parallel(
    calls: Iterable[tuple], jobs: int, file: Path | None
) -> Iterator[tuple[Fit | None, list[Outcome]]]:
    """Yield what `run_fit` returns for each tuple of arguments, in their order."""
    from joblib import Parallel, delayed

    # loky starts fresh processes (never fork after a store was read) and maps X into each.
    parallel = Parallel(
        n_jobs=jobs,
        return_as="generator",
        max_nbytes="1M",
        mmap_mode="r",
        initializer=start_worker,
        initargs=(os.getpid(), file),
    )
    try:
        with writing(tempfile.gettempdir()):  # where joblib puts the arrays that workers share
            yield from parallel(delayed(run_fit)(*one) for one in calls)
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
