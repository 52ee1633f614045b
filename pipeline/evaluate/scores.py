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
    independent_units,
    mean_over_seeds,
    percentile_interval,
    settle,
    t_interval,
)
from pipeline.evaluate.metrics import (
    CLASS_METRICS,
    METRICS,
    OVER_CLASSES,
    Contributions,
    class_notes,
    contributions,
    from_sums,
    metric_columns,
    stacked,
)
from pipeline.evaluate.predictions import Run

FEW_UNITS = "no interval, a class has one test unit, or resamples with every class are rare"


@dataclass
class Scored:
    """One run of a block.

    Attributes:
        run: learner, view, fraction and predictions.
        classes: class names.
        values: metrics of each seed, (S, F); F = columns of `metric_columns`.
        replicates: their bootstrap, (S, B, F); that of ECE is reflected in its value.
        sums: summed contributions of each seed, (S, K).
        units: number of units of each seed, int (S, 1 + 2 C): of the test set, with an image of
            each class, with an image predicted as each class.
        test_sets: number of each seed's test set, int (S,); 0 for all where they overlap.
        incomplete: whether some resamples lack a class, bool (S,).
    """

    run: Run
    classes: list[str]
    values: np.ndarray
    replicates: np.ndarray
    sums: np.ndarray
    units: np.ndarray
    test_sets: np.ndarray
    incomplete: np.ndarray

    @property
    def seeds(self) -> list[int]:
        return list(self.run.seeds)

    @cached_property
    def columns(self) -> dict[tuple[str, int], int]:
        """Index of (metric, class) in the last axis of `values` and `replicates`."""
        return {name: f for f, name in enumerate(metric_columns(len(self.classes)))}

    @property
    def confusion(self) -> np.ndarray:
        """The confusion matrix of each seed, (S, C, C): true class, predicted class."""
        C = len(self.classes)
        return self.sums[:, : C * C].reshape(-1, C, C)

    def settled(
        self,
        metric: str,
        c: int,
        value: float,
        interval: tuple[float, float],
        seeds: slice,
        confidence: float,
        difference: bool = False,
    ) -> tuple[float, float, str]:
        """Return the interval to report of a metric over some seeds, and its note (`settle`).

        Means over classes have none where a class has a single unit, which is the same in every
        resample, or where no resamples with every class were found.
        """
        C = len(self.classes)
        counts, test_sets = self.units[seeds], self.test_sets[seeds]
        if metric in OVER_CLASSES:
            single = [independent_units(n, test_sets) == 1 for n in counts[:, 1 : C + 1].T]
            if any(single) or self.incomplete[seeds].any():
                return *NONE, FEW_UNITS
        column = 0 if c < 0 else 1 + c + C * (metric == "precision")
        units = independent_units(counts[:, column], test_sets)
        return settle("" if difference else metric, value, interval, units, confidence)


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
        params, C, S = self.params, len(self.classes), len(run.seeds)
        F, K = len(metric_columns(C)), C * C + 1 + 3 * params.bins + 2 * C
        values, replicates = np.empty((S, F)), np.empty((S, params.bootstrap, F))
        sums, units, tests = np.empty((S, K)), np.zeros((S, 1 + 2 * C), int), []
        for k, part in enumerate(run.seeds.values()):
            test = self._resampled(part.ids, part.y)
            about = contributions(part.proba, part.y, params.bins)
            sums[k], values[k] = about.total, stacked(from_sums(about.total, about))
            replicates[k] = _replicates(test, about, values[k])
            of = (test.units_with(c, C).sum(axis=0) for c in (part.y, part.proba.argmax(axis=1)))
            units[k] = np.concatenate([[len(test.names)], *of])
            tests.append(test)
        distinct = list(dict.fromkeys(tests))
        names = [name for test in distinct for name in test.names]
        disjoint = len(set(names)) == len(names)
        test_sets = np.array([distinct.index(test) * disjoint for test in tests], int)
        incomplete = np.array([np.isnan(test.redrawn[1]).any() for test in tests], bool)
        return Scored(run, self.classes, values, replicates, sums, units, test_sets, incomplete)

    def _resampled(self, ids: np.ndarray, y: np.ndarray) -> Resamples:
        key = tuple(ids)
        if key not in self._resamples:
            units = np.array([self.units.get(i, i) for i in ids])
            self._resamples[key] = Resamples(ids, units, self.params.bootstrap, self.params.seed, y)
        return self._resamples[key]


