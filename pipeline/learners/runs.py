"""The run folder of a learner, cache/<dataset>/runs/<learner>/.

    runs.parquet           one row a run: numbers of images, what validation chose, status, error
    predictions.parquet    one row a run and test image: true and predicted class, probabilities
    fitted.safetensors     the fitted learners, by the digest of all that decided them

While `train` works, each finished fit is in `partial-<digest>.safetensors` of the same format. A
fit is never changed, so whatever a killed process leaves is the union of these files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from pipeline.errors import PipelineError
from pipeline.io import atomic_write
from pipeline.provenance import check, read_stamp, stamp, with_stamp

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.learners.base import Learner
    from pipeline.paths import Paths

RUN = ("protocol", "learner", "view", "fraction", "seed")
"""The columns of both tables that name a run, in the order that rows are sorted by."""


@dataclass(frozen=True)
class Fit:
    """A fitted learner.

    Attributes:
        digest: of all that decided it: code, parameters, images, seed.
        tensors: the fitted arrays.
        chosen: what the validation part decided, JSON.
        val_score: accuracy on the validation part, if any.
    """

    digest: str
    tensors: dict[str, np.ndarray]
    chosen: str
    val_score: float | None

    @classmethod
    def of(cls, learner: Learner, digest: str) -> Self:
        """Return the fit of a fitted learner.

        Raises:
            TypeError, ValueError: `chosen` or `val_score` are not JSON.
        """
        score = learner.val_score
        chosen = json.dumps(learner.chosen, sort_keys=True, allow_nan=False)
        return cls(digest, learner.tensors, chosen, None if score is None else float(score))

    def restore(self, learner: Learner) -> Learner:
        """Give an unfitted learner the arrays of this fit, and return it."""
        return learner.restore(self.tensors, json.loads(self.chosen))


def write_fits(path: Path, fits: Iterable[Fit], about: dict[str, Any] | None = None) -> None:
    """Write fits to one file.

    Args:
        path: the file.
        fits: a tensor's key in the file is `<digest>/<name>`.
        about: what all of them share (JSON): parameters, classes, identity of the features.

    Raises:
        DiskError: it cannot be written.
        Exception: what no file can hold, from safetensors.
    """
    from safetensors.numpy import save

    fits = list(fits)
    arrays = {
        f"{f.digest}/{name}": np.ascontiguousarray(a) for f in fits for name, a in f.tensors.items()
    }
    facts = {f.digest: {"chosen": f.chosen, "val_score": f.val_score} for f in fits}
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


@dataclass(frozen=True)
class Fitted:
    """The fitted learners of one run, one for each of `seeds`.

    Attributes:
        classes: class names, in the order of the columns of `predict_proba`.
        features: identity of the feature store that they were fitted on.
    """

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
    from pipeline.learners.registry import get_learner

    path, again = paths.run_table(dataset, learner), train_command(dataset, learner)
    with _reading(path, again):
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
    file = about["params"].get("file")
    cls = get_learner(learner, paths.root / file if file else None)
    params = cls.Parameters.model_validate(about["params"])
    learners = [fit.restore(cls(params, seed=seed)) for seed, fit in chosen.items()]
    return Fitted(learners, list(chosen), about["classes"], about["features"])


def write_tables(
    folder: Path,
    rows: list[dict[str, Any]],
    tested: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]],
    classes: Sequence[str],
    inputs: dict[str, str],
) -> None:
    """Write runs.parquet and predictions.parquet; both state the digests of their inputs.

    Args:
        folder: the run folder.
        rows: of runs.parquet.
        tested: of each row the test images: ids (n,), class numbers (n,), and probabilities
            (n, C), None where the run failed.
        classes: the C class names.
        inputs: digests of what the runs were made from.

    Raises:
        DiskError: a file cannot be written.
    """
    runs = pd.DataFrame(rows).astype({"val_score": "float64"})
    _write(folder / "runs.parquet", runs, inputs)
    none = ([], [], np.zeros((0, len(classes)), np.float32))
    parts = [
        pd.DataFrame(
            {
                **{column: row[column] for column in RUN},
                "image_id": np.asarray(ids, dtype=object),
                "y_true": pd.Categorical.from_codes(y, classes),
                "y_pred": pd.Categorical.from_codes(proba.argmax(axis=1), classes),
                **{f"p:{name}": proba[:, number] for number, name in enumerate(classes)},
            }
        )
        for row, (ids, y, proba) in zip([rows[0], *rows], [none, *tested], strict=True)
        if proba is not None
    ]
    coded = dict.fromkeys(("protocol", "learner", "view", "image_id"), "category")
    table = pd.concat(parts).astype(coded | {"fraction": "f4", "seed": "i2"})
    inputs = inputs | stamp(runs=folder / "runs.parquet")
    _write(folder / "predictions.parquet", table, inputs)


def _write(path: Path, table: pd.DataFrame, inputs: dict[str, str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_write(path) as partial:
        made = pa.Table.from_pandas(table, preserve_index=False)
        pq.write_table(with_stamp(made, inputs), partial, compression="zstd")


def read_predictions(
    paths: Paths, dataset: str, learners: Iterable[str]
) -> tuple[pd.DataFrame, pa.Table]:
    """Return runs.parquet and predictions.parquet of some learners, one below the other.

    Args:
        paths, dataset: the project and the dataset.
        learners: names, in the order that their rows are wanted in.

    Returns:
        The runs, and the predictions, whose rows lie in the order of the runs: each run that
        succeeded has `n_test` rows. The stamp (see `pipeline.provenance`) has the inputs of each
        learner by name.

    Raises:
        PipelineError: a learner was not trained, or its two tables are of different trainings.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    runs, tables, inputs = [], [], {}
    for learner in learners:
        path, again = paths.predictions(dataset, learner), train_command(dataset, learner)
        with _reading(path, again):
            runs.append(pd.read_parquet(paths.run_table(dataset, learner)))
            inputs[learner] = read_stamp(path) or {}
            tables.append(pq.read_table(path))
        check(inputs[learner], again, path, runs=paths.run_table(dataset, learner))
        if tables[-1].column_names != tables[0].column_names:
            raise PipelineError(
                "has other classes than the learners before", path=path, remedy=f"run: {again}"
            )
    together = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    return pd.concat(runs, ignore_index=True), with_stamp(together, inputs)


@contextmanager
def _reading(path: Path, again: str) -> Iterator[None]:
    """Turn the errors of a file that is missing or damaged into one with a remedy."""
    from pyarrow import ArrowException
    from safetensors import SafetensorError

    try:
        yield
    except FileNotFoundError as error:
        raise PipelineError(
            f"learner {path.parent.name!r} is not trained",
            path=error.filename or path,
            remedy=f"run: {again}",
        ) from None
    except (SafetensorError, ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise PipelineError(f"damaged: {error}", path=path, remedy=f"run: {again}") from None


def run_inputs(paths: Paths, dataset: str) -> dict[str, Any]:
    """Return the inputs of a dataset's runs as they are now, for `stamp` and `check`.

    The feature store is left out where there is none: predictions can be evaluated without it.
    """
    from pipeline.store import open_features

    inputs = {"manifest": paths.manifest(dataset), "audit": paths.audit(dataset)}
    if paths.features(dataset).is_dir():
        inputs["features"] = open_features(paths.features(dataset))
    return inputs


def train_command(dataset: str, learner: str) -> str:
    """Return the command that makes missing or outdated runs."""
    return f"pipeline train --dataset {dataset} --learner {learner}"
