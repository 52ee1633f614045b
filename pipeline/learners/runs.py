"""The tables of a learner's run folder, cache/<dataset>/runs/<learner>/.

    runs.parquet           one row a fit: numbers of images, what validation chose, status, error
    predictions.parquet    one row a fit and test image: true and predicted class, probabilities

Both are made from the fits (see `pipeline.learners.fits`), and state what these were made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.errors import PipelineError
from pipeline.io import atomic_write
from pipeline.provenance import check, read_stamp, stamp, with_stamp

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.learners.fits import Fit
    from pipeline.paths import Paths

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


def write_tables(
    folder: Path,
    fits: list[Fit],
    classes: Sequence[str],
    test: dict[str, tuple[np.ndarray, np.ndarray]],
    inputs: dict[str, str],
) -> None:
    """Write runs.parquet and predictions.parquet.

    Args:
        folder: the run folder.
        fits: all fits, failed ones included.
        classes: class names.
        test: ids and class numbers of the test images, by `Fit.digest`.
        inputs: digests of what the run was made from, stated by both tables.

    Raises:
        DiskError: a file cannot be written.
    """
    fits = sorted(fits, key=lambda fit: fit.key)
    good = [fit for fit in fits if fit.status == "ok"]
    runs = pd.DataFrame([{c: getattr(fit, c) for c in RUN_COLUMNS} for fit in fits])
    runs["val_score"] = runs["val_score"].astype("float64")
    _write_table(folder / "runs.parquet", [_arrow(runs)], inputs)
    inputs = inputs | stamp(runs=folder / "runs.parquet")
    blocks: dict[tuple, list[Fit]] = {}
    for fit in good:
        blocks.setdefault((fit.protocol, fit.view), []).append(fit)
    # One row group for each protocol and view, so that a filter reads only those.
    tables = [_predictions(block, test, classes) for block in [[], *blocks.values()]]
    _write_table(folder / "predictions.parquet", tables, inputs)


def _arrow(table: pd.DataFrame) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)


def _predictions(
    fits: list[Fit], test: dict[str, tuple[np.ndarray, np.ndarray]], classes: Sequence[str]
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
    from pipeline.store import open_features

    inputs = {"manifest": paths.manifest(dataset), "audit": paths.audit(dataset)}
    if paths.features(dataset).is_dir():
        inputs["features"] = open_features(paths.features(dataset))
    return inputs


def train_command(dataset: str, learner: str) -> str:
    """Return the command that makes missing or outdated runs."""
    return f"pipeline train --dataset {dataset} --learner {learner}"
