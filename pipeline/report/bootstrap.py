"""Intervals of means and correlations over images: patients or groups are drawn whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

from pipeline.evaluate.intervals import TestSet, percentile_interval

RESAMPLES = 1000
CONFIDENCE = 0.95
SEED = 0

Interval = tuple[float, float, float]


def mean_interval(
    values: np.ndarray, units: Sequence[str] | None = None, confidence: float = CONFIDENCE
) -> Interval:
    """Return mean, low and high of a percentile bootstrap; NaN without values.

    Two lists of values of the same units are resampled alike.

    Args:
        values: one an image (n,); those that are not finite are left out.
        units: what is drawn together, text (n,); default every image by itself.
        confidence: of the interval.
    """
    values = np.asarray(values, float)
    known = np.isfinite(values)
    if not known.any():
        return np.nan, np.nan, np.nan
    names = np.arange(len(values)) if units is None else np.asarray(units)
    names = names[known].astype(str)
    drawn = TestSet(names, names, RESAMPLES, SEED)
    sums = drawn.replicate_sums(np.stack([values[known], np.ones(known.sum())], axis=1))
    lo, hi = percentile_interval(sums[:, 0] / sums[:, 1], confidence)
    return float(values[known].mean()), lo, hi


def spearman(x: np.ndarray, y: np.ndarray, units: Sequence[str] | None = None) -> Interval:
    """Return Spearman's rho with a 95 % bootstrap interval; NaN where there is nothing to rank.

    Args:
        x: one an image (n,).
        y: likewise.
        units: what is drawn together, text (n,); default every image by itself.
    """
    if len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
        return np.nan, np.nan, np.nan
    names = np.arange(len(x)) if units is None else np.asarray(units)
    of_unit = [np.flatnonzero(names == name) for name in np.unique(names)]
    rng = np.random.default_rng(SEED)
    draws = []
    for _ in range(500):
        at = np.concatenate([of_unit[i] for i in rng.integers(0, len(of_unit), len(of_unit))])
        if len(np.unique(x[at])) > 1 and len(np.unique(y[at])) > 1:
            draws.append(spearmanr(x[at], y[at]).statistic)
    lo, hi = np.quantile(draws, [0.025, 0.975]) if draws else (np.nan, np.nan)
    return float(spearmanr(x, y).statistic), float(lo), float(hi)
