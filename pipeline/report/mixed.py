"""Tables of different trainings, evaluations or labels are never drawn on one page.

Each stage replaces its files one by one, so that a kill, or `train` without `evaluate`, leaves some
of one run and some of another. `evaluate` and `train` say in each table of which run it is. Figures
of other labels than the manifest's, or of images that it lists no more, would stand below its
counts and classes as if they were of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.evaluate.evaluate import tables
from pipeline.provenance import changed, schema_stamp

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from pipeline.report.inputs import DatasetInputs

TRAIN = "pipeline train --dataset {}"
EVALUATE = "pipeline evaluate --dataset {}"
# No training decides these.
JUDGED = {
    "mask_quality": EVALUATE,
    "prompt_quality": "pipeline prompt-quality --dataset {}",
}


def drop_mixed(found: DatasetInputs) -> None:
    """List as missing, with the command that mends it, what is not of the last training there is,
    of the manifest's images and labels, or of the metrics beside it."""
    of_metrics, predicted = found.schemas.get("metrics"), found.schemas.get("predictions")
    other = _other_labels(found, found.tested, "y_true")
    if predicted is not None and (why := _older(found, predicted) or other):
        path = found.paths.run(found.name, "x").parent
        found.drop("predictions", path, TRAIN, why)
        predicted = None
    why = "without metrics.parquet, which says of which training it is"
    if of_metrics is not None:
        why = _older(found, of_metrics) or other
        runs = {
            f"predictions/{path.name}": path / "predictions.parquet"
            for path in found.paths.run(found.name, "x").parent.glob("*")
        }
        if not why and predicted is not None and changed(schema_stamp(of_metrics), **runs):
            why = "of other predictions than those there"
        if why:
            found.drop("metrics", found.paths.metrics_table(found.name), EVALUATE, why)
    for part, path in tables(found.paths, found.name).items():
        if getattr(found, part, None) is None:
            continue
        if of_metrics is not None and changed(schema_stamp(of_metrics), **{part: path}):
            found.drop(part, path, EVALUATE, "of another evaluation than metrics.parquet")
        elif why and part not in JUDGED:
            found.drop(part, path, EVALUATE, why)
    for part, command in JUDGED.items():
        if other := _other_labels(found, getattr(found, part), "label"):
            path = getattr(found.paths, part)(found.name)
            found.drop(part, path, command, other)


def _other_labels(found: DatasetInputs, table: pd.DataFrame | None, column: str) -> str:
    """Say what has changed in the manifest since a table of labelled images was made."""
    if table is None or found.manifest is None:
        return ""
    return relabelled(table.set_index("image_id")[column], found.manifest)


def relabelled(then: pd.Series, manifest: pd.DataFrame) -> str:
    """Say which images have another label in the manifest than `then`; "" if none has."""
    then = then[~then.index.duplicated()]
    now = manifest.set_index("image_id")["label"].reindex(then.index)
    ids = then.index[now != then]
    if not len(ids):
        return ""
    return (
        f"{len(ids)} image(s) have another label in the manifest, or are gone from it, for "
        f"example {', '.join(ids[:3])}"
    )


def _older(found: DatasetInputs, schema: pa.Schema) -> str:
    """Say why a table is not of the runs and features that are there; "" where it is."""
    if found.features is not None:
        now = found.features.identity_hash
        stamps = schema_stamp(schema) or {}
        of = [one for one in stamps.values() if isinstance(one, dict)] or [stamps]
        if any(one.get("features", now) != now for one in of):
            return "of other features than encode has made since"
    return ""
