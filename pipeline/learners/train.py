"""Train learners on the stored features: protocols x views x few-shot fractions x seeds."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import CROSS_VALIDATED, Params, parts_of, variant_of
from pipeline.engine.cluster import Pool, connected
from pipeline.engine.options import RunOptions
from pipeline.engine.progress import show_progress
from pipeline.engine.record import RunRecord, recorded
from pipeline.errors import ConfigError, PipelineError, StageFailed, StoreError
from pipeline.io import ProcessLock, atomic_write_json, sha256_json, writing
from pipeline.learners import runs
from pipeline.learners.base import Learner, LearnerParams, Samples, code_digest, find_learner
from pipeline.learners.fitting import (
    FitCall,
    fit_in_processes,
    fit_in_workers,
    predict_in_processes,
    predict_in_threads,
)
from pipeline.learners.on_disk import OnDisk
from pipeline.learners.variants import RunKey, Variants, variant_inputs
from pipeline.manifest import class_names, read_manifest
from pipeline.paths import Paths
from pipeline.provenance import schema_stamp, stamp
from pipeline.remote import exists
from pipeline.splits import Split, SplitPlan, load_split_plan
from pipeline.store import FeatureStore, open_features, open_masks

Watch = Callable[[str, Mapping[RunKey, str]], None]
"""Told, of a learner by name, the state of all its runs ("waits" or "done"), and of each run that
ends then ("done" or "failed")."""


def train_dataset(
    dataset: str,
    params: Params,
    paths: Paths,
    learners: Sequence[str] | None = None,
    *,
    jobs: int = 1,
    force: bool = False,
    watch: Watch | None = None,
    options: RunOptions = RunOptions(),
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
        learners: names; None: all of `params.learners` but, where the encoder has no texts, those
            that read them; a note names these.
        jobs: parallel processes, -1 for one per core; results are the same bits for any number.
        force: fit again even what is up to date.
        watch: shows the progress instead of a line for each learner.
        options: the engine whose workers fit, instead of `jobs`; the same bits on like machines.

    Returns:
        One record for each learner, also written to cache/<dataset>/records/train-<learner>.json,
        after an error or Ctrl-C too. `total`, `done` and `skipped` count runs, `failed` maps a
        run to its error, and `parameters["notes"]` has the notes on the splits.

    Raises:
        ConfigError: an unknown learner, a parameter that it does not allow, or a learner that was
            named reads class texts and the encoder has none.
        PipelineError: features of images that the splits name are missing, failed, or made from
            other image bytes or masks; or another process trains the same learner.
        StageFailed: exit code 3; every fit of a learner failed. All other results are written.
    """
    names = dict.fromkeys(params.learners if learners is None else learners)
    found = {name: find_learner(name, params.learners.get(name, {}), paths.root) for name in names}
    manifest = read_manifest(paths.manifest(dataset))  # without one there is nothing to record
    records, lost, note = [], [], ""
    texts = has_text(dataset, paths)
    if without := [name for name, (cls, _) in found.items() if cls.needs_text and not texts]:
        note = f"the encoder has no class texts, which {', '.join(without)} cannot do without"
        if learners is not None:
            remedy = "choose a learner that reads none, such as linear-probe, or a profile with a "
            remedy += "CLIP; under `dvc repro`, remove the learner from params.yaml"
            raise ConfigError(note, path=paths.features(dataset), remedy=remedy)
        print(f"train {dataset}: left out: {note}", file=sys.stderr, flush=True)
        found = {name: of for name, of in found.items() if name not in without}
    with connected(options) as pool:
        for name, (cls, own) in found.items():
            about = {"params": own.model_dump(mode="json", exclude_none=True)}
            about |= {"train": params.train.model_dump(mode="json"), "learner": name, "jobs": jobs}
            versions = {name: version(name) for name in ("numpy", "scikit-learn", "torch")}
            record = RunRecord("train", dataset, versions=versions, parameters=about)
            path = paths.record(dataset, f"train-{name}")
            # Beside the run folder, since DVC takes everything in the folder for an output.
            lock = ProcessLock(paths.run(dataset, name).with_name(f"{name}.lock"), "run folder")
            try:
                with lock, recorded(record, path), scratch(cls, name, dataset, paths) as folder:
                    done = {"jobs": jobs, "force": force, "watch": watch, "pool": pool}
                    done["scratch"] = folder
                    train_learner(record, cls, own, manifest, params, paths, **done)
                    record.parameters["notes"] += [note] if note else []
                    if len(record.failed) == record.total:
                        why = next(iter(record.failed.values()))
                        message = f"{dataset}: all {record.total} fits of {name} failed: {why}"
                        remedy = "correct the learner or its section of params.yaml"
                        raise StageFailed(message, path=path, remedy=remedy)
                records.append(record)
            except StageFailed as error:
                lost.append(error)
    if lost:
        raise lost[0]
    return records