def _replicates(test: Resamples, about: Contributions, value: np.ndarray) -> np.ndarray:
    """Return the replicates of the metrics of one test set, (B, F)."""
    plain, complete = test.sums(about.rows)
    found, of_complete = from_sums(plain, about), from_sums(complete, about)
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

    value: float = np.nan
    lo: float = np.nan
    hi: float = np.nan
    note: str = ""


def estimates(scored: Scored, params: EvaluateParams) -> Iterator[dict[tuple[str, int], Estimate]]:
    """Yield the estimates of each seed (`METRICS`), then those of the mean over seeds (classes
    too), by (metric, class)."""
    S, columns = len(scored.seeds), list(scored.columns)
    if not S:
        return
    upper = np.array([2.0 if metric == "brier" else 1.0 for metric, _ in columns])
    mean = mean_over_seeds(scored.values, scored.replicates, scored.seeds, params, upper=upper)
    known = np.isfinite(scored.values)
    with np.errstate(invalid="ignore"):
        means = np.where(known, scored.values, 0.0).sum(axis=0) / known.sum(axis=0)
    rows = [(scored.values[k], scored.replicates[k], slice(k, k + 1)) for k in range(S)]
    for values, replicates, seeds in [*rows, (means, mean.replicates, slice(None))]:
        F = len(columns) if seeds.stop is None else len(METRICS)
        ends = percentile_interval(np.clip(replicates[:, :F], 0.0, upper[:F]), params.confidence)
        found = {}
        for (metric, c), value, lo, hi in zip(columns, values.tolist(), *ends, strict=False):
            if metric == "ece":  # without its bias, the interval may not contain the metric
                lo, hi = min(lo, value), max(hi, value)
            settled = scored.settled(metric, c, value, (lo, hi), seeds, params.confidence)
            found[metric, c] = Estimate(value, *settled)
        yield found


def score_rows(
    scored: Scored, params: EvaluateParams
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of metrics.parquet (every seed, failed ones too, and the mean) and those of
    plots/per_class.csv (the mean) of one run."""
    run, labels = scored.run, scored.run.labels
    *by_seed, mean = [*estimates(scored, params)] or [{}]
    rows: list[dict[str, Any]] = []
    for metric in METRICS:
        name = metric, -1
        if not run.pooled:
            fits = {seed: found[name] for seed, found in zip(run.seeds, by_seed, strict=True)}
            fits |= {seed: Estimate(note=error) for seed, error in sorted(run.failed.items())}
            for seed, found in fits.items():
                n = len(run.seeds[seed].ids) if seed in run.seeds else 0
                row = {**run.name, "seed": seed, "metric": metric, **vars(found), "n_images": n}
                row |= {"n_labels": labels[seed], "t_lo": np.nan, "t_hi": np.nan}
                rows.append(row | {"n_seeds": 1, "n_groups": 0})
        found = mean.get(name, Estimate())
        undefined = scored.seeds and np.isnan(found.value)
        note = "not defined on these images" if undefined else found.note
        row = {**run.name, "seed": -1, "metric": metric, **vars(found)}
        row["note"] = "; ".join(filter(None, [*_notes(scored), note]))
        row["n_images"] = len(run.image_ids)
        row["n_labels"] = round(float(np.median(list(labels.values())))) if labels else 0
        values = scored.values[:, scored.columns[name]]
        row["t_lo"], row["t_hi"] = t_interval(values, params.confidence)
        row["n_seeds"] = 1 if run.pooled else len(scored.seeds)
        row["n_groups"] = int(scored.units[:, 0].max(initial=0))
        rows.append(row)
    classes = []
    support = scored.confusion.sum(axis=2)
    for c, label in enumerate(scored.classes if scored.seeds else ()):
        row = {**run.name, "class": label, "support": float(support[:, c].mean())}
        for metric in CLASS_METRICS:
            found = mean[metric, c]
            row |= {metric: found.value, f"{metric}_lo": found.lo, f"{metric}_hi": found.hi}
        classes.append(row)
    return rows, classes


def _notes(scored: Scored) -> list[str]:
    """Say which classes means leave out, which seeds failed and which images were not tested."""
    run = scored.run
    notes = sorted({class_notes(part.y, scored.classes) for part in run.seeds.values()})
    if run.failed:
        which = ", ".join(f"{s} ({e.split(':')[0]})" for s, e in sorted(run.failed.items()))
        notes.append(f"{len(run.failed)} of {len(run.labels)} seeds left out: {which}")
    return [*notes, run.note]
