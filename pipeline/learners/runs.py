"""The folder of a learner's runs, cache/<dataset>/runs/<learner>/, and its readers.

    fitted.safetensors     every fit: fitted arrays, predictions and what decided them
    runs.parquet           one row a fit: numbers of images, what validation chose, status, error
    predictions.parquet    one row a fit and test image: true and predicted class, probabilities

`fitted.safetensors` is the only file that training reads back; the tables are made from it. While
`train` works, fits that are finished lie in `partial-<digest>.safetensors` of the same format. A
fit is identified by its digest and never changed, so whatever a killed process leaves is the
union of these files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.errors import PipelineError
from pipeline.io import atomic_write
from pipeline.learners.fitting import Fit
from pipeline.provenance import check, read_stamp, stamp, with_stamp

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.learners.base import Learner
    from pipeline.paths import Paths

FORMAT = 1
RUN_COLUMNS = (
    "protocol",
    "learner",
    "view",
    "fraction",
    "seed",
    "n_train",
    "n_val",
    "n_test",
    "chosen",
    "val_score",
    "status",
    "error",
    "digest",
)
"""Of runs.parquet."""

_FACTS = [f.name for f in fields(Fit) if f.name not in ("proba", "tensors")]


def write_fits(path: Path, fits: Sequence[Fit], about: dict[str, Any]) -> None:
    """Write successful fits to one safetensors file.

    Args:
        path: the file; replaced atomically.
        fits: what it holds. A tensor's key is `<number>/<name>`, `<number>/` the predictions.
        about: what all fits share (JSON): parameters, classes, identity of the features.
    """
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {}
    for number, fit in enumerate(fits):
        for name, array in {"": fit.proba, **fit.tensors}.items():
            arrays[f"{number}/{name}"] = np.ascontiguousarray(array)
    facts = [{name: getattr(fit, name) for name in _FACTS} for fit in fits]
    header = json.dumps({"format": FORMAT, **about, "fits": facts}, sort_keys=True)
    with atomic_write(path) as partial:
        # Not save_file: its error hides what the operating system said.
        partial.write_bytes(save(arrays, metadata={"pipeline": header}))


def write_partial(folder: Path, fits: Sequence[Fit], about: dict[str, Any]) -> None:
    """Save finished fits until `write_run`; failed ones are not kept."""
    good = [fit for fit in fits if fit.status == "ok"]
    if good:
        name = hashlib.sha256("".join(fit.digest for fit in good).encode()).hexdigest()
        write_fits(folder / f"partial-{name[:16]}.safetensors", good, about)


def read_fits(folder: Path) -> Iterator[Fit]:
    """Yield the fits of all files of a run folder; unreadable files are left out."""
    from safetensors import SafetensorError

    for path in sorted(folder.glob("*.safetensors")):
        try:
            yield from _read_file(path)[1]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            continue


def _read_file(path: Path, keys: set[tuple] | None = None) -> tuple[dict[str, Any], list[Fit]]:
    """Return the shared facts and the fits of a file, or those with some `Fit.key` only."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["pipeline"])
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']!r} is not {FORMAT}")
        names: dict[str, list[str]] = {}
        for key in file.keys():  # noqa: SIM118 - not a dictionary
            number, _, name = key.partition("/")
            names.setdefault(number, []).append(name)
        found = []
        for number, facts in enumerate(about.pop("fits")):
            fit = Fit(**facts)
            if keys is None or fit.key in keys:
                for name in names[str(number)]:
                    fit.tensors[name] = file.get_tensor(f"{number}/{name}")
                fit.proba = fit.tensors.pop("")
                found.append(fit)
    return about, found


