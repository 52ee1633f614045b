"""Tables of different trainings or evaluations are never drawn on one page.

Each stage replaces its files one by one, so that a kill, or `train` without `evaluate`, leaves some
of one run and some of another. `evaluate` and `train` say in each table of which run it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.evaluate.pairing import is_beside, tables
from pipeline.training.pairing import of_features, paired, trained

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.report.inputs import DatasetInputs

EVALUATE = "pipeline evaluate --dataset {}"


def drop_mixed(found: DatasetInputs) -> None:
    """List as missing, with the command that mends it, what is not of the last training there is or
    of the metrics beside it."""
    of_metrics, predicted = found.schemas.get("metrics"), found.schemas.get("predictions")
    if predicted is not None and (why := _older(found, predicted)):
        path = found.paths.predictions(found.name)
        found.drop("predictions", path, "pipeline train --dataset {}", why)
        predicted = None
    why = "without metrics.parquet, which says of which training it is"
    if of_metrics is not None:
        why = _older(found, of_metrics)
        if not why and predicted is not None and trained(predicted) != trained(of_metrics):
            why = "of other predictions than those there"
        if why:
            found.drop("metrics", found.paths.metrics_table(found.name), EVALUATE, why)
    for part, path in tables(found.name, found.paths).items():
        if getattr(found, part) is None:
            continue
        if of_metrics is not None and not is_beside(part, path, of_metrics):
            found.drop(part, path, EVALUATE, "of another evaluation than metrics.parquet")
        elif why and part != "mask_quality":  # which no training decides
            found.drop(part, path, EVALUATE, why)


def _older(found: DatasetInputs, schema: pa.Schema) -> str:
    """Say why a table is not of the runs and features that are there; "" where it is."""
    if found.runs is not None and not paired(found.runs, schema):
        return "of other runs than those of the last train"
    if found.features is not None and not of_features(schema, found.features.identity):
        return "of other features than encode has made since"
    return ""
