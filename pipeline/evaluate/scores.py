"""Metrics of the runs of one block (protocol and subset) with intervals, and paired differences.

Every image contributes a row of numbers: its cell of the confusion matrix, its squared error, its
confidence bin and its ranks. Every metric is a function of the sum of these rows. Sums with
weights 1 give the metric, sums with resampling weights its bootstrap replicates. Two runs use the
same resamples, so the replicates of their difference are the differences of their replicates.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from pipeline.config import EvaluateParams
from pipeline.evaluate.intervals import (
    MIN_WIDTH,
    MeanOverSeeds,
    Resamples,
    independent_units,
    percentile_interval,
)
from pipeline.evaluate.predictions import Run

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc", "ece", "brier")
OVER_CLASSES = ("balanced_accuracy", "macro_f1", "macro_auroc")
"""Metrics that are means over classes."""
CLASS_METRICS = ("precision", "recall", "f1")
"""Metrics of a single class."""
COMPARED = METRICS[:4]
RUNS = ["learner_a", "view_a", "learner_b", "view_b"]
ALPHA = 0.05

EXACT = "exact bound (Clopper-Pearson), all units right or all wrong"
ALL_EQUAL = "no interval, all resamples are equal"
FEW_UNITS = "no interval, a class has one test unit, or resamples with every class are rare"
NOTHING = dict.fromkeys(("value", "lo", "hi", "note", "t_lo", "t_hi"), np.nan)

Columns = dict[str, Any]
"""Columns of a table: an array of n values, or one value for all rows."""


def metric_columns(n_classes: int) -> np.ndarray:
    """Return the metric of each column of `from_sums`, text (F,); F = 6 + 3 C."""
    return np.array([*METRICS, *np.repeat(CLASS_METRICS, n_classes)])


class Contributions(NamedTuple):
    """What each image adds to the sums.

    The columns of `rows` are C * C confusion cells, squared error, `bins` x (count, confidence,
    correct), C AUROC components of positives, C of negatives.
    """

    rows: np.ndarray  # float32 (n, K)
    present: np.ndarray  # whether each class has an image, bool (C,)
    auroc: np.ndarray  # of one class against the rest, float64 (C,); NaN where one side is empty


def contributions(proba: np.ndarray, y: np.ndarray, bins: int = 15) -> Contributions:
    """Return what each image adds to the sums, for probabilities (n, C) and true classes (n,).

    AUROC has the structural components of DeLong et al. (1988): of an image of the class the share
    of other images that score lower, of another image the share of the class that scores higher,
    ties counting half. The confidence bins have equal width on [0, 1]; an edge belongs to the
    upper one.
    """
    n, C = proba.shape
    here, predicted = np.arange(n), proba.argmax(axis=1)
    confidence = proba[here, predicted].astype(np.float64)
    which = np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="right") - 1
    bin_of = C * C + 1 + np.clip(which, 0, bins - 1)
    rows = np.zeros((n, C * C + 1 + 3 * bins + 2 * C), dtype=np.float32)
    rows[here, y * C + predicted] = 1
    rows[:, C * C] = ((proba - np.eye(C, dtype=proba.dtype)[y]) ** 2).sum(axis=1)
    rows[here, bin_of] = 1
    rows[here, bin_of + bins] = confidence
    rows[here, bin_of + 2 * bins] = predicted == y
    auroc, counts = np.full(C, np.nan), np.bincount(y, minlength=C)
    for c in np.flatnonzero(counts % n):  # classes with images of their own and others
        positive, lower = y == c, rankdata(proba[:, c])
        for part in (positive, ~positive):
            lower[part] -= rankdata(proba[part, c])
        share = lower / np.where(positive, n - counts[c], counts[c])
        rows[positive, c - 2 * C] = share[positive]
        rows[~positive, c - C] = 1 - share[~positive]
        auroc[c] = share[positive].mean()
    return Contributions(rows, counts > 0, auroc)


def from_sums(sums: np.ndarray, about: Contributions) -> np.ndarray:
    """Return every metric, float64 (..., F), of weighted sums of `about.rows`, (..., K); NaN where
    undefined.

    Means over classes leave out classes without a true image, macro-AUROC also classes without any
    other image. Replicates of AUROC are first-order: exact with weights 1. A class without a true
    image has F1 NaN if it was not predicted either, or if only the resample lacks it: its F1 would
    be 0 for lack of images, not for errors.
    """
    C = len(about.present)
    sums = np.asarray(sums, dtype=np.float64)
    confusion = sums[..., : C * C].reshape(*sums.shape[:-1], C, C)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    n, present = confusion.sum(axis=(-2, -1)), true > 0
    other = n[..., None] - true
    _, confidence, correct = np.split(sums[..., C * C + 1 : -2 * C], 3, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc = sums[..., -2 * C : -C] / true + sums[..., -C:] / other - about.auroc
        precision, recall, f1 = hits / predicted, hits / true, 2 * hits / (true + predicted)
        over_all = (
            hits.sum(axis=-1) / n,
            _mean(recall, present),
            _mean(f1, present),
            _mean(np.clip(auroc, 0, 1), present & (other > 0) & np.isfinite(about.auroc)),
            np.abs(confidence - correct).sum(axis=-1) / n,
            sums[..., C * C] / n,
        )
    f1[~present & about.present] = np.nan
    return np.concatenate([np.stack(over_all, axis=-1), precision, recall, f1], axis=-1)


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    count = where.sum(axis=-1)
    return np.where(where, values, 0.0).sum(axis=-1) / np.where(count, count, np.nan)


@dataclass
class Scored:
    """One run of a block: S seeds, B resamples, C classes, F metrics (`metric_columns`).

    `units` counts the units behind each metric: of the test set, with an image predicted as the
    class (precision), or with an image of the class (recall, F1).
    """

    run: Run
    classes: list[str]
    values: np.ndarray  # of each seed, (S, F)
    replicates: np.ndarray  # their bootstrap, (S, B, F); that of ECE is reflected in its value
    sums: np.ndarray  # summed contributions, (S, K)
    units: np.ndarray  # int (S, F)
    incomplete: np.ndarray  # whether some resamples lack a class, bool (S,)
    test_sets: np.ndarray  # number of each seed's test set, int (S,); 0 for all where they overlap

    @property
    def names(self) -> np.ndarray:
        return metric_columns(len(self.classes))

    @property
    def upper(self) -> np.ndarray:
        """The largest value of each metric; the smallest is 0."""
        return np.where(self.names == "brier", 2.0, 1.0)

    def of_seeds(self, n: int, confidence: float) -> list[Columns]:
        """Return the first n metrics of each seed, with their intervals and notes."""
        drawn = np.clip(self.replicates[:, :, :n], 0, self.upper[:n]).swapaxes(0, 1)
        ends = percentile_interval(drawn, confidence)
        return [
            {"value": value, **self.interval(value, ends[:, k], confidence, slice(k, k + 1))}
            for k, value in enumerate(self.values[:, :n])
        ]

    def mean(self, params: EvaluateParams) -> Columns:
        """Return the means over all seeds, with their intervals, notes, and the t-interval over
        seeds alone (`t_lo`, `t_hi`)."""
        seeds, upper = [*self.run.seeds], self.upper
        of = MeanOverSeeds(self.values, self.replicates, seeds, params, upper=upper)
        with np.errstate(invalid="ignore"):
            means = np.nansum(self.values, axis=0) / of.count
        half = np.where(of.count > 1, of.t_half_width((1 - params.confidence) / 2), np.nan)
        ends = percentile_interval(of.replicates, params.confidence)
        found = self.interval(means, ends, params.confidence)
        return {"value": means, **found, "t_lo": means - half, "t_hi": means + half}

    def interval(
        self,
        values: np.ndarray,
        ends: np.ndarray,
        confidence: float,
        seeds: slice = slice(None),
        *,
        shares: bool = True,
    ) -> Columns:
        """Return the interval of the first metrics (F,) with percentiles (2, F), and a note.

        With `shares`, an accuracy, precision or recall of 0 or 1 has the exact interval of Clopper
        and Pearson. No interval has a metric whose resamples are all equal, nor a mean over
        classes where a class has a single unit, or no resamples with every class were found.
        """
        names, tail = self.names[: len(values)], (1 - confidence) / 2
        lo, hi = ends
        # Without its bias, the interval of ECE may not contain it.
        lo = np.where(names == "ece", np.minimum(lo, values), lo)
        hi = np.where(names == "ece", np.maximum(hi, values), hi)
        counts = independent_units(self.units[seeds], self.test_sets[seeds])
        few = self.incomplete[seeds].any() or (counts[self.names == "recall"] == 1).any()
        rare, units = few & np.isin(names, OVER_CLASSES), counts[: len(values)]
        share = np.isin(names, ("accuracy", "precision", "recall")) & np.isin(values, (0, 1))
        exact = share & (units > 0) & shares
        # Precision may rest on one unit per seed, each seed on another: together they do vary.
        equal = ~exact & ((hi - lo < MIN_WIDTH) | ((units < 2) & (names != "precision")))
        far, right = tail ** (1 / np.maximum(units, 1)), values == 1
        kinds = [rare, exact, equal & np.isfinite(values)]
        return {
            "lo": np.select([exact & right, exact, equal | rare], [far, 0.0, np.nan], lo),
            "hi": np.select([exact & right, exact, equal | rare], [1.0, 1 - far, np.nan], hi),
            "note": np.select(kinds, [FEW_UNITS, EXACT, ALL_EQUAL], ""),
        }


def score_block(
    runs: list[Run], units: dict[str, str], classes: list[str], params: EvaluateParams
) -> list[Scored]:
    """Score the runs of one block; runs with the same test set share its resamples. `classes` are
    the names of all classes, `units` the unit of each image id; an image without one is its own.
    """
    C, names, scored = len(classes), metric_columns(len(classes)), []
    over = np.flatnonzero(np.isin(names, OVER_CLASSES))
    tests: dict[tuple, Resamples] = {}
    for run in runs:
        used, rows = [], []
        for part in run.seeds.values():
            key = tuple(part.ids)
            if key not in tests:
                tests[key] = Resamples(key, [units.get(i, i) for i in key], part.y, params)
            test = tests[key]
            about = contributions(part.proba, part.y, params.bins)
            total = about.rows.sum(axis=0, dtype=np.float64)
            value = from_sums(total, about)
            drawn, complete = (from_sums(sums, about) for sums in test.sums(about.rows))
            drawn[np.ix_(test.lacking, over)] = complete[:, over]
            # Resampling adds noise to every bin and ECE adds up absolute values, so replicates
            # exceed the metric as much as it exceeds the truth: reflect them (basic bootstrap).
            drawn = np.where(names == "ece", 2 * value - drawn, drawn)
            true, said = (test.units_with(c, C).sum(0) for c in (part.y, part.proba.argmax(1)))
            behind = np.concatenate([np.full(len(METRICS), len(test.names)), said, true, true])
            rows.append((value, drawn, total, behind, np.isnan(test.redrawn).any()))
            used.append(test)
        arrays = [np.array(of) for of in zip(*rows, strict=True)] or [np.empty((0, 1))] * 5
        distinct = list(dict.fromkeys(used))
        every = [name for test in distinct for name in test.names]
        disjoint = len(set(every)) == len(every)
        test_sets = np.array([distinct.index(test) * disjoint for test in used], int)
        scored.append(Scored(run, classes, *arrays, test_sets))
    return scored


def run_tables(scored: Scored, params: EvaluateParams) -> Iterator[tuple[str, Columns]]:
    """Yield (name, columns) of one run: metrics (every seed, failed ones too, and the mean); where
    a seed succeeded, per_class (the mean), confusion and reliability (all seeds together)."""
    run, n = scored.run, len(METRICS)
    name = {"learner": run.learner, "view": run.view, "fraction": run.fraction}
    parts: list[Columns] = []
    if not run.pooled:
        found = scored.of_seeds(n, params.confidence) if run.seeds else []
        for one, (seed, part) in zip(found, run.seeds.items(), strict=True):
            parts.append({**NOTHING, **one, "seed": seed, "n_images": len(part.ids)})
        for seed, error in sorted(run.failed.items()):
            parts.append({**NOTHING, "note": error, "seed": seed, "n_images": 0})
    for part in parts:
        part |= {"n_labels": run.labels[part["seed"]], "n_seeds": 1, "n_groups": 0}
    mean = {**NOTHING, "note": [""] * n}
    if run.seeds:
        found = scored.mean(params)
        found["note"][np.isnan(found["value"])] = "not defined on these images"
        mean = {column: values[:n] for column, values in found.items()}
        for table, columns in _class_tables(scored, found, params.bins):
            yield table, name | columns
    notes = _notes(run, scored.classes)
    mean |= {
        "note": ["; ".join(filter(None, [*notes, note])) for note in mean["note"]],
        "seed": -1,
        "n_images": len(run.image_ids),
        "n_labels": round(np.median([*run.labels.values()])),
        "n_seeds": 1 if run.pooled else len(run.seeds),
        "n_groups": int(scored.units[:, 0].max(initial=0)),
    }
    by_metric = {
        column: np.stack([np.broadcast_to(of[column], n) for of in [*parts, mean]]).T.ravel()
        for column in mean
    }
    yield "metrics", {**name, "metric": np.repeat(METRICS, len(parts) + 1), **by_metric}


def _class_tables(scored: Scored, mean: Columns, bins: int) -> Iterator[tuple[str, Columns]]:
    classes, C = np.array(scored.classes), len(scored.classes)
    confusion = scored.sums[:, : C * C].reshape(-1, C, C)
    ends = {"": "value", "_lo": "lo", "_hi": "hi"}
    table = {"class": classes, "support": confusion.sum(axis=2).mean(axis=0)}
    for metric, (end, of) in itertools.product(CLASS_METRICS, ends.items()):
        table[f"{metric}{end}"] = mean[of][scored.names == metric]
    yield "per_class", table
    cells = {"actual": np.repeat(classes, C), "predicted": np.tile(classes, C)}
    yield "confusion", {**cells, "n": confusion.sum(axis=0).round().astype(int).ravel()}
    of_bins = scored.sums[:, C * C + 1 : C * C + 1 + 3 * bins].sum(axis=0).reshape(3, bins)
    at = np.flatnonzero(of_bins[0])
    n, sure, right = of_bins[:, at]
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
) -> list[Columns]:
    """Return the rows of plots/comparisons.csv of one block, by fraction and metric.

    Compared are the runs of one learner on two views, of two learners on one view, and every run
    with the baseline (learner, view), which is then the second; at each fraction.
    """
    pairs = []
    for b, a in itertools.combinations(scored, 2):
        same = a.run.learner == b.run.learner or a.run.view == b.run.view
        if a.run.fraction == b.run.fraction and (same or baseline in (a.run.key, b.run.key)):
            pairs.append((b, a) if a.run.key == baseline else (a, b))
    return compare_pairs(pairs, params)


def compare_pairs(pairs: Iterable[tuple[Scored, Scored]], params: EvaluateParams) -> list[Columns]:
    """Return the differences of pairs (a, b) of runs with verdicts, by fraction and metric.

    The p-values of one metric and fraction are corrected as one family. Pairs without a common
    seed, and pooled runs of different images, have no row.
    """
    by_seeds: dict[tuple, list[tuple[Scored, Scored]]] = {}  # by fraction and shared seeds
    for a, b in pairs:
        shared = tuple(seed for seed in a.run.seeds if seed in b.run.seeds)
        if shared and not (a.run.pooled and a.run.image_ids != b.run.image_ids):
            by_seeds.setdefault((a.run.fraction, shared), []).append((a, b))
    rows = [row for (_, seeds), of in by_seeds.items() for row in differences(of, seeds, params)]
    rows.sort(key=lambda row: (row["fraction"], COMPARED.index(row["metric"])))
    for _, family in itertools.groupby(rows, key=lambda row: (row["fraction"], row["metric"])):
        family = list(family)
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row |= {"p_holm": p, "verdict": verdict(row["lo"], row["hi"], p)}
    return rows


def differences(
    pairs: list[tuple[Scored, Scored]], seeds: Sequence[int], params: EvaluateParams
) -> Iterator[Columns]:
    """Yield a - b of each of `COMPARED` over seeds that both have, for pairs (a, b) of runs.

    lo and hi are NaN and p is 1 when the resamples carry no information.
    """
    n = len(COMPARED)

    def of(one: Scored) -> tuple[np.ndarray, np.ndarray]:
        rows = [[*one.run.seeds].index(seed) for seed in seeds]
        return one.values[rows, :n], one.replicates[rows, :, :n]

    # One bootstrap of all pairs: values (S, pairs, n), replicates (S, B, pairs, n).
    both = [[x - y for x, y in zip(of(a), of(b), strict=True)] for a, b in pairs]
    values, replicates = (np.stack(arrays, axis=-2) for arrays in zip(*both, strict=True))
    means = MeanOverSeeds(values, replicates, seeds, params, lower=-1.0)
    ends = percentile_interval(means.replicates, params.confidence)
    gaps = values.mean(axis=0)
    ps = means.p_values(gaps)
    for k, (a, b) in enumerate(pairs):
        found = a.interval(gaps[k], ends[:, k], params.confidence, shares=False)
        # p = 1 is valid where nothing is known, and keeps Holm's family complete.
        found |= {"difference": gaps[k], "p": np.where(np.isfinite(found["lo"]), ps[k], 1)}
        for f in np.flatnonzero(np.isfinite(gaps[k])):
            yield {
                "metric": COMPARED[f],
                "fraction": a.run.fraction,
                **dict(zip(RUNS, (*a.run.key, *b.run.key), strict=True)),
                **{name: found[name][f] for name in ("difference", "lo", "hi", "p")},
                "n_seeds": len(seeds),
                "n_images": len(a.run.image_ids),
            }


def verdict(lo: float, hi: float, p_holm: float) -> str:
    """Return "better" or "worse" when the interval of a difference excludes zero and its corrected
    p is below `ALPHA`; "too few" without an interval (all resamples are equal, or a class has a
    single unit); else "no difference"."""
    if np.isnan(lo) or np.isnan(hi):
        return "too few"
    if p_holm >= ALPHA or lo <= 0 <= hi:
        return "no difference"
    return "better" if lo > 0 else "worse"


def holm(p: np.ndarray) -> np.ndarray:
    """Return p-values adjusted by Holm (1979): sorted, times the number not yet rejected."""
    p = np.asarray(p, dtype=np.float64)
    order, factors = np.argsort(p, kind="stable"), np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return adjusted
