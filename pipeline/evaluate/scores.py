"""Runs of one block (protocol and subset) scored: metrics, replicates and intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.config import EvaluateParams
from pipeline.evaluate.intervals import (
    NONE,
    Resamples,
    mean_over_seeds,
    percentile_interval,
    seed_weights,
    settle,
    t_interval,
)
from pipeline.evaluate.metrics import (
    CLASS_METRICS,
    METRICS,
    OVER_CLASSES,
    class_notes,
    contributions,
    from_sums,
    metric_columns,
    stacked,
)
from pipeline.evaluate.predictions import Predicted, Run


@dataclass(frozen=True)
class Units:
    """Number of independent units behind the metrics of each seed.

    Attributes:
        every: units of the test set, int (S,).
        true: units with an image of each class, int (S, C).
        predicted: units with an image predicted as each class, int (S, C).
        part: index of the seed's test set, int (S,); 0 for all where test sets overlap.
        redrawn: resamples that lacked a class and were drawn again, int (S,).
        incomplete: whether some of them still lack one, bool (S,).
    """

    every: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    part: np.ndarray
    redrawn: np.ndarray
    incomplete: np.ndarray

    def of_seed(self, k: int) -> Units:
        """Return the units of one seed."""
        return Units(*(value[k : k + 1] for value in self.__dict__.values()))

    def behind(self, count: np.ndarray) -> int:
        """Return the number of independent units behind a mean over seeds: the smallest count of a
        seed times the number of distinct test sets.

        Let at most k seeds share a test set. With n_s units in seed s, whose true share is p_s, all
        units are right with probability at most prod p_s ** (n_s / k), since seeds that share a
        test set may err on the same units. This is at most mean(p_s) ** (min(n_s) * S / k).

        Args:
            count: units by seed (S,); seeds with 0 have no value and are left out.
        """
        some = count > 0
        if not some.any():
            return 0
        return int(count[some].min() * some.sum() / np.bincount(self.part[some]).max())

    def over_classes_note(self, classes: list[str], resamples: int) -> tuple[bool, str]:
        """Return whether means over classes have an interval, and a note ("" = nothing special).

        A class with a single unit is the same in every resample, so such means have none.
        """
        single = [c for c, n in zip(classes, self.true.T, strict=True) if self.behind(n) == 1]
        if single:
            names = ", ".join(single)
            return False, f"no interval of means over classes, one test unit only: {names}"
        if self.incomplete.any():
            return False, "no interval of means over classes, resamples with all of them are rare"
        parts = np.unique(self.part, return_index=True)[1]
        redrawn, drawn = int(self.redrawn[parts].sum()), len(parts) * resamples
        note = f"{redrawn:,} of {drawn:,} resamples drawn again because they lacked a class"
        return True, note if redrawn else ""


@dataclass
class Scored:
    """One run of a block.

    Attributes:
        run: learner, view, fraction and predictions.
        values: metrics of each seed, (S, F); F = columns of `metric_columns`.
        replicates: their bootstrap, (S, B, F); that of ECE is reflected in its value.
        sums: summed contributions of each seed, (S, K).
        units: what is behind the metrics.
        note: classes left out of means, failed seeds, images without a prediction.
        classes: class names.
    """

    run: Run
    values: np.ndarray
    replicates: np.ndarray
    sums: np.ndarray
    units: Units
    note: str
    classes: list[str]

    @property
    def seeds(self) -> list[int]:
        return list(self.run.seeds)

    @cached_property
    def columns(self) -> dict[tuple[str, int], int]:
        """Index of (metric, class) in the last axis of `values` and `replicates`."""
        return {name: f for f, name in enumerate(metric_columns(len(self.classes)))}

    @cached_property
    def image_ids(self) -> frozenset[str]:
        return self.run.image_ids


class Scorer:
    """Scores the runs of one block; runs with the same test set share its resamples.

    Args:
        units: unit of each image id; an image without one is its own unit.
        params: resamples, confidence, bins, seed.
        classes: class names.
    """

    def __init__(self, units: dict[str, str], params: EvaluateParams, classes: list[str]):
        self.units, self.params, self.classes = units, params, classes
        self._resamples: dict[tuple, Resamples] = {}

    def __call__(self, run: Run) -> Scored:
        params, C = self.params, len(self.classes)
        parts = list(run.seeds.values())
        tests = [self._resampled(part) for part in parts]
        F = len(metric_columns(C))
        values, replicates = np.empty((len(parts), F)), np.empty((len(parts), params.bootstrap, F))
        sums = []
        for k, (part, test) in enumerate(zip(parts, tests, strict=True)):
            about = contributions(part.proba, part.y, params.bins)
            values[k] = stacked(from_sums(about.total, about))
            replicates[k] = _replicates(test, about, values[k])
            sums.append(about.total)
        notes = sorted({class_notes(part.y, self.classes) for part in parts} - {""})
        if run.failed:
            which = ", ".join(f"{s} ({e.split(':')[0]})" for s, e in sorted(run.failed.items()))
            total = len(run.labels)
            notes.append(f"{len(run.failed)} of {total} seeds left out: {which}")
        notes += [run.note] * bool(run.note)
        units = self._units(tests, [part.proba.argmax(axis=1) for part in parts])
        note = "; ".join(notes)
        return Scored(run, values, replicates, np.array(sums), units, note, self.classes)

    def _resampled(self, part: Predicted) -> Resamples:
        key = tuple(part.ids)
        if key not in self._resamples:
            units = np.array([self.units.get(i, i) for i in part.ids])
            draw = self.params.bootstrap, self.params.seed
            self._resamples[key] = Resamples(part.ids, units, *draw, part.y)
        return self._resamples[key]

    def _units(self, tests: list[Resamples], predicted: list[np.ndarray]) -> Units:
        C, distinct = len(self.classes), list(dict.fromkeys(tests))
        names = [name for test in distinct for name in test.names]
        disjoint = len(set(names)) == len(names)

        def counts(classes: list[np.ndarray]) -> np.ndarray:
            of = [t.units_with(c, C).sum(axis=0) for t, c in zip(tests, classes, strict=True)]
            return np.array(of, int).reshape(-1, C)

        return Units(
            every=np.array([len(test.names) for test in tests], int),
            true=counts([test.y for test in tests]),
            predicted=counts(predicted),
            part=np.array([distinct.index(test) * disjoint for test in tests], int),
            redrawn=np.array([len(test.redrawn[0]) for test in tests], int),
            incomplete=np.array([np.isnan(test.redrawn[1]).any() for test in tests], bool),
        )


def _replicates(test: Resamples, about, value: np.ndarray) -> np.ndarray:
    """Return the replicates of the metrics of one test set, (B, F)."""
    plain, complete = test.sums(about.rows)
    found = from_sums(plain, about)
    if len(test.redrawn[0]):
        of_complete = from_sums(complete, about)
        found |= {metric: of_complete[metric] for metric in OVER_CLASSES}
    # Resampling adds noise to every bin and ECE adds up absolute values, so replicates exceed the
    # metric as much as the metric exceeds the truth: reflect them (the basic bootstrap).
    found["ece"] = 2 * value[METRICS.index("ece")] - found["ece"]
    # In a resample without the class its F1 would be 0 for lack of images, not for errors.
    held = np.bincount(test.y, minlength=about.n_classes) > 0
    found["f1"][(found["support"] == 0) & held] = np.nan
    return stacked(found)


@dataclass(frozen=True)
class Estimate:
    """A metric with its interval; `note` says which kind of interval, or why there is none."""

    value: float
    lo: float
    hi: float
    note: str = ""


def estimates(scored: Scored, params: EvaluateParams) -> Iterator[dict[tuple[str, int], Estimate]]:
    """Yield the estimates of each seed (`METRICS`), then those of the mean over seeds (classes
    too), by (metric, class)."""
    if not scored.seeds:
        yield {}
        return
    columns = list(scored.columns)
    upper = np.array([2.0 if metric == "brier" else 1.0 for metric, _ in columns])
    weights = seed_weights(tuple(scored.seeds), params.bootstrap, params.seed)
    data = scored.values, scored.replicates, weights
    mean = mean_over_seeds(*data, params.confidence, 0.0, upper).replicates
    known = np.isfinite(scored.values)
    with np.errstate(invalid="ignore"):
        means = np.where(known, scored.values, 0.0).sum(axis=0) / known.sum(axis=0)
    rows = [*zip(scored.values, scored.replicates, strict=True), (means, mean)]
    for k, (values, replicates) in enumerate(rows):
        of_seed = k < len(scored.seeds)
        units = scored.units.of_seed(k) if of_seed else scored.units
        F = len(METRICS) if of_seed else len(columns)
        ends = percentile_interval(np.clip(replicates[:, :F], 0.0, upper[:F]), params.confidence)
        yield {
            name: _estimate(scored, *name, float(value), interval, units, params)
            for name, value, *interval in zip(columns[:F], values[:F], *ends, strict=True)
        }


def _estimate(
    scored: Scored,
    metric: str,
    c: int,
    value: float,
    interval: list[float],
    units: Units,
    params: EvaluateParams,
) -> Estimate:
    lo, hi = interval
    if metric == "ece":  # without its bias, the interval may not contain the metric
        lo, hi = min(lo, value), max(hi, value)
    notes = []
    if metric in OVER_CLASSES:
        possible, note = units.over_classes_note(scored.classes, params.bootstrap)
        if not possible:
            return Estimate(value, *NONE, note)
        notes = [note]
    count = units.every
    if metric in CLASS_METRICS:
        count = (units.predicted if metric == "precision" else units.true)[:, c]
    lo, hi, note = settle(metric, value, (lo, hi), units.behind(count), params.confidence)
    return Estimate(value, lo, hi, "; ".join(filter(None, [*notes, note])))


def score_rows(
    scored: Scored, protocol: str, subset: str, params: EvaluateParams
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of metrics.parquet (every seed, failed ones too, and the mean) and those of
    plots/per_class.csv (the mean) of one run."""
    run = scored.run
    *by_seed, mean = estimates(scored, params)
    base = {"protocol": protocol, "subset": subset, "learner": run.learner, "view": run.view}
    base["fraction"] = run.fraction
    size = {"t_lo": np.nan, "t_hi": np.nan, "n_seeds": 1, "n_groups": 0}
    rows: list[dict[str, Any]] = []
    for metric in METRICS:
        name = metric, -1
        if not run.pooled:
            for (seed, part), found in zip(run.seeds.items(), by_seed, strict=True):
                n = {"n_images": len(part.ids), "n_labels": run.labels[seed]}
                rows.append({**base, "seed": seed, **_columns(metric, found[name]), **n, **size})
            for seed, error in sorted(run.failed.items()):
                n = {"n_images": 0, "n_labels": run.labels[seed]}
                failed = _columns(metric, Estimate(np.nan, *NONE, error))
                rows.append({**base, "seed": seed, **failed, **n, **size})
        found = mean.get(name, Estimate(np.nan, *NONE))
        note = found.note
        if scored.seeds and np.isnan(found.value):
            note = "not defined on these images"
        note = "; ".join(filter(None, [scored.note, note]))
        row = {**base, "seed": -1, **_columns(metric, found), "note": note, **size}
        row["n_images"] = len(scored.image_ids)
        row["n_labels"] = round(float(np.median(list(run.labels.values())))) if run.labels else 0
        if scored.seeds and not run.pooled:
            values = scored.values[:, scored.columns[name]]
            row["t_lo"], row["t_hi"] = t_interval(values, params.confidence)
        row["n_seeds"] = 1 if run.pooled else len(scored.seeds)
        row["n_groups"] = int(scored.units.every.max(initial=0))
        rows.append(row)
    classes = []
    for c, label in enumerate(scored.classes if scored.seeds else ()):
        support = confusion(scored)[:, c].sum(axis=1).mean()
        row = {**base, "class": label, "support": float(support)}
        for metric in CLASS_METRICS:
            found = mean[metric, c]
            row |= {metric: found.value, f"{metric}_lo": found.lo, f"{metric}_hi": found.hi}
        classes.append(row)
    return rows, classes


def confusion(scored: Scored) -> np.ndarray:
    """Return the confusion matrix of each seed, (S, C, C): true class, predicted class."""
    C = len(scored.classes)
    if not scored.run.seeds:  # every fit failed
        return np.zeros((0, C, C))
    return scored.sums[:, : C * C].reshape(-1, C, C)


def _columns(metric: str, found: Estimate) -> dict[str, Any]:
    return {
        "metric": metric,
        "value": found.value,
        "lo": found.lo,
        "hi": found.hi,
        "note": found.note,
    }
