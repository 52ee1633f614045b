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
    runs = pd.DataFrame([{name: getattr(fit, name) for name in RUN_COLUMNS} for fit in fits])
    _write(folder / "runs.parquet", runs.astype({"val_score": "float64"}), inputs)
    parts = [_predictions(fit, classes, *test[fit.digest]) for fit in fits if fit.proba is not None]
    table = pd.concat(parts) if parts else _predictions(fits[0], classes, [], [])
    coded = ("protocol", "learner", "view", "image_id")
    table = table.astype(dict.fromkeys(coded, "category") | {"fraction": "f4", "seed": "i2"})
    inputs = inputs | stamp(runs=folder / "runs.parquet")
    _write(folder / "predictions.parquet", table, inputs)


def _predictions(
    fit: Fit, classes: Sequence[str], ids: Sequence[str], y: Sequence[int]
) -> pd.DataFrame:
    proba = np.zeros((0, len(classes)), np.float32) if fit.proba is None else fit.proba
    return pd.DataFrame(
        {
            **{name: getattr(fit, name) for name in RUN_COLUMNS[:5]},
            "image_id": np.asarray(ids, dtype=object),
            "y_true": pd.Categorical.from_codes(y, classes),
            "y_pred": pd.Categorical.from_codes(proba.argmax(axis=1), classes),
            **{f"p:{name}": proba[:, number] for number, name in enumerate(classes)},
        }
    )


def _write(path: Path, table: pd.DataFrame, inputs: dict[str, str]) -> None:
    """Write a table; its schema states the inputs."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_write(path) as partial:
        made = pa.Table.from_pandas(table, preserve_index=False)
        pq.write_table(with_stamp(made, inputs), partial, compression="zstd")


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
    together = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
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
