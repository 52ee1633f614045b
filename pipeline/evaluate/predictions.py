"""Stored predictions: the runs, their test images by subset, resampled units, figures by image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.audit.table import read_audit
from pipeline.config import CROSS_VALIDATED
from pipeline.errors import PipelineError, shown
from pipeline.learners.runs import read_predictions, run_inputs, train_command
from pipeline.learners.variants import seen_by, variant_inputs
from pipeline.manifest import read_manifest
from pipeline.paths import Paths
from pipeline.provenance import check, schema_stamp
from pipeline.splits.grouping import TIES, units, with_copies
from pipeline.store import open_features

COPIES = {"clean": "copy_in_train", "clean_any": "copy_in_train_any"}
"""Subset -> column of the leak audit that marks the images it leaves out."""


class Predicted(NamedTuple):
    """The test images of one seed: ids (n,), true classes (n,), probabilities (n, C)."""

    ids: np.ndarray
    y: np.ndarray
    proba: np.ndarray

    def take(self, index: np.ndarray | slice) -> Predicted:
        return Predicted(*(of[index] for of in self))


@dataclass(frozen=True)
class Run:
    """One learner on one view at one fraction of a protocol, with all seeds."""

    protocol: str
    learner: str
    view: str
    fraction: float
    seeds: dict[int, Predicted]  # of the fits that succeeded, ascending; -1 = all folds pooled
    labels: dict[int, int]  # number of train and validation images
    failed: dict[int, str]  # "status: error" of the other fits
    note: str = ""  # what a reader must know of the images
    pooled: bool = False  # whether all folds are one test set

    @property
    def key(self) -> tuple[str, str]:
        return self.learner, self.view

    @property
    def image_ids(self) -> frozenset[str]:
        """All images that some seed tested."""
        return frozenset(i for part in self.seeds.values() for i in part.ids)

    def without(self, ids: set[str]) -> Run:
        """Return the run without some images; seeds of which none is left are dropped."""
        parts = {s: part.take(~pd.Index(part.ids).isin(ids)) for s, part in self.seeds.items()}
        return replace(self, seeds={seed: part for seed, part in parts.items() if len(part.ids)})

    def pool(self, every: set[str]) -> Run:
        """Return the run with the predictions of all folds as one seed, -1, each image once; `note`
        counts those of `every` image that no fold has tested."""
        lacking, seeds = len(every - self.image_ids), {}
        if self.seeds:
            joined = Predicted(*map(np.concatenate, zip(*self.seeds.values(), strict=True)))
            seeds = {-1: joined.take(np.unique(joined.ids, return_index=True)[1])}
        note = f"{lacking} of {len(every)} images lacking: no fitted seed tests their fold"
        return replace(self, seeds=seeds, note=note if lacking else "", pooled=True)


def read_runs(dataset: str, learners: Sequence[str], paths: Paths) -> tuple[list[Run], list[str]]:
    """Return the runs of some learners that have test images, by protocol, learner, view and
    fraction, and the class names.

    Raises:
        PipelineError: a learner was not trained, or was trained on other features, labels, images
            or copies than there are now; or no protocol has a test image; or an adapter has
            learned from an image that belongs with one that it is tested on.
    """
    table, predictions = read_predictions(paths, dataset, learners)
    for learner, inputs in schema_stamp(predictions.schema).items():
        variants = [name.partition("@")[2] for name in inputs if "@" in name]
        now = run_inputs(paths, dataset) | variant_inputs(paths, dataset, variants)
        check(inputs, train_command(dataset, learner), paths.predictions(dataset, learner), **now)
    # The predictions lie in the order of the runs, `n_test` of each run that succeeded.
    table = table.assign(stop=(table["n_test"] * (table["status"] == "ok")).cumsum())
    table = table[table["n_test"] > 0].sort_values("seed", kind="stable")
    if table.empty:
        remedy = "give it test images, or set splits.on_leak: regroup, and train again"
        raise PipelineError("no test image", path=paths.manifest(dataset), remedy=remedy)
    rows = predictions.to_pandas()
    proba = rows.filter(regex="^p:")
    classes = [c.removeprefix("p:") for c in proba]
    y = pd.Index(classes).get_indexer(rows["y_true"].astype(str))
    every = Predicted(rows["image_id"].astype(str).to_numpy(object), y, np.ascontiguousarray(proba))
    if "masks" in table:
        tested: dict[str, set[str]] = {}
        for row in table[(table["status"] == "ok") & table["masks"].notna()].itertuples():
            for part in row.masks.split(","):
                tested.setdefault(part, set()).update(every.ids[row.stop - row.n_test : row.stop])
        manifest = read_manifest(paths.manifest(dataset))
        units = image_units(manifest, read_audit(paths.audit(dataset), manifest))
        check_unseen(tested, units, dataset, paths)
    found = []
    for key, fits in table.groupby(["protocol", "learner", "view", "fraction"], sort=True):
        ok = fits[fits["status"] == "ok"]
        seeds = {r.seed: every.take(slice(r.stop - r.n_test, r.stop)) for r in ok.itertuples()}
        failed = {r.seed: f"{r.status}: {r.error}" for r in fits.drop(ok.index).itertuples()}
        labels = {row.seed: row.n_train + row.n_val for row in fits.itertuples()}
        found.append(Run(*key, seeds, labels, failed))
    return found, classes


def check_unseen(
    tested: Mapping[str, set[str]], units: Mapping[str, str], dataset: str, paths: Paths
) -> None:
    """Raise PipelineError where a test image belongs with one that an adapter has learned from.

    Args:
        tested: part of a variant of the masks, such as `lora-16/0`, to the ids of all images that
            are tested on features made with it.
        units: of each image id: its patient, group, file and copies (`splits.grouping.units`).
        dataset, paths: where the features are. Their identity names the images that were seen.
    """
    for part, ids in tested.items():
        path = paths.features(dataset, part)
        learned = {units.get(image_id, image_id) for image_id in seen_by(open_features(path))}
        if leaked := sorted(i for i in ids if units.get(i, i) in learned):
            raise PipelineError(
                f"{len(leaked)} test images belong with images whose masks the adapter of {part} "
                f"has learned from (same image, patient, group, file or copy): {shown(leaked)}",
                path=path,
                remedy=f"run adapt, encode --masks and train again for {dataset}, with the splits "
                "and the leak audit as they are now",
            )


def blocks(
    runs: list[Run], manifest: pd.DataFrame, audit: pd.DataFrame | None
) -> Iterator[tuple[str, str, list[Run]]]:
    """Yield (protocol, subset, runs restricted to the subset), one block after the other.

    `clean` leaves out test images with an exact copy or near-copy in train, `clean_any` also those
    with a mirrored or turned copy. Cross-validation keeps copies in one fold, so it has only
    `full`, as has every protocol without an audit. After it follows `<protocol>-pooled`: every
    image once, with the prediction of the first seed whose fold has it.
    """
    for protocol in dict.fromkeys(run.protocol for run in runs):
        mine = [run for run in runs if run.protocol == protocol]
        yield protocol, "full", mine
        if protocol.partition("-")[0] in CROSS_VALIDATED:  # with any number of shots
            marked = manifest.query("mask_path != '' and mask_area != '0'")
            every = set((marked if protocol == "grouped_truth" else manifest)["image_id"])
            yield f"{protocol}-pooled", "full", [run.pool(every) for run in mine]
        elif audit is not None:
            for subset, column in COPIES.items():
                copies = set(audit.loc[audit[column].astype(bool), "image_id"])
                kept = [(run, run.without(copies)) for run in mine]
                # A run all of whose seeds failed stays, with its errors.
                yield protocol, subset, [part for run, part in kept if part.seeds or not run.seeds]


def image_units(manifest: pd.DataFrame, audit: pd.DataFrame | None) -> dict[str, str]:
    """Return the unit of each image id: a patient, a group, the frames of one file and, with an
    audit, their copies (mirrored and turned ones too), joined as for the splits. Drawn one by one
    they would make intervals too narrow.

    Raises:
        ManifestError: the audit is of other images.
    """
    table = with_copies(manifest, audit)
    return dict(zip(table["image_id"], units(table, TIES), strict=True))


def test_set(runs: list[Run], classes: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the row of plots/test_sets.csv for the runs of one block; none where nothing was
    tested. `largest_share` is the accuracy of always answering the largest class, the mean over
    seeds (folds)."""
    tests = {seed: part for run in runs for seed, part in run.seeds.items()}
    if not tests:
        return
    labels = {i: y for part in tests.values() for i, y in zip(part.ids, part.y, strict=True)}
    counts = pd.Series(np.bincount([*labels.values()], minlength=len(classes)), classes)
    yield {
        "n_images": len(labels),
        "n_classes": (counts > 0).sum(),
        "missing_classes": "; ".join(counts.index[counts == 0]),
        "largest_class": counts.idxmax(),
        "largest_share": np.mean([(of.y == counts.argmax()).mean() for of in tests.values()]),
    }