def write_run(
    folder: Path,
    fits: list[Fit],
    about: dict[str, Any],
    test: dict[str, tuple[np.ndarray, np.ndarray]],
    inputs: dict[str, str],
) -> None:
    """Write the three files of a run folder, and remove the partial ones.

    Args:
        folder: the run folder.
        fits: all fits, failed ones included.
        about: see `write_fits`; "classes" gives the class names.
        test: ids and class numbers of the test images, by `Fit.digest`.
        inputs: digests of what the run was made from, stated by both tables.

    Raises:
        DiskError: a file cannot be written.
    """
    fits = sorted(fits, key=lambda fit: fit.key)
    good = [fit for fit in fits if fit.status == "ok"]
    write_fits(folder / "fitted.safetensors", good, about)
    for path in folder.glob("partial-*.safetensors"):
        path.unlink(missing_ok=True)
    runs = pd.DataFrame([{c: getattr(fit, c) for c in RUN_COLUMNS} for fit in fits])
    runs["val_score"] = runs["val_score"].astype("float64")
    _write_table(folder / "runs.parquet", [_arrow(runs)], inputs)
    inputs = inputs | stamp(runs=folder / "runs.parquet")
    blocks: dict[tuple, list[Fit]] = {}
    for fit in good:
        blocks.setdefault((fit.protocol, fit.view), []).append(fit)
    # One row group for each protocol and view, so that a filter reads only those.
    tables = [_predictions(block, test, about["classes"]) for block in [[], *blocks.values()]]
    _write_table(folder / "predictions.parquet", tables, inputs)


def _arrow(table: pd.DataFrame) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)


def _predictions(
    fits: list[Fit], test: dict[str, tuple[np.ndarray, np.ndarray]], classes: list[str]
) -> pa.Table:
    import pyarrow as pa

    sizes = [len(fit.proba) for fit in fits]
    empty = np.zeros((0, len(classes)), np.float32)
    proba = np.concatenate([empty, *(fit.proba for fit in fits)])

    def text(values: Iterable[str]) -> pa.Array:
        return pa.array(list(values), pa.string()).dictionary_encode()

    def repeated(name: str, dtype: type) -> np.ndarray:
        return np.repeat(np.array([getattr(fit, name) for fit in fits], dtype=dtype), sizes)

    def labels(codes: np.ndarray) -> pa.Array:
        return pa.DictionaryArray.from_arrays(
            codes.astype(np.int32), pa.array(classes, pa.string())
        )

    columns = {name: text(repeated(name, object)) for name in ("protocol", "learner", "view")}
    columns["fraction"] = pa.array(repeated("fraction", np.float32))
    columns["seed"] = pa.array(repeated("seed", np.int16))
    columns["image_id"] = text(image_id for fit in fits for image_id in test[fit.digest][0])
    true = [test[fit.digest][1] for fit in fits]
    columns["y_true"] = labels(np.concatenate([np.zeros(0, np.int64), *true]))
    columns["y_pred"] = labels(proba.argmax(axis=1))
    for number, name in enumerate(classes):
        columns[f"p:{name}"] = pa.array(np.ascontiguousarray(proba[:, number]))
    return pa.table(columns)


