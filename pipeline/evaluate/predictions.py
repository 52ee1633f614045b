"""Stored predictions, one `Run` per protocol, learner, view and fraction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.errors import PipelineError
from pipeline.learners.runs import read_predictions, train_command
from pipeline.provenance import KEY, check, schema_stamp
from pipeline.stores import open_features

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.config import Params
    from pipeline.paths import Paths


@dataclass(frozen=True)
class Predicted:
    """The test images of one seed: ids (n,), true classes (n,), probabilities (n, C)."""

    ids: np.ndarray
    y: np.ndarray
    proba: np.ndarray

    def take(self, index: np.ndarray) -> Predicted:
        """Return some of the images, by a mask or by indices."""
        return Predicted(self.ids[index], self.y[index], self.proba[index])


@dataclass(frozen=True)
class Run:
    """One learner on one view at one fraction, with all seeds.

    Attributes:
        protocol, learner, view, fraction: which run.
        seeds: predictions by seed, ascending, of the fits that succeeded.
        labels: number of train and validation images by seed.
        failed: "status: error" by seed, of the other fits.
        note: what a reader must know of the images.
        tested: whether any seed had predictions, before restriction to a subset.
        pooled: whether all folds are one test set (`pool`).
    """

    protocol: str
    learner: str
    view: str
    fraction: float
    seeds: dict[int, Predicted]
    labels: dict[int, int]
    failed: dict[int, str]
    note: str = ""
    tested: bool = True
    pooled: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.learner, self.view

    @property
    def image_ids(self) -> frozenset[str]:
        """All images that some seed tested."""
        return frozenset(i for part in self.seeds.values() for i in part.ids)

    def restricted_to(self, ids: set[str] | None) -> Run:
        """Return the run on some images only (None = all); seeds without any are dropped."""
        parts = {}
        for seed, part in sorted(self.seeds.items()):
            if ids is not None:
                part = part.take(np.array([i in ids for i in part.ids], dtype=bool))
            if len(part.ids):
                parts[seed] = part
        return replace(self, seeds=parts, tested=bool(self.seeds))

    def pool(self, every: set[str]) -> Run:
        """Return the run with the predictions of all folds as one seed, -1, each image once.

        Args:
            every: the images that the folds contain; `note` counts those without a prediction.
        """
        parts = [part for _, part in sorted(self.seeds.items()) if len(part.ids)]
        lacking, seeds = len(every - self.image_ids), {}
        if parts:
            joined = [
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("ids", "y", "proba")
            ]
            first = np.unique(joined[0], return_index=True)[1]
            seeds = {-1: Predicted(*joined).take(first)}
        note = f"{lacking} of {len(every)} images lacking: no fitted seed tests their fold"
        return replace(self, seeds=seeds, note=note if lacking else "", pooled=True)


def read_runs(
    dataset: str, params: Params, paths: Paths, manifest: pd.DataFrame
) -> tuple[list[Run], list[str], dict[bytes, bytes]]:
    """Return all runs that have test images, in the order of params.yaml, the class names, and
    the stamp of their training as schema metadata (`pipeline.provenance`).

    Raises:
        PipelineError: nothing was trained, no protocol has a test image, the tables of a learner
            do not belong together, or images, labels or features have changed since.
    """
    runs, table = read_predictions(paths, dataset, params.learners)
    if paths.features(dataset).is_dir():
        now = open_features(paths.features(dataset)).identity_hash
        for learner, inputs in schema_stamp(table.schema).items():
            again = train_command(dataset, learner)
            check(inputs, again, paths.predictions(dataset, learner), features=now)
    again = f"run: pipeline train --dataset {dataset}"
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
    for key, rows in runs.groupby(["protocol", "learner", "view", "fraction"], sort=False):
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
    columns = ["protocol", "learner", "view", "fraction", "seed"]
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
        (r.protocol, r.learner, r.view, float(r.fraction), int(r.seed)): slice(a, b)
        for r, a, b in zip(first.itertuples(), starts, stops, strict=True)
    }
