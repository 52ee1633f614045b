"""Confidence intervals: a bootstrap over test images that accounts for seeds, and exact bounds.

**Images.** Whole units (patients, groups, copies) are drawn with replacement. Runs tested on the
same images use the same draws, so the difference of two runs is a paired difference.

**Seeds.** Drawing a few seeds with replacement gives too little spread: its variance is
(S - 1) / S of the sample variance, and a normal quantile is too small for S - 1 degrees of freedom.
The replicates of a mean over S seeds therefore keep their shape and are stretched to the half-width

    sqrt(t^2 s^2 / S + z^2 c),

where s is the standard deviation over seeds (ddof 1), t the quantile of Student's t with S - 1
degrees of freedom, z the normal quantile, and c the covariance of two seeds in the bootstrap over
images: the uncertainty that all seeds share because they share test images. With one fold per seed
c is 0, and s already contains the spread of the images. The half-width is at least z times the
bootstrap error with fixed seeds, and at least that of the t-interval over seeds alone. In
simulations it covers 95 to 98 of 100 true values with 3 to 10 seeds, and up to 99 with two.

**No spread.** When every unit is right or every unit is wrong, all resamples are equal and their
interval has no width. Accuracy, precision and recall then get the exact bound of Clopper and
Pearson (1934); other metrics get no interval (`settle`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import special, stats

if TYPE_CHECKING:
    from pipeline.config import EvaluateParams

NONE = (float("nan"), float("nan"))
MIN_WIDTH = 1e-6  # a narrower interval is the rounding error of float32 sums
MAX_DRAWS = 100  # attempts at a resample that holds every class
LOG_P_MIN = -100.0  # log10 of the smallest p-value

EXACT = "exact bound (Clopper-Pearson), all units right or all wrong"
ALL_EQUAL = "no interval, all resamples are equal"


class Resamples:
    """Bootstrap weights of one test set.

    As many units are drawn as there are, with replacement. The draw depends only on the image ids
    and the seed.

    A mean over classes is undefined in a resample that lacks a class. For these metrics such
    resamples are drawn again until they hold every class (as pROC leaves them out, Robin et al.
    2011; stratified draws are impossible where a unit holds images of several classes).

    Args:
        ids: image ids (n,).
        units: unit of each image, text (n,).
        bootstrap: number of resamples, B.
        seed: seed of the draw.
        y: class of each image, int (n,); None = all images are of one class.

    Attributes:
        names: the units, (G,).
        unit: index of each image's unit, int (n,).
    """

    def __init__(
        self,
        ids: np.ndarray,
        units: np.ndarray,
        bootstrap: int,
        seed: int,
        y: np.ndarray | None = None,
    ):
        self.names, self.unit = np.unique(np.asarray(units, dtype=str), return_inverse=True)
        self.bootstrap, self.y = bootstrap, np.zeros(len(ids), int) if y is None else y
        self._entropy = _entropy("\0".join([str(seed), *map(str, ids)]))

    @cached_property
    def weights(self) -> np.ndarray:
        """How often each unit is drawn, float32 (B, G)."""
        return self._draw(np.random.default_rng(self._entropy), self.bootstrap)

    def _draw(self, rng: np.random.Generator, times: int) -> np.ndarray:
        G = len(self.names)
        return rng.multinomial(G, np.full(G, 1 / G), size=times).astype(np.float32)

    @cached_property
    def redrawn(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the resamples that lack a class, int (R,), and their replacements,
        float32 (R, G); NaN where none was found in `MAX_DRAWS` draws."""
        holds = self.units_with(self.y).astype(np.float32)
        holds = holds[:, holds.any(axis=0)]
        lacking = np.flatnonzero((self.weights @ holds == 0).any(axis=1))
        weights = np.full((len(lacking), len(self.names)), np.nan, dtype=np.float32)
        rng, left = np.random.default_rng([self._entropy, 1]), np.arange(len(lacking))
        for _ in range(MAX_DRAWS):
            if not len(left):
                break
            drawn = self._draw(rng, len(left))
            complete = (drawn @ holds > 0).all(axis=1)
            weights[left[complete]] = drawn[complete]
            left = left[~complete]
        return lacking, weights

    def units_with(self, classes: np.ndarray, n_classes: int = 0) -> np.ndarray:
        """Return which units hold an image of each class, bool (G, C), for classes (n,)."""
        found = np.zeros((len(self.names), max(n_classes, classes.max() + 1)), dtype=bool)
        found[self.unit, classes] = True
        return found

    def sums(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the weighted sums of rows (n, K) in each resample, float32 (B, K): of the plain
        resamples, and of those with every class."""
        if len(self.names) != len(rows):
            by_unit = np.zeros((len(self.names), rows.shape[1]), dtype=np.float32)
            np.add.at(by_unit, self.unit, rows)
        else:
            by_unit = rows[np.argsort(self.unit)]
        plain = self.weights @ by_unit
        lacking, weights = self.redrawn
        complete = plain.copy()
        complete[lacking] = weights @ by_unit
        return plain, complete


def _entropy(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


@lru_cache
def seed_weights(seeds: tuple[int, ...], bootstrap: int, seed: int) -> np.ndarray:
    """Return how often each seed (sorted) is drawn in each resample, (B, S); rows sum to S."""
    S = len(seeds)
    rng = np.random.default_rng(_entropy(f"seeds {seed} {list(seeds)}"))
    weights = rng.multinomial(S, np.full(S, 1 / S), size=bootstrap)
    weights.flags.writeable = False
    return weights


@dataclass(frozen=True)
class MeanOverSeeds:
    """Bootstrap of means over seeds; the arrays have the shape of the metrics, (...).

    Attributes:
        replicates: stretched replicates (B, ...); NaN where undefined.
        seeds: s^2 / S with `degrees` degrees of freedom; 0 for one seed.
        shared: c, the variance that all seeds share.
        images: variance of the bootstrap over images with fixed seeds.
        degrees: S - 1, at least 1.
    """

    replicates: np.ndarray
    seeds: np.ndarray
    shared: np.ndarray
    images: np.ndarray
    degrees: np.ndarray


def mean_over_seeds(
    values: np.ndarray,
    replicates: np.ndarray,
    weights: np.ndarray,
    confidence: float,
    lower: np.ndarray | float = 0.0,
    upper: np.ndarray | float = 1.0,
) -> MeanOverSeeds:
    """Bootstrap means over seeds; with one seed, this is the bootstrap over its images.

    Args:
        values: the metrics of each seed (S, ...); seeds with NaN are left out.
        replicates: their replicates over images, (S, B, ...); NaN is left out.
        weights: from `seed_weights`, (B, S).
        confidence: level of the interval whose width is corrected.
        lower, upper: range of the metrics (...); replicates are clipped to it.
    """
    known = np.isfinite(values)
    S = known.sum(axis=0)
    drawn = _weighted_mean(replicates, weights)
    replicates = np.where(known[:, None], replicates, np.nan)
    images = _variance(_weighted_mean(replicates, np.ones_like(weights)))
    several = S > 1
    with np.errstate(invalid="ignore", divide="ignore"):
        own = sum(_variance(of_seed) for of_seed in replicates)
        shared = np.maximum(0.0, (S * S * images - own) / (S * (S - 1)))
        shared = np.where(several, shared, images)
        seeds = np.where(several, _variance(values) / S, 0.0)
        degrees = np.maximum(S - 1, 1)
        half = _half_width((1 - confidence) / 2, seeds, shared, images, degrees)
        lo, hi = percentile_interval(drawn, confidence)
        count = np.isfinite(drawn).sum(axis=0)
        centre = np.where(np.isfinite(drawn), drawn, 0.0).sum(axis=0) / count
        # Scaled by the width of the interval, not by the variance: few seeds have few distinct
        # means.
        stretched = np.clip(centre + half / ((hi - lo) / 2) * (drawn - centre), lower, upper)
    drawn = np.where(several & (hi > lo), stretched, drawn)
    return MeanOverSeeds(drawn, seeds, shared, images, degrees)


def _weighted_mean(replicates: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over seeds in each resample, (B, ...); NaN is left out."""
    known = np.isfinite(replicates)
    count = np.einsum("bs,sb...->b...", weights, known)
    total = np.einsum("bs,sb...->b...", weights, np.where(known, replicates, 0.0))
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _variance(values: np.ndarray) -> np.ndarray:
    """Return the variance (ddof 1) over the first axis without NaN; 0 for fewer than two."""
    known = np.isfinite(values)
    n = known.sum(axis=0)
    mean = np.where(known, values, 0.0).sum(axis=0) / np.maximum(n, 1)
    squares = (np.where(known, values - mean, 0.0) ** 2).sum(axis=0)
    return np.where(n > 1, squares / np.maximum(n - 1, 1), 0.0)


def p_values(differences: np.ndarray, of: MeanOverSeeds) -> np.ndarray:
    """Return two-sided p-values: the level at which the half-width equals the difference.

    This is Student's t-test where only seeds vary and the normal test where only images vary. It
    is 1 where nothing varies. A share of B replicates could not be smaller than 1 / B, which is too
    coarse for Holm's correction.

    The percentile interval is centred on the mean of the replicates and keeps their skew, so near
    p = 1 - confidence only one of the two may exclude zero (in 20 to 197 of the 7,440 differences
    of each published data set). A verdict requires both (`pipeline.evaluate.compare.verdict`).
    """
    value = np.abs(np.asarray(differences, dtype=np.float64))
    low, high = np.full(value.shape, LOG_P_MIN), np.zeros(value.shape)  # log10 of p
    for _ in range(60):
        middle = (low + high) / 2
        tail = 10**middle / 2
        wide = _half_width(tail, of.seeds, of.shared, of.images, of.degrees) > value
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    varies = (of.seeds != 0) | (of.shared != 0) | (of.images != 0)
    return np.where(varies, 10**low, 1.0)


def _half_width(tail, seeds, shared, images, degrees) -> np.ndarray:
    """Return the half-width of the interval that leaves `tail` at either end."""
    t, z = special.stdtrit(degrees, tail), special.ndtri(tail)
    return np.maximum(np.sqrt(t**2 * seeds + z**2 * shared), -z * np.sqrt(images))


def percentile_interval(replicates: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentiles of replicates (B, ...) over the first axis, without NaN; NaN where
    there are none."""
    levels = [(1 - confidence) / 2, 1 - (1 - confidence) / 2]
    columns = replicates.reshape(len(replicates), -1)
    ends = np.full((2, columns.shape[1]), np.nan)
    known = np.isfinite(columns)
    complete = known.all(axis=0)
    ends[:, complete] = np.quantile(columns[:, complete], levels, axis=0)
    for i in np.flatnonzero(~complete & known.any(axis=0)):
        ends[:, i] = np.quantile(columns[known[:, i], i], levels)
    lo, hi = ends.reshape(2, *replicates.shape[1:])
    return lo, hi


def t_interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return the t-interval of the mean over seeds; NaN for fewer than two.

    It contains the choice of training images, but not the choice of test images.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return NONE
    t = _t_quantile(confidence, len(values) - 1)
    half = t * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


@lru_cache
def _t_quantile(confidence: float, degrees: int) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, degrees))


def exact_bounds(value: float, units: int, confidence: float) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share of 0 or 1 in so many independent units.

    Example:
        >>> [round(end, 3) for end in exact_bounds(1.0, 20, 0.95)]
        [0.832, 1.0]
    """
    far = ((1 - confidence) / 2) ** (1 / units)
    return (far, 1.0) if value == 1 else (0.0, 1 - far)


def settle(
    metric: str, value: float, interval: tuple[float, float], units: int, confidence: float
) -> tuple[float, float, str]:
    """Return the ends of the interval to report and a note ("" = the bootstrap's interval).

    Args:
        metric: name of the metric ("" for a difference).
        value: the metric.
        interval: its bootstrap interval.
        units: number of independent units behind it.
        confidence: level of the interval.
    """
    lo, hi = interval
    if metric in ("accuracy", "precision", "recall") and value in (0, 1) and units:
        return *exact_bounds(value, units, confidence), EXACT
    # Precision may rest on one unit per seed, each seed on another: together they do vary.
    if hi - lo < MIN_WIDTH or (units < 2 and metric != "precision"):
        return *NONE, ALL_EQUAL if np.isfinite(value) else ""
    return float(lo), float(hi), ""


def mean_interval(
    values: np.ndarray, units: Sequence[str] | None, params: EvaluateParams
) -> tuple[float, float, float]:
    """Return the mean of a value per image and its bootstrap interval.

    Two lists of values of the same units use the same resamples.

    Args:
        values: one value per image (n,); NaN is left out.
        units: unit of each image, text (n,); None = every image is a unit.
        params: number of resamples, confidence and seed.

    Returns:
        mean, lo, hi; NaN without values, lo and hi also when all resamples are equal.
    """
    values = np.asarray(values, float)
    known = np.isfinite(values)
    if not known.any():
        return np.nan, *NONE
    names = np.arange(len(values)) if units is None else np.asarray(units)
    names = names[known].astype(str)
    drawn = Resamples(names, names, params.bootstrap, params.seed)
    sums, _ = drawn.sums(np.stack([values[known], np.ones(known.sum())], axis=1))
    lo, hi = percentile_interval(sums[:, 0] / sums[:, 1], params.confidence)
    return float(values[known].mean()), *((float(lo), float(hi)) if hi - lo > MIN_WIDTH else NONE)
