"""Stored predictions, one `Run` per protocol, learner, view and fraction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import PipelineError
from pipeline.learners.runs import read_predictions, run_inputs, train_command
from pipeline.provenance import check, schema_stamp

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.paths import Paths


@dataclass(frozen=True)
class Predicted:
    """The test images of one seed: ids (n,), true classes (n,), probabilities (n, C)."""

    ids: np.ndarray
    y: np.ndarray
    proba: np.ndarray

    def take(self, index: np.ndarray | slice) -> Predicted:
        """Return some of the images, by a mask, indices or a slice."""
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


def read_runs(dataset: str, params: Params, paths: Paths) -> tuple[list[Run], list[str]]:
    """Return all runs that have test images, by protocol, learner, view and fraction, and the class
    names.

    Raises:
        PipelineError: a learner of params.yaml was not trained, or was trained on other features,
            labels, images or copies than there are now; or no protocol has a test image.
    """
    table, predictions = read_predictions(paths, dataset, params.learners)
    now = run_inputs(paths, dataset)
    for learner, inputs in schema_stamp(predictions.schema).items():
        check(inputs, train_command(dataset, learner), paths.predictions(dataset, learner), **now)
    # The predictions lie in the order of the runs, `n_test` of each run that succeeded.
    table = table.assign(stop=(table["n_test"] * (table["status"] == "ok")).cumsum())
    table = table[table["n_test"] > 0]
    if table.empty:
        raise PipelineError(
            "no protocol has a test image, so there is nothing to evaluate",
            path=paths.manifest(dataset),
            remedy="give it images whose split is test, or set splits.on_leak: regroup in "
            "params.yaml and train again",
        )
    columns = [c for c in predictions.column_names if c.startswith("p:")]
    proba = np.column_stack([predictions[c].to_numpy() for c in columns])
    classes = [c.removeprefix("p:") for c in columns]
    ids = predictions["image_id"].to_pandas().astype(str).to_numpy(dtype=object)
    names = predictions["y_true"].to_pandas().astype(str)
    y = names.map({name: c for c, name in enumerate(classes)}).to_numpy(dtype=np.int64)
    every = Predicted(ids, y, proba)
    found = []
    for key, rows in table.groupby(["protocol", "learner", "view", "fraction"], sort=True):
        seeds = {
            row.seed: every.take(slice(row.stop - row.n_test, row.stop))
            for row in rows.itertuples()
            if row.status == "ok"
        }
        bad = rows[rows["status"] != "ok"]
        failed = {row.seed: f"{row.status}: {row.error}" for row in bad.itertuples()}
        labels = dict(zip(rows["seed"], rows["n_train"] + rows["n_val"], strict=True))
        found.append(Run(*key, seeds, labels, failed))
    return found, classes
