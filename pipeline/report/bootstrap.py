"""Intervals of means and correlations over images: patients, groups and copies are drawn whole.

How many resamples, how sure and which seed: the parameters of `evaluate`, as in its own tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from pipeline.config import EvaluateParams
from pipeline.evaluate.bounds import NONE, WIDTH
from pipeline.evaluate.intervals import TestSet, percentile_interval

Interval = tuple[float, float, float]


def mean_interval(
    values: np.ndarray, units: Sequence[str] | None, evaluate: EvaluateParams
) -> Interval:
    """Return mean, low and high of a percentile bootstrap; NaN without values.

    Low and high are NaN where all resamples are alike, as with a single unit.

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
    return float(values[known].mean()), *((lo, hi) if hi - lo > WIDTH else NONE)


def spearman(
    x: np.ndarray,
    y: np.ndarray,
    units: Sequence[str] | None,
    evaluate: EvaluateParams,
    strata: Sequence[str] | None = None,
) -> Interval:
    """Return Spearman's rho with its bootstrap interval; NaN where there is nothing to rank.

    Args:
        x: one an image (n,).
        y: likewise.
        units: what is drawn together, text (n,); None: every image by itself.
        evaluate: number of resamples, confidence, seed.
        strata: classes (n,); images are ranked among those of their own, so that what only tells
            classes apart is no correlation. None: all are ranked together.
    """
    of = np.zeros(len(x), int) if strata is None else np.unique(strata, return_inverse=True)[1]
    rho = _rank_correlation(x, y, of)
    if not np.isfinite(rho):
        return np.nan, np.nan, np.nan
    names = np.arange(len(x)) if units is None else np.asarray(units)
    of_unit = [np.flatnonzero(names == name) for name in np.unique(names)]
    rng = np.random.default_rng(evaluate.seed)
    draws = []
    for _ in range(evaluate.bootstrap):
        at = np.concatenate([of_unit[i] for i in rng.integers(0, len(of_unit), len(of_unit))])
        draws.append(_rank_correlation(x[at], y[at], of[at]))
    lo, hi = percentile_interval(np.array(draws), evaluate.confidence)
    return rho, lo, hi


def _rank_correlation(x: np.ndarray, y: np.ndarray, of: np.ndarray) -> float:
    """Return the correlation of ranks within each stratum, from -1/2 to 1/2 in every one.

    With one stratum it is Spearman's rho; scipy's own takes four times as long, and this runs in a
    loop. NaN where x or y is the same all over each stratum.
    """
    xy, xx, yy = 0.0, 0.0, 0.0
    for stratum in np.unique(of):
        here = of == stratum
        n = here.sum()
        a, b = (rankdata([x[here], y[here]], axis=1) - (n + 1) / 2) / n
        xy, xx, yy = xy + a @ b, xx + a @ a, yy + b @ b
    return float(xy / np.sqrt(xx * yy)) if xx > 0 and yy > 0 else np.nan
