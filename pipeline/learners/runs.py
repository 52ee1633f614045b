"""One fit and one prediction, and the run folder of a learner, cache/<dataset>/runs/<learner>/.

    runs.parquet           one row per run: numbers of images, what validation chose, status, error
    predictions.parquet    one row per run and test image: true and predicted class, probabilities
    fitted.safetensors     the fitted learners, by the digest of all that decided them

While `train` works, each finished fit is in `partial-<digest>.safetensors` of the same format. A
fit is never changed, so whatever a killed process leaves is the union of these files.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from pipeline.config import Params
from pipeline.errors import DiskError, PipelineError
from pipeline.io import atomic_write
from pipeline.learners.base import (
    DivergedError,
    Learner,
    Samples,
    check_finite,
    find_learner,
    load_file,
)
from pipeline.learners.joint import fit_joined, predict_joined
from pipeline.paths import Paths
from pipeline.provenance import check, read_stamp, stamp, with_stamp
from pipeline.store import FeatureStore, MaskStore, open_features
from pipeline.store.layout import GOOD

RUN = ("protocol", "learner", "view", "fraction", "seed")
"""The columns of both tables that name a run, in the order that rows are sorted by."""


@dataclass(frozen=True)
class Fit:
    """A fitted learner: a digest of all that decided it (code, parameters, images, seed), its
    arrays, what the validation part decided (JSON), the accuracy there, if any, and the CPU
    seconds it took, where they are known."""

    digest: str
    tensors: dict[str, np.ndarray]
    chosen: str
    val_score: float | None
    seconds: float | None = None

    def restore(self, learner: Learner) -> Learner:
        """Give an unfitted learner the arrays of this fit, and return it; its predictions are the
        same bits as those of the learner that was saved."""
        vars(learner).update(self.tensors)
        learner.chosen = json.loads(self.chosen)
        return learner


def write_fits(path: Path, fits: Iterable[Fit], about: dict[str, Any] | None = None) -> None:
    """Write fits to one file; a tensor's key in it is `<digest>/<name>`. `about` is what all share
    (JSON). Raises DiskError, or an error of safetensors for what no file can hold."""
    from safetensors.numpy import save

    arrays, facts = {}, {}
    for fit in fits:
        facts[fit.digest] = {"chosen": fit.chosen, "val_score": fit.val_score}
        if fit.seconds is not None:
            facts[fit.digest]["seconds"] = fit.seconds
        for name, array in fit.tensors.items():
            arrays[f"{fit.digest}/{name}"] = np.ascontiguousarray(array)
    header = json.dumps({"about": about, "fits": facts}, sort_keys=True)
    data = save(arrays, metadata={"pipeline": header})
    with atomic_write(path) as partial:
        partial.write_bytes(data)


def stored_fits(folder: Path) -> dict[str, Fit]:
    """Return the fits of all files of a run folder by digest; damaged files are left out."""
    found: dict[str, Fit] = {}
    for path in folder.glob("*.safetensors"):
        with suppress(PipelineError), _reading(path, ""):
            found |= _read_fits(path)[1]
    return found


def _read_fits(path: Path) -> tuple[dict[str, Any], dict[str, Fit]]:
    """Return what all fits of a file share, and the fits by digest."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["pipeline"])
        arrays: dict[str, dict[str, np.ndarray]] = {digest: {} for digest in header["fits"]}
        for key in file.keys():  # noqa: SIM118 - not a dictionary
            digest, _, name = key.partition("/")
            arrays[digest][name] = file.get_tensor(key)
    return header["about"], {d: Fit(d, arrays[d], **f) for d, f in header["fits"].items()}