def by_image(predictions: pd.DataFrame) -> pd.DataFrame:
    """Summarise rows of predictions.parquet of one run over its seeds, by image_id: y_true, y_pred
    (the most frequent, ties by name), right (share of seeds that are right), p_true (mean
    probability of the true class), seeds (number of seeds)."""
    true, said = (predictions[name].astype(str) for name in ("y_true", "y_pred"))
    proba = predictions.filter(regex="^p:")
    p_true = proba.to_numpy(float)[np.arange(len(true)), proba.columns.get_indexer("p:" + true)]
    rows = predictions.assign(y_pred=said, p_true=p_true, right=true == said)
    return rows.groupby("image_id", observed=True).agg(
        y_true=("y_true", "first"),
        y_pred=("y_pred", lambda called: called.mode()[0]),
        right=("right", "mean"),
        p_true=("p_true", "mean"),
        seeds=("right", "size"),
    )


def flips(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Join two results of `by_image` on the images that both have, with the suffixes `_before` and
    `_after`; `change` is the difference of `right` (above 0 = more seeds are right after),
    `p_change` that of `p_true`."""
    both = before.merge(after, left_index=True, right_index=True, suffixes=("_before", "_after"))
    both["change"] = (both["right_after"] - both["right_before"]).round(6)
    both["p_change"] = both["p_true_after"] - both["p_true_before"]
    return both
