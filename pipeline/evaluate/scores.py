"""One block (protocol and subset): the metrics of its runs with intervals, and paired differences.

Two runs use the same resamples (same images, same seeds), so the replicates of their difference are
the differences of their replicates (`pipeline.evaluate.intervals`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.config import EvaluateParams
from pipeline.evaluate import metrics
from pipeline.evaluate.intervals import (
    MIN_WIDTH,
    MeanOverSeeds,
    Resamples,
    independent_units,
    percentile_interval,
)
from pipeline.evaluate.metrics import CLASS_METRICS, METRICS, OVER_CLASSES
from pipeline.evaluate.predictions import Run

COMPARED = METRICS[:4]
RUNS = ["learner_a", "view_a", "learner_b", "view_b"]
ALPHA = 0.05

EXACT = "exact bound (Clopper-Pearson), all units right or all wrong"
ALL_EQUAL = "no interval, all resamples are equal"
FEW_UNITS = "no interval, a class has one test unit, or resamples with every class are rare"
NOTHING = dict.fromkeys(("value", "lo", "hi", "note", "t_lo", "t_hi"), np.nan)

Columns = dict[str, Any]
"""Columns of a table: an array of n values, or one value for all rows."""


@dataclass
class Scored:
    """One run of a block.

    Attributes:
        run: learner, view, fraction and predictions.
        classes: names of the C classes.
        names: metric of each column, text (F,); see `metrics.metric_columns`.
        values: metrics of each seed, (S, F).
        replicates: their bootstrap, (S, B, F); that of ECE is reflected in its value.
        sums: summed contributions of each seed, (S, K).
        units: number of units behind each metric, int (S, F): of the test set, with an image
            predicted as the class (precision), or with an image of the class (recall, F1).
        incomplete: whether some resamples lack a class, bool (S,).
        test_sets: number of each seed's test set, int (S,); 0 for all where they overlap.
    """

    run: Run
    classes: list[str]
    names: np.ndarray
    values: np.ndarray
    replicates: np.ndarray
    sums: np.ndarray
    units: np.ndarray
    incomplete: np.ndarray
    test_sets: np.ndarray

    @property
    def confusion(self) -> np.ndarray:
        """The confusion matrix of each seed, (S, C, C): true class, predicted class."""
        C = len(self.classes)
        return self.sums[:, : C * C].reshape(-1, C, C)

    def settled(
        self, values: np.ndarray, replicates: np.ndarray, confidence: float, *,
        seeds: slice = slice(None), difference: bool = False,
    ) -> Columns:  # fmt: skip
        """Return the first metrics (F,) over some seeds, or their differences to another run, with
        the interval to report of each and a note ("" = the percentiles of replicates (B, F)).

        An accuracy, precision or recall of 0 or 1 has the exact interval of Clopper and Pearson. No
        interval has a metric whose resamples are all equal, nor a mean over classes where a class
        has a single unit, which is the same in every resample, or where no resamples with every
        class were found.
        """
        names, tail = self.names[: len(values)], (1 - confidence) / 2
        if not difference:
            replicates = np.clip(replicates, 0.0, np.where(names == "brier", 2.0, 1.0))
        lo, hi = percentile_interval(replicates, confidence)
        if not difference:  # without its bias, the interval of ECE may not contain it
            lo = np.where(names == "ece", np.minimum(lo, values), lo)
            hi = np.where(names == "ece", np.maximum(hi, values), hi)
        counts = independent_units(self.units[seeds], self.test_sets[seeds])
        few = self.incomplete[seeds].any() or (counts[self.names == "recall"] == 1).any()
        rare, units = few & np.isin(names, OVER_CLASSES), counts[: len(values)]
        share = np.isin(names, ("accuracy", "precision", "recall")) & np.isin(values, (0, 1))
        exact = share & (units > 0) & (not difference)
        # Precision may rest on one unit per seed, each seed on another: together they do vary.
        equal = ~exact & ((hi - lo < MIN_WIDTH) | ((units < 2) & (names != "precision")))
        far, right = tail ** (1 / np.maximum(units, 1)), values == 1
        kinds = [rare, exact, equal & np.isfinite(values)]
        return {
            "value": values,
            "lo": np.select([exact & right, exact, equal | rare], [far, 0.0, np.nan], lo),
            "hi": np.select([exact & right, exact, equal | rare], [1.0, 1 - far, np.nan], hi),
            "note": np.select(kinds, [FEW_UNITS, EXACT, ALL_EQUAL], ""),
        }


def score_block(
    runs: list[Run], units: dict[str, str], classes: list[str], params: EvaluateParams
) -> list[Scored]:
    """Score the runs of one block; runs with the same test set share its resamples.

    Args:
        runs: the runs.
        units: unit of each image id; an image without one is its own unit.
        classes: class names.
        params: resamples, confidence, bins, seed.
    """
    tests: dict[tuple, Resamples] = {}
    return [_score(run, tests, units, classes, params) for run in runs]


def _score(run, tests, units, classes, params) -> Scored:
    C, used, rows = len(classes), [], []
    names = metrics.metric_columns(C)
    for part in run.seeds.values():
        key = tuple(part.ids)
        if key not in tests:
            tests[key] = Resamples(key, [units.get(i, i) for i in key], part.y, params)
        test = tests[key]
        about = metrics.contributions(part.proba, part.y, params.bins)
        total = about.rows.sum(axis=0, dtype=np.float64)
        value = metrics.from_sums(total, about)
        plain, complete = (metrics.from_sums(sums, about) for sums in test.sums(about.rows))
        drawn = np.where(np.isin(names, OVER_CLASSES), complete, plain)
        # Resampling adds noise to every bin and ECE adds up absolute values, so replicates exceed
        # the metric as much as the metric exceeds the truth: reflect them (the basic bootstrap).
        drawn = np.where(names == "ece", 2 * value - drawn, drawn)
        true, said = (test.units_with(c, C).sum(0) for c in (part.y, part.proba.argmax(axis=1)))
        behind = np.concatenate([np.full(len(METRICS), len(test.names)), said, true, true])
        rows.append((value, drawn, total, behind, np.isnan(test.redrawn).any()))
        used.append(test)
    arrays = [np.array(of) for of in zip(*rows, strict=True)] or [np.empty((0, 1))] * 5
    distinct = list(dict.fromkeys(used))
    every = [name for test in distinct for name in test.names]
    disjoint = len(set(every)) == len(every)
    test_sets = np.array([distinct.index(test) * disjoint for test in used], int)
    return Scored(run, classes, names, *arrays, test_sets)


def run_tables(scored: Scored, params: EvaluateParams) -> Iterator[tuple[str, Columns]]:
    """Yield (name, columns) of one run: metrics (every seed, failed ones too, and the mean); where
    a seed succeeded, per_class (the mean), confusion and reliability (all seeds together)."""
    run, n = scored.run, len(METRICS)
    parts: list[Columns] = []
    for k, (seed, part) in enumerate([] if run.pooled else run.seeds.items()):
        of = scored.values[k, :n], scored.replicates[k, :, :n], params.confidence
        found = scored.settled(*of, seeds=slice(k, k + 1))
        parts.append({**NOTHING, **found, "seed": seed, "n_images": len(part.ids)})
    for seed, error in [] if run.pooled else sorted(run.failed.items()):
        parts.append({**NOTHING, "note": error, "seed": seed, "n_images": 0})
    for part in parts:
        part |= {"n_labels": run.labels[part["seed"]], "n_seeds": 1, "n_groups": 0}
    mean = {**NOTHING, "note": [""] * n}
    if run.seeds:
        found = _mean_over_seeds(scored, params)
        mean = {name: values[:n] for name, values in found.items()}
        for name, table in _class_tables(scored, found, params.bins):
            yield name, run.name | table
    notes = _notes(run, scored.classes)
    mean |= {
        "note": ["; ".join(filter(None, [*notes, note])) for note in mean["note"]],
        "seed": -1,
        "n_images": len(run.image_ids),
        "n_labels": round(np.median([*run.labels.values()])),
        "n_seeds": 1 if run.pooled else len(run.seeds),
        "n_groups": int(scored.units[:, 0].max(initial=0)),
    }
    table = {"metric": np.repeat(METRICS, len(parts) + 1)}
    for name in mean:
        table[name] = np.stack([np.broadcast_to(of[name], n) for of in [*parts, mean]]).T.ravel()
    yield "metrics", run.name | table


def _mean_over_seeds(scored: Scored, params: EvaluateParams) -> Columns:
    """Return the means over seeds of all metrics, with `t_lo` and `t_hi`."""
    upper = np.where(scored.names == "brier", 2.0, 1.0)
    of = MeanOverSeeds(scored.values, scored.replicates, [*scored.run.seeds], params, upper=upper)
    with np.errstate(invalid="ignore"):
        means = np.nansum(scored.values, axis=0) / of.count
    found = scored.settled(means, of.replicates, params.confidence)
    found["note"][np.isnan(means)] = "not defined on these images"
    half = np.where(of.count > 1, of.t_half_width((1 - params.confidence) / 2), np.nan)
    return {**found, "t_lo": means - half, "t_hi": means + half}


def _class_tables(scored: Scored, mean: Columns, bins: int) -> Iterator[tuple[str, Columns]]:
    classes, C = np.array(scored.classes), len(scored.classes)
    support = scored.confusion.sum(axis=2).mean(axis=0)
    table = {"class": classes, "support": support}
    for metric in CLASS_METRICS:
        for name, end in (("value", ""), ("lo", "_lo"), ("hi", "_hi")):
            table[f"{metric}{end}"] = mean[name][scored.names == metric]
    yield "per_class", table
    counts = scored.confusion.sum(axis=0).round().astype(int).ravel()
    yield (
        "confusion",
        {"actual": np.repeat(classes, C), "predicted": np.tile(classes, C), "n": counts},
    )
    start = C * C + 1
    found = scored.sums[:, start : start + 3 * bins].sum(axis=0).reshape(3, bins)
    at = np.flatnonzero(found[0])
    n, sure, right = found[:, at]
    table = {"bin": at, "confidence": sure / n, "accuracy": right / n}
    yield "reliability", {**table, "n": n.round().astype(int)}


def _notes(run: Run, classes: list[str]) -> list[str]:
    """Say which classes means leave out, which seeds failed and which images were not tested."""
    kinds = {0: "left out of means over classes, no test image", 1: "one test image only"}
    notes = set()
    for part in run.seeds.values():
        counts = np.bincount(part.y, minlength=len(classes))
        named = {k: [c for c, n in zip(classes, counts, strict=True) if n == k] for k in kinds}
        notes.add("; ".join(f"{kinds[k]}: {', '.join(of)}" for k, of in named.items() if of))
    failed = [f"{seed} ({error.split(':')[0]})" for seed, error in sorted(run.failed.items())]
    left = f"{len(failed)} of {len(run.labels)} seeds left out: {', '.join(failed)}"
    return [*sorted(notes), left if failed else "", run.note]


def compare_block(
    scored: list[Scored], baseline: tuple[str, str], params: EvaluateParams
) -> pd.DataFrame:
    """Return plots/comparisons.csv of one block, by fraction and metric.

    Compared are the runs of one learner on two views, of two learners on one view, and every run
    with the baseline (learner, view), which is then the second; at each fraction. The p-values of
    one metric and fraction are corrected as one family.
    """
    rows: list[dict[str, Any]] = []
    for b, a in itertools.combinations(scored, 2):
        same = a.run.learner == b.run.learner or a.run.view == b.run.view
        if a.run.fraction == b.run.fraction and (same or baseline in (a.run.key, b.run.key)):
            rows += differences(*((b, a) if a.run.key == baseline else (a, b)), params)
    rows.sort(key=lambda row: (row["fraction"], COMPARED.index(row["metric"])))
    table = pd.DataFrame(rows)
    if rows:
        table["p_holm"] = table.groupby(["metric", "fraction"])["p"].transform(holm)
        table["verdict"] = [*map(verdict, table["lo"], table["hi"], table["p_holm"])]
    return table


def differences(a: Scored, b: Scored, params: EvaluateParams) -> Iterator[dict[str, Any]]:
    """Yield a - b of each of `COMPARED` over the seeds that both have.

    lo and hi are NaN and p is 1 when the resamples carry no information. There is no row for runs
    that share no seed, nor for pooled runs that cover different images.
    """
    shared = [seed for seed in a.run.seeds if seed in b.run.seeds]
    if not shared or (a.run.pooled and a.run.image_ids != b.run.image_ids):
        return
    n = len(COMPARED)
    of_a, of_b = ([[*of.run.seeds].index(seed) for seed in shared] for of in (a, b))
    values = a.values[of_a, :n] - b.values[of_b, :n]
    replicates = a.replicates[of_a, :, :n] - b.replicates[of_b, :, :n]
    gaps = values.mean(axis=0)
    means = MeanOverSeeds(values, replicates, shared, params, lower=-1.0)
    found = a.settled(gaps, means.replicates, params.confidence, difference=True)
    # p = 1 is valid where nothing is known, and keeps Holm's family complete.
    p = np.where(np.isfinite(found["lo"]), means.p_values(gaps), 1.0)
    for f in np.flatnonzero(np.isfinite(gaps)):
        yield {
            "metric": COMPARED[f],
            "fraction": a.run.fraction,
            **dict(zip(RUNS, (*a.run.key, *b.run.key), strict=True)),
            "difference": gaps[f],
            "lo": found["lo"][f],
            "hi": found["hi"][f],
            "p": p[f],
            "n_seeds": len(shared),
            "n_images": len(a.run.image_ids),
        }


def verdict(lo: float, hi: float, p_holm: float) -> str:
    """Decide whether a difference is significant.

    Returns:
        "better" or "worse" when the interval excludes zero and the corrected p (if any) is below
        `ALPHA`; "too few" without an interval (all resamples are equal, or a class has a single
        unit); else "no difference".
    """
    if np.isnan(lo) or np.isnan(hi):
        return "too few"
    if p_holm >= ALPHA or lo <= 0 <= hi:
        return "no difference"
    return "better" if lo > 0 else "worse"


def holm(p: np.ndarray) -> np.ndarray:
    """Return p-values adjusted by Holm (1979): sorted, times the number not yet rejected."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return adjusted