class Failure(NamedTuple):
    """Why there is no fit or no prediction: status "failed" or "diverged", and the error."""

    status: str
    error: str

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Return an error of a learner as its row in runs.parquet shows it."""
        diverged = isinstance(error, DivergedError)
        text = str(error) if diverged else f"{type(error).__name__}: {error}"
        text = text.encode(errors="replace").decode()  # no file can hold half a surrogate pair
        return cls("diverged" if diverged else "failed", text)


def run_fit(
    learner: Learner, digest: str, folder: Path, samples: Samples, *parts: np.ndarray
) -> Fit | Failure:
    """Fit a learner on some rows of the samples, with others for validation.

    The fit is written to the run folder at once, as a file of its own; a DiskError is raised.
    """
    clock = time.process_time()
    try:
        with single_thread():
            learner = fit_joined(learner, *(samples.take(rows, labelled=True) for rows in parts))
        score = None if learner.val_score is None else float(learner.val_score)
        chosen = json.dumps(learner.chosen, sort_keys=True, allow_nan=False)
        fit = Fit(digest, learner.tensors, chosen, score, time.process_time() - clock)
        write_fits(folder / f"partial-{digest[:16]}.safetensors", [fit])
        return fit
    except DiskError:
        raise
    except Exception as error:
        return Failure.of(error)


def run_predict(learner: Learner, samples: Samples, rows: np.ndarray) -> np.ndarray | Failure:
    """Return the probabilities of some images, float32 (n, C); the learner sees no label."""
    test, shape = samples.take(rows, labelled=False), (len(rows), len(samples.text))
    try:
        proba = np.zeros(shape, np.float32)
        if len(test):  # scikit-learn refuses to predict no rows
            proba = np.asarray(predict_joined(learner, test), dtype=np.float32)
        if proba.shape != shape:
            raise ValueError(f"predict_proba returned shape {proba.shape}, not {shape}")
        check_finite("a predicted probability", proba)
        return proba
    except Exception as error:
        return Failure.of(error)


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


class Fitted(NamedTuple):
    """The fitted learners of one run, one for each of `seeds`; `classes` in the order of the
    columns of `predict_proba`; the identity of the feature store they were fitted on."""

    learners: list[Learner]
    seeds: list[int]
    classes: list[str]
    features: dict[str, Any]


def load_fitted(
    paths: Paths,
    dataset: str,
    learner: str,
    *,
    view: str,
    protocol: str = "official",
    fraction: float | None = None,
) -> Fitted:
    """Load the fitted learners of a run.

    Args:
        paths, dataset: the project and the dataset.
        learner, view, protocol: the run.
        fraction: share of the training labels; None: the largest one there is.

    Raises:
        PipelineError: nothing was fitted for this run; the message lists what there is.
    """
    path = paths.run_table(dataset, learner)
    with _reading(path, train_command(dataset, learner)):
        runs = pd.read_parquet(path).query("status == 'ok'")
        about, fits = _read_fits(path.with_name("fitted.safetensors"))
        mine = runs[(runs["protocol"] == protocol) & (runs["view"] == view)]
        mine = mine[mine["fraction"] == (mine["fraction"].max() if fraction is None else fraction)]
        chosen = {row.seed: fits[row.digest] for row in mine.sort_values("seed").itertuples()}
    if not chosen:
        there = {f"{r.protocol}/{r.view}/{r.fraction:g}" for r in runs.itertuples()}
        raise PipelineError(
            f"learner {learner} was not fitted on {protocol}/{view}/{fraction or '...'}",
            path=path,
            remedy=f"choose one of {', '.join(sorted(there)) or 'none'}",
        )
    cls, params = find_learner(learner, about["params"], paths.root)
    learners = [fit.restore(cls(params, seed=seed)) for seed, fit in chosen.items()]
    return Fitted(learners, list(chosen), about["classes"], about["features"])


def write_tables(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    tested: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]],
    classes: Sequence[str],
    inputs: dict[str, str],
) -> None:
    """Write runs.parquet and predictions.parquet; both state the digests of their inputs.

    `tested` has for each of the rows the ids (n,), class numbers (n,) and probabilities (n, C) of
    the test images, None where the run failed.
    """
    runs = pd.DataFrame(rows).astype({"val_score": "float64"})
    write_table(folder / "runs.parquet", runs, inputs, "zstd")
    none = (np.zeros(0, object), np.zeros(0, int), np.zeros((0, len(classes)), np.float32))
    kept = [(row, of) for row, of in zip(rows, tested, strict=True) if of[2] is not None]
    parts = zip(none, *(of for _, of in kept), strict=True)
    ids, y, proba = map(np.concatenate, parts)
    times = [len(of[0]) for _, of in kept]
    columns = {
        name: pd.Categorical([row[name] for row, _ in kept]).repeat(times) for name in RUN
    } | {
        "image_id": pd.Categorical(ids),
        "y_true": pd.Categorical.from_codes(y, classes),
        "y_pred": pd.Categorical.from_codes(proba.argmax(axis=1), classes),
        **{f"p:{name}": proba[:, number] for number, name in enumerate(classes)},
    }
    table = pd.DataFrame(columns).astype({"fraction": "f4", "seed": "i2"})
    inputs = inputs | stamp(runs=folder / "runs.parquet")
    write_table(folder / "predictions.parquet", table, inputs, "zstd")


def write_table(path: Path, table: pd.DataFrame, inputs: dict[str, str], compression: str) -> None:
    """Write a Parquet file that states the digests of its inputs."""
    with atomic_write(path) as partial:
        made = pa.Table.from_pandas(table, preserve_index=False)
        pq.write_table(with_stamp(made, inputs), partial, compression=compression)


def read_predictions(
    paths: Paths, dataset: str, learners: Iterable[str]
) -> tuple[pd.DataFrame, pa.Table]:
    """Return runs.parquet and predictions.parquet of some learners, one below the other, in order.

    The rows of the predictions lie in the order of the runs: each run that succeeded has `n_test`
    rows. The stamp (see `pipeline.provenance`) has the inputs of each learner by name.

    Raises:
        PipelineError: a learner was not trained, or its two tables are of different trainings.
    """
    runs, tables, inputs = [], [], {}
    for learner in learners:
        path, again = paths.predictions(dataset, learner), train_command(dataset, learner)
        with _reading(path, again):
            runs.append(pd.read_parquet(paths.run_table(dataset, learner)))
            inputs[learner] = read_stamp(path) or {}
            tables.append(pq.read_table(path))
        check(inputs[learner], again, path, runs=paths.run_table(dataset, learner))
    together = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    return pd.concat(runs, ignore_index=True), with_stamp(together, inputs)


def read_runs_table(paths: Paths, dataset: str, learner: str) -> pd.DataFrame:
    """Return runs.parquet of a learner; PipelineError if it was not trained."""
    path = paths.run_table(dataset, learner)
    with _reading(path, train_command(dataset, learner)):
        return pd.read_parquet(path)


def fit_seconds(path: Path) -> dict[str, float]:
    """Return the seconds of each fit of a learner by digest, as `train` has measured them; none
    where the file is missing or damaged."""
    with suppress(OSError, ValueError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {}


@contextmanager
def _reading(path: Path, again: str) -> Iterator[None]:
    """Turn the errors of a file that is missing or damaged into one with a remedy."""
    from pyarrow import ArrowException
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        message, remedy = f"missing or damaged: {error}", f"run: {again}"
        raise PipelineError(message, path=path, remedy=remedy) from None


def run_inputs(paths: Paths, dataset: str) -> dict[str, Any]:
    """Return the inputs of a dataset's runs as they are now, for `stamp` and `check`.

    The feature store is left out where there is none: predictions can be evaluated without it.
    """
    features, manifest = paths.features(dataset), paths.manifest(dataset)
    inputs = {"manifest": manifest, "audit": paths.audit(dataset)}
    return inputs | ({"features": open_features(features)} if features.is_dir() else {})


def encoded_with_other_masks(features: FeatureStore, masks: MaskStore) -> set[str]:
    """Return the ids of images whose features were made with another mask than the present one.

    Left out are images that have no mask now, because segment failed, and rows from before
    features knew their mask.
    """
    now, then = masks.table(), features.table()
    now = now.loc[now["status"].isin(GOOD), "crc"]
    then = then.loc[then["status"].isin(GOOD) & (then["mask_crc"] >= 0), "mask_crc"]
    both = then.index.intersection(now.index)
    return set(both[(then[both] != now[both]).to_numpy()])


def usable_learners(params: Params, paths: Paths, store: FeatureStore | None) -> list[str]:
    """Return the learners of params.yaml that can be fitted on these features: without class texts
    only those that need none."""
    if store is None or store.has_text:
        return list(params.learners)
    found = ((n, find_learner(n, of, paths.root)[0]) for n, of in params.learners.items())
    return [name for name, cls in found if not cls.needs_text]


def train_command(dataset: str, learner: str) -> str:
    """Return the command that makes missing or outdated runs."""
    return f"pipeline train --dataset {dataset} --learner {learner}"