@contextmanager
def scratch(cls: type[Learner], name: str, dataset: str, paths: Paths) -> Iterator[Path | None]:
    """Yield a folder for the features of a learner that reads them from the disk; else None."""
    if not getattr(cls, "out_of_core", False):
        yield None
        return
    where, prefix = paths.cache(dataset), f".rows-{name}-"
    for left in where.glob(f"{prefix}*"):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    with writing(where), tempfile.TemporaryDirectory(prefix=prefix, dir=where) as folder:
        yield Path(folder)


def has_text(dataset: str, paths: Paths) -> bool:
    """Return whether the encoder of a dataset's features has texts; True if they cannot be read,
    which is an error of the learner's own record."""
    with suppress(StoreError):
        return open_features(paths.features(dataset)).has_text
    return True


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
    watch: Watch | None = None,
    pool: Pool | None = None,
    scratch: Path | None = None,
) -> None:
    """Fit one learner, write its run folder and fill in the record; see `train_dataset`."""
    dataset, name, clock = record.dataset, record.parameters["learner"], time.monotonic()
    folder, plan = paths.run(dataset, name), load_split_plan(dataset, params, paths)
    splits, notes = plan_runs(cls, own, plan, params)
    record.parameters["notes"], record.total = notes, len(splits)
    if not splits:
        message, remedy = "fits no protocol of train.views", "add a protocol there in params.yaml"
        raise PipelineError(message, path=paths.manifest(dataset), remedy=remedy)
    parts_of_views = {key[1]: cls(own).views(key[1]) for key in splits}
    variants = Variants(dataset, plan, paths)
    views = {
        key: tuple(variants.stored(view, key) for view in parts_of_views[key[1]]) for key in splits
    }
    named = {key: {variant_of(v) for v in views[key]} | {variants.labels(key)} for key in splits}
    stores = variants.open(set().union(*named.values()))
    splits = variants.add_labels(splits, stores)
    needed: dict[str, set[str]] = {}
    for key, split in splits.items():
        for view in views[key]:
            needed.setdefault(view, set()).update(split.train, split.val, split.test)
    store, adapted = stores[""], sorted({*stores} - {""})
    inputs = runs.run_inputs(paths, dataset) | {"features": store}
    inputs = stamp(**inputs | variant_inputs(paths, dataset, adapted))
    features = read_features(paths, dataset, stores, manifest, needed, scratch)
    samples = {
        (key[1], of): features.seen(
            "+".join(parts_of(key[1])), dict(zip(parts_of_views[key[1]], of, strict=True))
        )
        for key, of in views.items()
    }
    for one in samples.values():
        cls(own).check_lengths(one)
    classes, prompts = features.samples.classes, None
    if "prompts" in cls.needs:
        from pipeline.learners.prompts import ClassPrompts  # loads open_clip

        prompts = ClassPrompts.of(store, classes, params.models.clip)
        prompts.tower()  # no fit is begun without it
        samples = {key: replace(of, prompts=prompts) for key, of in samples.items()}
    if "pixels" in cls.needs:
        from pipeline.encode.pixels import make_pixels  # loads open_clip

        if adapted:
            remedy = "give it views without @, or use a learner on features"
            raise ConfigError(f"{name} cannot be trained with {adapted[0]}", remedy=remedy)
        size = cls(own).frame_size(store.identity["model"]["image_size"])
        source = dataset, params, paths, manifest, store
        for view, ids in needed.items():
            pixels = make_pixels(*source, view, size, features.ids, ids)
            samples[view, (view,)] = replace(samples[view, (view,)], pixels=pixels)
    record.seconds["read"] = time.monotonic() - clock

    def digests_of(cls: type[Learner], own: LearnerParams) -> dict[RunKey, str]:
        """Return for each run a digest of all that decides its fit."""
        text, digests = features.samples.text.tobytes().hex(), {}
        of_joint = {"block_weights": own.block_weights}
        shared = [own.deciding(), code_digest(cls), record.versions, classes, text]
        decides = sha256_json([*shared, prompts.identity] if prompts else shared)
        for key, split in splits.items():
            parts = [features.digest(ids, views[key]) for ids in (split.train, split.val)]
            more = [of_joint] if len(views[key]) > 1 else []
            if (pixels := samples[key[1], views[key]].pixels) is not None:
                more += [pixels.digest(features.rows(ids)) for ids in (split.train, split.val)]
            digests[key] = sha256_json([decides, key[1], key[3], parts, *more])
        return digests

    digests = digests_of(cls, own)
    fits = {} if force else runs.stored_fits(folder)
    # Runs with the same training images share a fit. The largest fits come first.
    order = sorted(splits, key=lambda key: -len(splits[key].train))
    todo = {digests[key]: key for key in order if digests[key] not in fits}
    sharing: dict[str, list[RunKey]] = {}
    for key, digest in digests.items():
        sharing.setdefault(digest, []).append(key)
    if watch is not None:
        watch(name, {key: "waits" if digests[key] in todo else "done" for key in splits})
    base, starts = cls.starts_from, {}
    if base is not None and todo:
        shared = {name: getattr(own, name) for name in base.Parameters.model_fields}
        known = runs.stored_fits(paths.run(dataset, base.name))
        of_base = digests_of(base, base.Parameters(**shared))
        starts = {key: known.get(digest) for key, digest in of_base.items()}

    def call(digest: str) -> FitCall:
        key, learner = todo[digest], cls(own, seed=todo[digest][3])
        if starts.get(key):
            starts[key].restore(learner)
        parts = (features.rows(ids) for ids in (splits[key].train, splits[key].val))
        return FitCall(learner, digest, folder, (key[1], views[key]), *parts)

    failures: dict[str, runs.Failure] = {}
    file = None if own.file is None else (paths.root / own.file).absolute()
    calls = map(call, todo), samples
    if pool is None or not todo:
        results = fit_in_processes(*calls, jobs if todo else 1, file)
    else:
        results = fit_in_workers(*calls, pool, file, cls, paths.seconds(dataset, name))
    reused = len(set(digests.values())) - len(todo)
    title, show = f"train {dataset} {name}", watch is None
    with show_progress(title, len(todo), reused=reused, unit="fits", show=show) as count:
        for digest, result in results:
            good = isinstance(result, runs.Fit)
            (fits if good else failures)[digest] = result
            count(int(good), int(not good))
            if watch is not None:
                watch(name, dict.fromkeys(sharing[digest], "done" if good else "failed"))
    record.seconds["fit"] = time.monotonic() - clock - record.seconds["read"]
    about = {"params": record.parameters["params"], "classes": classes}
    used = [fits[digest] for digest in dict.fromkeys(digests.values()) if digest in fits]
    # Apart from what is the same bits whenever it is made again, and before partial fits go.
    took = {one.digest: one.seconds for one in used if one.seconds is not None}
    if base is not None:
        of_fusion = runs.fit_seconds(paths.seconds(dataset, base.name))
        took |= {
            digest: took[digest] + of_fusion.get(starts[key].digest, 0.0)
            for digest, key in todo.items()
            if digest in took and starts.get(key)
        }
    known = runs.fit_seconds(paths.seconds(dataset, name)) | took
    kept = {one.digest: round(known[one.digest], 4) for one in used if one.digest in known}
    atomic_write_json(paths.seconds(dataset, name), kept)
    used = [replace(one, seconds=None) for one in used]
    runs.write_fits(folder / "fitted.safetensors", used, about | {"features": store.identity})
    for path in folder.glob("*partial-*.safetensors"):  # those a kill left half written as well
        path.unlink(missing_ok=True)

    if not (todo or force) and tables_hold(folder, digests, splits, inputs):
        record.skipped = len(splits)
        return
    test_rows = {key: features.rows(split.test) for key, split in splits.items()}
    ready = [key for key in sorted(splits) if digests[key] in fits]
    calls = (
        (
            fits[digests[key]].restore(cls(own, seed=key[3])),
            samples[key[1], views[key]],
            test_rows[key],
        )
        for key in ready
    )
    predict = predict_in_processes if cls.needs else predict_in_threads
    predicted = dict(zip(ready, predict(calls, jobs, file), strict=True))
    rows, tested = [], []
    for key, split in sorted(splits.items()):
        (protocol, view, fraction, seed), digest = key, digests[key]
        result = failures.get(digest, predicted.get(key))
        run = dict(zip(runs.RUN, (protocol, name, view, fraction, seed), strict=True))
        good = not isinstance(result, runs.Failure)
        status, error = ("ok", "") if good else result
        if good:
            record.skipped += digest not in todo
            record.done += digest in todo
        else:
            record.failed["/".join(map(str, run.values()))] = f"{status}: {error}"
        fit = fits[digest] if good else runs.Fit(digest, {}, "{}", None)
        run |= {f"n_{part}": len(ids) for part, ids in vars(split).items()}
        run |= {"chosen": fit.chosen, "val_score": fit.val_score}
        run |= {"n_parameters": cls.n_parameters(fit.tensors), "status": status}
        run |= {"error": error, "digest": digest}
        if masks := sorted(named[key] - {""}):
            run["masks"] = ",".join(masks)
        rows.append(run)
        y = features.samples.y[test_rows[key]]
        tested.append((split.test, y, result if good else None))
    runs.write_tables(folder, rows, tested, classes, inputs)
    record.seconds["predict"] = time.monotonic() - clock - sum(record.seconds.values())