def _write_table(path: Path, tables: list[pa.Table], inputs: dict[str, str]) -> None:
    """Write tables as row groups of one Parquet file; the schema states the inputs."""
    import pyarrow.parquet as pq

    schema = with_stamp(tables[0], inputs).schema
    with atomic_write(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as w:
        for table in tables:
            if len(table):
                w.write_table(table)


def read_predictions(
    paths: Paths,
    dataset: str,
    learners: Iterable[str],
    *,
    columns: list[str] | None = None,
    filters: list[tuple] | None = None,
) -> tuple[pd.DataFrame, pa.Table]:
    """Return runs.parquet and predictions.parquet of some learners, one below the other.

    Args:
        paths: of the project.
        dataset: its name.
        learners: names, in the order that their rows are wanted in.
        columns, filters: of the predictions, as `pyarrow.parquet.read_table` takes them.

    Returns:
        The runs, and the predictions, whose rows lie in the order of the runs: each run that
        succeeded has `n_test` rows, unless they are filtered. The stamp (see
        `pipeline.provenance`) has the inputs of each learner by name.

    Raises:
        PipelineError: a learner was not trained, or its two tables are of different trainings.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    runs, tables, inputs = [], [], {}
    for learner in learners:
        path, again = paths.predictions(dataset, learner), train_command(dataset, learner)
        try:
            runs.append(pd.read_parquet(paths.run_table(dataset, learner)))
            inputs[learner] = read_stamp(path) or {}
            table = pq.read_table(path, columns=columns, filters=filters)
        except FileNotFoundError as error:
            raise PipelineError(
                f"no predictions of learner {learner!r}",
                path=error.filename,
                remedy=f"run: {again}",
            ) from None
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise PipelineError(f"damaged: {error}", path=path, remedy=f"run: {again}") from None
        check(inputs[learner], again, path, runs=paths.run_table(dataset, learner))
        if tables and table.column_names != tables[0].column_names:
            raise PipelineError(
                "has other classes than the learners before", path=path, remedy=f"run: {again}"
            )
        tables.append(table)
    together = pa.concat_tables(tables).unify_dictionaries()
    return pd.concat(runs, ignore_index=True), with_stamp(together, inputs)


def run_inputs(paths: Paths, dataset: str) -> dict[str, Any]:
    """Return the inputs of a dataset's runs as they are now, for `stamp` and `check`.

    The feature store is left out where there is none: predictions can be evaluated without it.
    """
    from pipeline.stores import open_features

    inputs = {"manifest": paths.manifest(dataset), "audit": paths.audit(dataset)}
    if paths.features(dataset).is_dir():
        inputs["features"] = open_features(paths.features(dataset)).identity_hash
    return inputs


def train_command(dataset: str, learner: str) -> str:
    """Return the command that makes missing or outdated runs."""
    return f"pipeline train --dataset {dataset} --learner {learner}"


@dataclass(frozen=True)
class Fitted:
    """The fitted learners of one run, one for each seed.

    Attributes:
        learners: in the order of `seeds`.
        seeds: ascending.
        fraction: share of the training labels that they were fitted on.
        classes: class names, in the order of the columns of `predict_proba`.
        features: identity of the feature store that they were fitted on.
    """

    learners: list[Learner]
    seeds: list[int]
    fraction: float
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
        paths: of the project.
        dataset: its name.
        learner: its name.
        view, protocol: the run.
        fraction: share of the training labels; None: the largest one there is.

    Raises:
        PipelineError: nothing was fitted for this run; the message lists what there is.
    """
    from safetensors import SafetensorError

    from pipeline.learners.registry import get_learner

    path, again = (
        paths.run(dataset, learner) / "fitted.safetensors",
        train_command(dataset, learner),
    )
    if not path.is_file():
        trained = sorted(file.parent.name for file in path.parent.parent.glob(f"*/{path.name}"))
        remedy = f"run: {again}" + (f"; trained are {', '.join(trained)}" if trained else "")
        raise PipelineError(f"learner {learner!r} is not trained", path=path, remedy=remedy)
    try:
        about, fits = _read_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise PipelineError(f"damaged: {error}", path=path, remedy=f"run: {again}") from None
    mine = [fit for fit in fits if (fit.protocol, fit.view) == (protocol, view)]
    if fraction is None and mine:
        fraction = max(fit.fraction for fit in mine)
    chosen = [fit for fit in mine if fit.fraction == fraction]
    if not chosen:
        there = {f"{fit.protocol}/{fit.view}/{fit.fraction:g}" for fit in fits}
        raise PipelineError(
            f"learner {learner} was not fitted on {protocol}/{view}/{fraction or '...'}",
            path=path,
            remedy=f"choose one of {', '.join(sorted(there)) or 'none'}",
        )
    file = about["params"].get("file")
    cls = get_learner(learner, paths.root / file if file else None)
    params = cls.Parameters.model_validate(about["params"])
    learners = [
        cls(params, seed=fit.seed).restore(fit.tensors, json.loads(fit.chosen)) for fit in chosen
    ]
    seeds = [fit.seed for fit in chosen]
    return Fitted(learners, seeds, fraction, about["classes"], about["features"])
