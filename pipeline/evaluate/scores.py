"""Every run of a block (protocol and subset) scored: values, replicates, rows of the tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.config import EvaluateParams
from pipeline.evaluate.bounds import NONE, OVER_CLASSES, Units, settled
from pipeline.evaluate.intervals import (
    TestSet,
    nested,
    percentile_intervals,
    seed_weights,
    t_interval,
)
from pipeline.evaluate.metrics import METRICS, contributions, from_sums, notes, per_class
from pipeline.evaluate.predictions import Predicted, Run

POOLED = "-pooled"  # added to the name of a cross-validated protocol
BOUNDS = {"brier": (0.0, 2.0)}  # those of the other metrics are 0 and 1


@dataclass
class Scored:
    """One run of one block.

    Attributes:
        run: which head, view, fraction.
        seeds: those that were scored, ascending.
        values: metric -> (S,).
        replicates: metric -> (S, B); those of ECE are reflected in its value.
        sums: contributions summed by seed, (S, K).
        n_images: distinct test images; n_groups: what is resampled.
        note: classes left out, seeds missing.
        units: what is behind the figures of each seed.
        classes: class names.
        tested: tells runs of the same images from others, within a process.
    """

    run: Run
    seeds: list[int]
    values: dict[str, np.ndarray]
    replicates: dict[str, np.ndarray]
    sums: np.ndarray
    class_replicates: dict[str, np.ndarray]
    n_by_seed: list[int]
    n_images: int
    n_groups: int
    note: str
    units: Units
    classes: list[str]
    pooled: bool = False
    tested: int = 0
    weights: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def mean_replicates(self, metric: str, confidence: float) -> np.ndarray:
        """Return the nested bootstrap of the mean over seeds, (B,), for an interval of it."""
        of = self.values[metric], self.replicates[metric], self.weights
        return nested(*of, confidence, BOUNDS.get(metric, (0.0, 1.0))).replicates


class Block:
    """One protocol and subset: scores runs, with one set of resampling weights a test set.

    Args:
        keep: image ids of the subset, None for all.
        groups: what is resampled together, by image_id.
        params: bootstrap, confidence, bins, seed.
        classes: class names.
    """

    def __init__(
        self,
        keep: set[str] | None,
        groups: dict[str, str],
        params: EvaluateParams,
        classes: list[str],
    ):
        self.keep, self.groups, self.params, self.classes = keep, groups, params, classes
        self._tests: dict[tuple, TestSet] = {}

    def _test_set(self, part: Predicted) -> TestSet:
        key = tuple(part.ids)
        if key not in self._tests:
            groups = np.array([self.groups.get(i, f"image {i}") for i in part.ids])
            draw = self.params.bootstrap, self.params.seed
            self._tests[key] = TestSet(part.ids, groups, *draw, part.y)
        return self._tests[key]

    def _units(self, tests: list[TestSet], predicted: list[np.ndarray]) -> Units:
        """Count what is behind the figures of each seed.

        Args:
            tests: test set of each seed.
            predicted: classes that each seed predicts, of its images.
        """
        C = len(self.classes)
        parts = list(dict.fromkeys(tests))
        names = [name for test in parts for name in test.names]
        apart = len(set(names)) == len(names)
        counts = [
            np.array([test.holding(y, C).sum(axis=0) for test, y in of], int).reshape(-1, C)
            for of in ([(t, t.y) for t in tests], zip(tests, predicted, strict=True))
        ]
        return Units(
            np.array([len(test.names) for test in tests], int),
            *counts,
            np.array([parts.index(test) * apart for test in tests], int),
            np.array([len(test.redrawn[0]) for test in tests], int),
            np.array([test.rejected for test in tests], bool),
            self.params.bootstrap,
        )

    def score(self, run: Run, *, pooled: set[str] | None = None) -> Scored | None:
        """Score a run; None when the subset leaves none of its images.

        Args:
            pooled: take the predictions of all seeds as one set, for grouped cross-validation:
                each image then counts once, with that of the first seed whose fold tested it
                (more seeds than folds test some folds again). These are the images that some
                fold should test; the note counts those that are lacking.
        """
        parts = {seed: run.seeds[seed].keep(self.keep) for seed in sorted(run.seeds)}
        parts = {seed: part for seed, part in parts.items() if len(part.ids)}
        if not parts and run.seeds:
            return None
        ids = {i for part in parts.values() for i in part.ids}
        if pooled is not None and parts:
            every = np.concatenate([p.ids for p in parts.values()])
            order = np.unique(every, return_index=True)[1]  # where each first stands
            joined = [
                np.concatenate([getattr(p, name) for p in parts.values()])[order]
                for name in ("ids", "y", "proba")
            ]
            parts = {-1: Predicted(*joined)}
        names: list[str] = []
        values, replicates, class_replicates, sums = [], [], [], []
        tests, predicted = [], []
        for part in parts.values():
            about = contributions(part.proba, part.y, self.params.bins)
            test = self._test_set(part)
            drawn, whole = test.both_sums(about.rows)
            sums.append(about.total)
            values.append(from_sums(about.total, about))
            replicates.append(from_sums(drawn, about))
            if whole is not drawn:
                of_whole = from_sums(whole, about)
                replicates[-1] |= {metric: of_whole[metric] for metric in OVER_CLASSES}
            # Resampling adds noise to each bin, and ECE adds up its size: replicates lie above
            # the figure as far as the figure lies above the truth. So they are reflected in it
            # (the basic bootstrap).
            replicates[-1]["ece"] = 2 * values[-1]["ece"] - replicates[-1]["ece"]
            of_class = per_class(drawn, about.n_classes)
            # One class needs no other; its own F1 would be 0 for lack of it, not for an error.
            held = np.bincount(part.y, minlength=about.n_classes) > 0
            of_class["f1"][(of_class["support"] == 0) & held] = np.nan
            class_replicates.append(of_class)
            names.append(notes(part.y, self.classes))
            tests.append(test)
            predicted.append(part.proba.argmax(axis=1))
        seeds = list(parts)
        weights = seed_weights(seeds, self.params.bootstrap, self.params.seed) if seeds else None
        said = sorted({name for name in names if name})
        if run.failed:
            which = ", ".join(f"{s} ({e.split(':')[0]})" for s, e in sorted(run.failed.items()))
            total = len(run.failed) + len(run.seeds)
            said.append(f"{len(run.failed)} of {total} seeds left out: {which}")
        if pooled is not None and pooled - ids:
            lacking = f"{len(pooled - ids)} of {len(pooled)} images lacking"
            said.append(f"{lacking}: no seed that was fitted tests their fold")
        return Scored(
            run,
            seeds,
            {m: np.array([v[m] for v in values], dtype=float) for m in METRICS},
            {m: np.array([r[m] for r in replicates]) for m in METRICS},
            np.array(sums),
            {m: np.array([r[m] for r in class_replicates]) for m in ("precision", "recall", "f1")},
            [len(part.ids) for part in parts.values()],
            len(ids),
            max((len(test.names) for test in tests), default=0),
            "; ".join(said),
            self._units(tests, predicted),
            self.classes,
            pooled is not None,
            hash(frozenset(ids)),
            np.ones((self.params.bootstrap, 1)) if weights is None else weights,
        )


def metric_rows(
    scored: Scored, protocol: str, subset: str, params: EvaluateParams
) -> list[dict[str, Any]]:
    """Return the rows of metrics.parquet for one run: all seeds, failed ones too, and the mean."""
    run = scored.run
    base = {"protocol": protocol, "subset": subset, "head": run.head, "view": run.view}
    base["fraction"] = run.fraction
    rows: list[dict[str, Any]] = []
    n_labels = round(float(np.median(list(run.labels.values())))) if run.labels else 0
    nan = float("nan")
    alone = [scored.units.of_seed(k) for k in range(len(scored.seeds))]
    for metric in METRICS:
        by_seed, of_mean = [], (nan, nan)
        if scored.seeds:
            mean = scored.mean_replicates(metric, params.confidence)
            drawn = np.array([*scored.replicates[metric], mean])
            drawn = np.clip(drawn, *BOUNDS.get(metric, (0.0, 1.0)))
            *by_seed, of_mean = percentile_intervals(drawn, params.confidence)
        if not scored.pooled:
            for k, seed in enumerate(scored.seeds):
                value = float(scored.values[metric][k])
                size = {"n_images": scored.n_by_seed[k], "n_labels": run.labels[seed]}
                *found, said = _settled(metric, value, by_seed[k], alone[k], scored, params)
                rows.append(_row(base, seed, metric, found, (nan, nan), size, "; ".join(said)))
            for seed, error in sorted(run.failed.items()):
                size = {"n_images": 0, "n_labels": run.labels[seed]}
                rows.append(_row(base, seed, metric, (nan,) * 3, (nan, nan), size, error))
        mean, lo, hi = nan, nan, nan
        t, note = (nan, nan), [scored.note]
        known = scored.values[metric][np.isfinite(scored.values[metric])]
        if len(known):
            value = float(known.mean())
            mean, lo, hi, said = _settled(metric, value, of_mean, scored.units, scored, params)
            note += said
            t = (nan, nan) if scored.pooled else t_interval(known, params.confidence)
        size = {"n_images": scored.n_images, "n_labels": n_labels}
        if not len(known) and scored.seeds:
            note.append("not defined on these images")
        row = _row(base, -1, metric, (mean, lo, hi), t, size, "; ".join(filter(None, note)))
        row["n_seeds"] = 1 if scored.pooled else len(scored.seeds)
        row["n_groups"] = scored.n_groups
        rows.append(row)
    return rows


def _settled(
    metric: str,
    value: float,
    interval: tuple[float, float],
    units: Units,
    scored: Scored,
    params: EvaluateParams,
) -> tuple[float, float, float, list[str]]:
    """Return value, lo, hi and the notes on them, where the bootstrap says nothing too."""
    lo, hi = interval
    if metric == "ece":  # without its bias the interval may lie beside the figure
        lo, hi = min(lo, value), max(hi, value)
    notes = units.notes(scored.classes) if metric in OVER_CLASSES else []
    if metric in OVER_CLASSES and units.thin:
        return value, *NONE, notes
    lo, hi, why = settled(metric, value, (lo, hi), units.behind(units.every), params.confidence)
    return value, lo, hi, notes + [why] * bool(why)


def _row(base, seed, metric, interval, t, size, note) -> dict[str, Any]:
    value, lo, hi = interval
    return {
        **base,
        "seed": seed,
        "metric": metric,
        "value": value,
        "lo": lo,
        "hi": hi,
        **size,
        "note": note,
        "t_lo": t[0],
        "t_hi": t[1],
        "n_seeds": 1,
        "n_groups": 0,
    }