def tables_hold(
    folder: Path,
    digests: Mapping[RunKey, str],
    splits: Mapping[RunKey, Split],
    inputs: dict[str, str],
) -> bool:
    """Return whether the tables of a learner are whole, were made of the same inputs, and have just
    these runs with these fits and test images: then there is nothing to predict.

    Args:
        folder: of the learner.
        digests, splits: of each run.
        inputs: stamp of what a training would read now.
    """
    path, keys = folder / "runs.parquet", sorted(splits)
    try:
        table, predictions = pd.read_parquet(path), pq.read_table(folder / "predictions.parquet")
        ids = predictions["image_id"].to_pandas().astype(object)
        key = [name for name in runs.RUN if name != "learner"]
        there = table[[*key, "digest", "status"]].to_numpy(object).tolist()
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return False
    wanted = [[*key, digests[key], "ok"] for key in keys]
    made_of = schema_stamp(predictions.schema) == inputs | stamp(runs=path)
    tested = np.concatenate([splits[key].test for key in keys])
    return made_of and there == wanted and np.array_equal(ids, tested)


def plan_runs(
    cls: type[Learner], own: LearnerParams, plan: SplitPlan, params: Params
) -> tuple[dict[RunKey, Split], list[str]]:
    """Return the runs of a learner with the images of each, and notes on the splits.

    A learner without labels has one run for each test set, at fraction 0: seed 0, and in
    cross-validation, where each seed tests another fold, one run for each seed.
    """
    seeds = own.seeds if own.seeds is not None else params.train.seeds
    splits: dict[RunKey, Split] = {}
    notes = list(plan.notes)
    for protocol, views in (own.views or params.train.views).items():
        if protocol not in plan.protocols:
            notes.append(f"protocol {protocol} is left out: the manifest does not allow it")
            continue
        drawn = [*product((protocol,), seeds, own.fractions or params.splits.fractions)]
        drawn += product(plan.few_shot(protocol), seeds, (1.0,))
        if not cls.needs_labels:
            of = seeds if protocol in CROSS_VALIDATED else (0,)
            drawn = [*product((protocol,), of, (0.0,))]
        for name, seed, fraction in drawn:
            split = plan.get(name, seed, fraction or 1.0)
            if not cls.needs_labels:
                split = Split(split.train[:0], split.val[:0], split.test)
            splits |= {(name, view, fraction, seed): split for view in views}
    return splits, notes


