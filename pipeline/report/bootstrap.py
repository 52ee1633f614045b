"""Intervals of means and correlations over images: patients, groups and copies are drawn whole.

How many resamples, how sure and which seed: the parameters of `evaluate`, as in its own tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from pipeline.config import EvaluateParams
from pipeline.evaluate.intervals import TestSet, percentile_interval

Interval = tuple[float, float, float]


def mean_interval(
    values: np.ndarray, units: Sequence[str] | None, evaluate: EvaluateParams
) -> Interval:
    """Return mean, low and high of a percentile bootstrap; NaN without values.

    Two lists of values of the same units are resampled alike.

    Args:
        values: one an image (n,); those that are not finite are left out.
        units: what is drawn together, text (n,); None: every image by itself.
        evaluate: number of resamples, confidence, seed.
    """
    values = np.asarray(values, float)
    known = np.isfinite(values)
    if not known.any():
        return np.nan, np.nan, np.nan
    names = np.arange(len(values)) if units is None else np.asarray(units)
    names = names[known].astype(str)
    drawn = TestSet(names, names, evaluate.bootstrap, evaluate.seed)
    sums = drawn.replicate_sums(np.stack([values[known], np.ones(known.sum())], axis=1))
    lo, hi = percentile_interval(sums[:, 0] / sums[:, 1], evaluate.confidence)
    return float(values[known].mean()), lo, hi


def spearman(
    x: np.ndarray, y: np.ndarray, units: Sequence[str] | None, evaluate: EvaluateParams
) -> Interval:
    """Return Spearman's rho with its bootstrap interval; NaN where there is nothing to rank.

    Args:
        x: one an image (n,).
        y: likewise.
        units: what is drawn together, text (n,); None: every image by itself.
        evaluate: number of resamples, confidence, seed.
    """
    if len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
        return np.nan, np.nan, np.nan
    names = np.arange(len(x)) if units is None else np.asarray(units)
    of_unit = [np.flatnonzero(names == name) for name in np.unique(names)]
    rng = np.random.default_rng(evaluate.seed)
    draws = []
    for _ in range(evaluate.bootstrap):
        at = np.concatenate([of_unit[i] for i in rng.integers(0, len(of_unit), len(of_unit))])
        if len(np.unique(x[at])) > 1 and len(np.unique(y[at])) > 1:
            draws.append(_rank_correlation(x[at], y[at]))
    lo, hi = percentile_interval(np.array(draws), evaluate.confidence)
    return _rank_correlation(x, y), lo, hi


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's rho; scipy's own takes four times as long, and this runs in a loop."""
    return float(np.corrcoef(rankdata([x, y], axis=1))[0, 1])
