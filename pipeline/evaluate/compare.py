"""Paired differences between runs, their verdicts and Holm's correction.

Two runs use the same resamples (same images, same seeds), so the replicates of their difference are
the differences of their replicates (`pipeline.evaluate.intervals`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from pipeline.config import EvaluateParams
from pipeline.evaluate.intervals import mean_over_seeds, p_values, percentile_interval
from pipeline.evaluate.scores import Scored

COMPARED = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc")
FAMILY = ["protocol", "subset", "metric", "fraction"]
RUNS = ["learner_a", "view_a", "learner_b", "view_b"]
COLUMNS = [
    *FAMILY,
    *RUNS,
    "difference",
    "lo",
    "hi",
    "p",
    "p_holm",
    "verdict",
    "n_seeds",
    "n_images",
]

BETTER, WORSE, NO_DIFFERENCE, TOO_FEW = "better", "worse", "no difference", "too few"
ALPHA = 0.05


def verdict(lo: float, hi: float, p_holm: float) -> str:
    """Decide whether a difference is significant.

    Returns:
        "better" or "worse" when the interval excludes zero and the corrected p (if any) is below
        `ALPHA`; "too few" without an interval (all resamples are equal, or a class has a single
        unit); else "no difference".
    """
    if np.isnan(lo) or np.isnan(hi):
        return TOO_FEW
    significant = np.isnan(p_holm) or p_holm < ALPHA
    if significant and lo > 0:
        return BETTER
    return WORSE if significant and hi < 0 else NO_DIFFERENCE


def holm(p: np.ndarray) -> np.ndarray:
    """Return p-values adjusted by Holm (1979): sorted, times the number not yet rejected."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return adjusted


def corrected(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return comparisons.csv of rows of `differences`: `p_holm`, over the rows of one protocol,
    subset, metric and fraction as one family, and `verdict` are added."""
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["p_holm"] = table.groupby(FAMILY)["p"].transform(holm)
    table["verdict"] = [verdict(*row) for row in table[["lo", "hi", "p_holm"]].to_numpy(float)]
    return table


def differences(a: Scored, b: Scored, params: EvaluateParams) -> Iterator[dict[str, Any]]:
    """Yield a - b of each of `COMPARED` over the seeds that both have.

    lo and hi are NaN and p is 1 when the resamples carry no information. There is no row for runs
    that share no seed, nor for pooled runs that cover different images.
    """
    shared = [seed for seed in a.seeds if seed in b.seeds]
    if not shared or (a.run.pooled and a.run.image_ids != b.run.image_ids):
        return
    at = [a.columns[metric, -1] for metric in COMPARED]
    values, replicates = (
        x[[a.seeds.index(s) for s in shared]][..., at]
        - y[[b.seeds.index(s) for s in shared]][..., at]
        for x, y in ((a.values, b.values), (a.replicates, b.replicates))
    )
    gap = values.mean(axis=0)
    means = mean_over_seeds(values, replicates, shared, params, lower=-1.0)
    ends = percentile_interval(means.replicates, params.confidence)
    for metric, value, p, *interval in zip(COMPARED, gap, p_values(gap, means), *ends, strict=True):
        if not np.isfinite(value):
            continue
        lo, hi, _ = a.settled(
            metric, -1, value, interval, slice(None), params.confidence, difference=True
        )
        yield {
            "metric": metric,
            "fraction": a.run.fraction,
            **dict(zip(RUNS, (*a.run.key, *b.run.key), strict=True)),
            "difference": float(value),
            "lo": lo,
            "hi": hi,
            # p = 1 is valid where nothing is known, and keeps Holm's family complete.
            "p": float(p) if np.isfinite(lo) else 1.0,
            "n_seeds": len(shared),
            "n_images": len(a.run.image_ids),
        }


def compare_block(
    scored: list[Scored], baseline: tuple[str, str], params: EvaluateParams
) -> list[dict[str, Any]]:
    """Compare the runs of one block at each fraction, by fraction and metric.

    Compared are the runs of one learner on two views, of two learners on one view, and every run
    with the baseline (learner, view).
    """
    rows = []
    for i, b in enumerate(scored):
        for a in scored[i + 1 :]:
            if a.run.fraction != b.run.fraction:
                continue
            if a.run.key == baseline:
                rows += differences(b, a, params)
            elif (
                b.run.key == baseline or a.run.learner == b.run.learner or a.run.view == b.run.view
            ):
                rows += differences(a, b, params)
    return sorted(rows, key=lambda row: (row["fraction"], COMPARED.index(row["metric"])))