@dataclass(frozen=True)
class Features:
    """All images that some run names: their ids, sorted; samples with all views, where a row is
    NaN if an image has no such view; and by view the SHA-256 of each row."""

    ids: np.ndarray
    samples: Samples
    sums: dict[str, np.ndarray]

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows of some image ids, int64."""
        return np.searchsorted(self.ids, ids).astype(np.int64)

    def digest(self, ids: np.ndarray, views: tuple[str, ...]) -> str:
        """Return a digest of some images: of their ids, classes and features of some views."""
        rows = self.rows(ids)
        digest = hashlib.sha256("\0".join(ids).encode() + self.samples.y[rows].tobytes())
        for view in views:
            digest.update(self.sums[view][rows].tobytes())
        return digest.hexdigest()

    def seen(self, view: str, views: dict[str, str]) -> Samples:
        """Return the samples that a run on a view sees; `views` says how each is stored."""
        features = {name: self.samples.features[stored] for name, stored in views.items()}
        return replace(self.samples, view=view, features=features)


def read_features(
    paths: Paths,
    dataset: str,
    stores: Mapping[str, FeatureStore],
    manifest: pd.DataFrame,
    needed: Mapping[str, set[str]],
    scratch: Path | None = None,
) -> Features:
    """Read features, and refuse those that are not of today's images and masks.

    `stores` are those of `Variants.open`; `manifest` has the labels, and the SHA-256 of each image
    file as it is now; `needed` the ids of the images that need each view. With a folder `scratch`
    the features are `OnDisk` there.
    """
    ids = np.array(sorted(set().union(*needed.values())), dtype=object)
    of = manifest.set_index("image_id").loc[ids]
    gaps, store = {}, stores[""]
    for variant, one in stores.items():
        table, masks = one.table().reindex(ids), paths.masks(dataset, variant)
        # A user may have the features alone; where there are masks too, they must agree.
        other = runs.encoded_with_other_masks(one, open_masks(masks)) if exists(masks) else set()
        reasons = {
            "not encoded": table["status"].isna(),
            "failed in encode": table["status"] == "failed",
            "of older image bytes": table["sha256"] != of["sha256"],
            "of other masks than segment has made since": table.index.isin(other),
        }
        why = np.select(list(reasons.values()), list(reasons), "")
        gaps |= {ids[k]: why[k] for k in np.flatnonzero(why != "")}
    X, files = {}, {}
    for view in () if gaps else needed:
        files[view] = scratch and scratch / str(len(X))
        empty = partial(_mapped, files[view]) if scratch else np.empty
        name = view.partition("@")[0]
        X[view] = stores[variant_of(view)].image_features(name, ids, empty=empty)
    for view, x in X.items():  # all of a row is NaN, or nothing
        lacking = needed[view].intersection(ids[np.isnan(x[:, 0])])
        gaps |= dict.fromkeys(lacking, f"without view {view}")
    if gaps:
        shown = "; ".join(f"{image_id!r} is {gaps[image_id]}" for image_id in sorted(gaps)[:3])
        raise StoreError(
            f"features of {len(gaps)} image(s) cannot be used: {shown}",
            path=store.path,
            remedy="run: pipeline encode (it computes what is missing or outdated and retries what "
            "failed), or remove these images from the manifest",
        )
    classes = tuple(class_names(manifest))
    y = np.array([classes.index(label) for label in of["label"]], dtype=np.int64)
    text = np.ascontiguousarray(store.class_features(classes), dtype=np.float32)
    sums = {v: np.array([hashlib.sha256(r).digest() for r in x], "V32") for v, x in X.items()}
    if scratch:
        every = np.arange(len(ids))
        X = {view: OnDisk(files[view], x.shape[1], every) for view, x in X.items()}
    return Features(ids, Samples("", X, y, text, classes), sums)


def _mapped(file: Path, shape: tuple[int, int], dtype: Any) -> np.ndarray:
    """Return an array in a new file, memory-mapped."""
    with open(file, "wb") as new:
        os.posix_fallocate(new.fileno(), 0, math.prod(shape) * np.dtype(dtype).itemsize)
    return np.memmap(file, dtype, "r+", shape=shape)
