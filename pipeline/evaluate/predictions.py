"""predictions.parquet and runs.parquet, cut into runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.errors import PipelineError
from pipeline.learners.runs import read_predictions
from pipeline.provenance import KEY, schema_stamp
from pipeline.stores import open_features

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pipeline.paths import Paths


@dataclass(frozen=True)
class Predicted:
    """One seed's test images (n,), true classes (n,) and probabilities (n, C)."""

    ids: np.ndarray
    y: np.ndarray
    proba: np.ndarray

    def keep(self, ids: set[str] | None) -> Predicted:
        """Return the part on some images; None keeps all."""
        if ids is None:
            return self
        kept = np.fromiter((i in ids for i in self.ids), dtype=bool, count=len(self.ids))
        return Predicted(self.ids[kept], self.y[kept], self.proba[kept])


@dataclass(frozen=True)
class Run:
    """One head on one view at one fraction: its seeds, fitted or not.

    Attributes:
        protocol, head, view, fraction: which one.
        seeds: Predicted by seed; only fits that succeeded.
        labels: train + validation images by seed.
        failed: "status: error" by seed, of the fits that did not.
    """

    protocol: str
    head: str
    view: str
    fraction: float
    seeds: dict[int, Predicted]
    labels: dict[int, int]
    failed: dict[int, str]

    @property
    def key(self) -> tuple[str, str, float]:
        return self.head, self.view, self.fraction


def read_runs(
    dataset: str, paths: Paths, manifest: pd.DataFrame, learners: Iterable[str]
) -> tuple[list[Run], list[str], dict[bytes, bytes]]:
    """Return all runs that have test images, in the order of runs.parquet, the class names, and
    the stamp of their training as schema metadata (`pipeline.provenance`).

    Raises:
        PipelineError: nothing was trained, no protocol has a test image, the tables of a learner
            do not belong together, or images, labels or features have changed since.
    """
    again = f"run: pipeline train --dataset {dataset}"
    runs, table = read_predictions(paths, dataset, learners)
    metadata = table.schema.metadata
    runs = runs.rename(columns={"learner": "head"})
    table = table.rename_columns(["head" if c == "learner" else c for c in table.column_names])
    table = table.replace_schema_metadata(metadata)
    features = paths.features(dataset)
    if features.is_dir():
        now = open_features(features).identity_hash
        for learner, inputs in schema_stamp(table.schema).items():
            if inputs.get("features") != now:
                raise PipelineError(
                    "holds predictions of other features than encode has made since",
                    path=paths.predictions(dataset, learner),
                    remedy=again,
                )
    folder = paths.run(dataset, "x").parent
    runs = runs[runs["n_test"] > 0]
    if not len(runs):
        raise PipelineError(
            "no protocol has a test image, so there is nothing to evaluate",
            path=paths.manifest(dataset),
            remedy="give it images whose split is test, or set splits.on_leak: regroup in "
            "params.yaml and train again",
        )
    names = [c for c in table.column_names if c.startswith("p:")]
    classes = [c[2:] for c in names]
    proba = np.column_stack([table[c].to_numpy() for c in names])
    ids = table["image_id"].to_pandas().astype(str).to_numpy(dtype=object)
    number = {name: n for n, name in enumerate(classes)}
    y = table["y_true"].to_pandas().astype(str).map(number).to_numpy(dtype=np.int64)
    _refuse_relabelled(pd.Series(y, index=ids), classes, manifest, folder, again)
    places = _places(table)
    found: list[Run] = []
    for key, rows in runs.groupby(["protocol", "head", "view", "fraction"], sort=False):
        seeds: dict[int, Predicted] = {}
        failed: dict[int, str] = {}
        for row in rows.itertuples():
            if row.status != "ok":
                failed[row.seed] = f"{row.status}: {row.error}"
                continue
            here = places.get((*key[:3], float(np.float32(key[3])), row.seed))
            if here is None or here.stop - here.start != row.n_test:
                raise PipelineError(
                    f"does not hold the {row.n_test} predictions of {key} seed {row.seed}",
                    path=folder,
                    remedy=again,
                )
            seeds[row.seed] = Predicted(ids[here], y[here], proba[here])
        labels = {row.seed: row.n_train + row.n_val for row in rows.itertuples()}
        found.append(Run(*key, seeds, labels, failed))
    return found, classes, {KEY.encode(): table.schema.metadata[KEY.encode()]}


def _refuse_relabelled(
    y: pd.Series, classes: list[str], manifest: pd.DataFrame, path: Path, again: str
) -> None:
    """Raise PipelineError when the manifest has another label, or none, for an image of `y`."""
    then = y[~y.index.duplicated()].map(dict(enumerate(classes)))
    if changed := relabelled(then, manifest):
        raise PipelineError(changed, path=path, remedy=again)


def relabelled(then: pd.Series, manifest: pd.DataFrame) -> str:
    """Say which images have another label in the manifest than they had, or none; "" if none has.

    Args:
        then: the label by image_id; an image may come more than once, with the same label.
        manifest: of `read_manifest`.
    """
    then = then[~then.index.duplicated()]
    now = manifest.set_index("image_id")["label"].reindex(then.index)
    changed = then.index[now != then]
    if not len(changed):
        return ""
    return (
        f"{len(changed)} image(s) have another label in the manifest, or are gone from it, for "
        f"example {', '.join(changed[:3])}"
    )


def _places(table) -> dict[tuple, slice]:
    """Return where each (protocol, head, view, fraction, seed) lies; its rows lie together."""
    if not len(table):
        return {}
    columns = ["protocol", "head", "view", "fraction", "seed"]
    frame = table.select(columns).to_pandas()
    codes = [pd.factorize(frame[c])[0] for c in columns]
    new = np.zeros(len(frame), dtype=bool)
    new[0] = True
    for code in codes:
        new[1:] |= code[1:] != code[:-1]
    starts = np.flatnonzero(new)
    stops = [*starts[1:], len(frame)]
    first = frame.iloc[starts]
    return {
        (r.protocol, r.head, r.view, float(r.fraction), int(r.seed)): slice(a, b)
        for r, a, b in zip(first.itertuples(), starts, stops, strict=True)
    }
