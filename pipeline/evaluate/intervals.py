"""Intervals: a bootstrap over test images, in whole units, nested in seeds, as wide as few seeds
ask for; t over seeds.

A handful of seeds drawn with replacement spreads too little: its variance is (S - 1) / S of the
sample's, and a normal quantile is too small for S - 1 degrees of freedom. So the replicates of a
mean over S seeds keep their shape and are stretched about their centre to the half-width

    sqrt(t^2 s^2 / S + z^2 c),

where s is the standard deviation of the seeds' figures (ddof 1), t the quantile of Student's t with
S - 1 degrees of freedom, z that of the normal distribution, and c the covariance, in the bootstrap
over images, of two seeds' figures: what all seeds owe to the same test images. Where each seed is
tested on a fold of its own c is 0, and s holds the images' share already. The half-width is never
below z times the bootstrap's error with the seeds held fixed. It is never below that of the
t-interval over the seeds alone either; simulated, it covers 95 to 98 of 100 true values with 3 to
10 seeds, whatever part seeds and images have (up to 99 with two).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy import special, stats

from pipeline.evaluate.metrics import Contributions, from_sums

SMALLEST = -100.0  # log10 of the smallest p that is told from zero
DRAWS = 100  # of a resample until it holds every class


class TestSet:
    """The images one seed is tested on, and the resampling weights of their groups.

    Whole groups are drawn with replacement, as many as there are. The draw depends on the images
    and the seed alone, so every run tested on the same images is resampled alike: differences
    between runs are paired, and seeds that share a test set share its uncertainty.

    A resample that lacks a class says nothing of a figure over all of them: it is drawn again for
    those (`redrawn`), which leaves draws given that every class is there.

    Args:
        ids: image_id (n,).
        groups: group of each image (n,), text; its own id where it has none.
        bootstrap: B.
        seed: of the draw.
        y: class of each image, int (n,); None: there are none to be lacked.
    """

    __test__ = False  # the name is no test's

    def __init__(
        self,
        ids: np.ndarray,
        groups: np.ndarray,
        bootstrap: int,
        seed: int,
        y: np.ndarray | None = None,
    ):
        self.names, self.group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        self.bootstrap, self.y = bootstrap, np.zeros(len(ids), int) if y is None else y
        text = "\0".join([str(seed), *map(str, ids)])
        self._entropy = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")

    @cached_property
    def weights(self) -> np.ndarray:
        """How often each group is drawn, float32 (B, G)."""
        return self._draw(np.random.default_rng(self._entropy), self.bootstrap)

    def _draw(self, rng: np.random.Generator, times: int) -> np.ndarray:
        G = len(self.names)
        return rng.multinomial(G, np.full(G, 1 / G), size=times).astype(np.float32)

    @cached_property
    def redrawn(self) -> tuple[np.ndarray, np.ndarray]:
        """Which replicates lack a class, int (R,), and weights in their place, float32 (R, G).

        They are NaN where `DRAWS` draws lack one too.
        """
        holds = self.holding(self.y).astype(np.float32)
        holds = holds[:, holds.any(axis=0)]
        lacking = np.flatnonzero((self.weights @ holds == 0).any(axis=1))
        weights = np.full((len(lacking), len(self.names)), np.nan, dtype=np.float32)
        rng, left = np.random.default_rng([self._entropy, 1]), np.arange(len(lacking))
        for _ in range(DRAWS):
            if not len(left):
                break
            drawn = self._draw(rng, len(left))
            whole = (drawn @ holds > 0).all(axis=1)
            weights[left[whole]] = drawn[whole]
            left = left[~whole]
        return lacking, weights

    @property
    def rejected(self) -> bool:
        """Whether some replicate lacks a class for good."""
        return bool(np.isnan(self.redrawn[1]).any())

    def holding(self, classes: np.ndarray, n_classes: int = 0) -> np.ndarray:
        """Return which group has an image of which of the classes (n,), bool (G, C)."""
        found = np.zeros((len(self.names), max(n_classes, classes.max() + 1)), dtype=bool)
        found[self.group, classes] = True
        return found

    def replicate_sums(self, rows: np.ndarray) -> np.ndarray:
        """Return the weighted sums of rows (n, K) in every replicate, float32 (B, K)."""
        return self.weights @ self._by_group(rows)

    def both_sums(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums of `replicate_sums`, and the same with every class in each of them."""
        rows = self._by_group(rows)
        lacking, weights = self.redrawn
        sums = self.weights @ rows
        if not len(lacking):
            return sums, sums
        whole = sums.copy()
        whole[lacking] = weights @ rows
        return sums, whole

    def _by_group(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows (n, K) summed by group, (G, K)."""
        if len(self.names) != len(rows):
            by_group = np.zeros((len(self.names), rows.shape[1]), dtype=np.float32)
            np.add.at(by_group, self.group, rows)
            return by_group
        return rows[np.argsort(self.group)]

    def replicates(self, about: Contributions) -> dict[str, np.ndarray]:
        """Return each metric's replicates, float64 (B,)."""
        return from_sums(self.replicate_sums(about.rows), about)


def seed_weights(seeds: list[int], bootstrap: int, seed: int) -> np.ndarray:
    """Return how often each seed is drawn in each replicate, (B, S); rows sum to S."""
    return _seed_weights(tuple(sorted(seeds)), bootstrap, seed)


@lru_cache
def _seed_weights(seeds: tuple[int, ...], bootstrap: int, seed: int) -> np.ndarray:
    S = len(seeds)
    text = f"seeds {seed} {list(seeds)}"
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big"))
    weights = rng.multinomial(S, np.full(S, 1 / S), size=bootstrap)
    weights.flags.writeable = False
    return weights


def over_seeds(replicates: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the replicates of the mean over seeds as they are drawn, (B,); see `nested`.

    Args:
        replicates: one metric by seed and replicate, (S, B); NaN entries are left out.
        weights: of `seed_weights`, (B, S).
    """
    values = replicates.T
    known = np.isfinite(values)
    count = (weights * known).sum(axis=1)
    total = (weights * np.where(known, values, 0.0)).sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


@dataclass(frozen=True)
class Nested:
    """A mean over seeds: its replicates (B,), and the variances its error is made of.

    Attributes:
        replicates: stretched to the half-width above; NaN where nothing is known.
        seeds: s^2 / S, with `degrees` degrees of freedom; 0 for one seed.
        shared: c, the part of the images that all seeds share.
        images: of the bootstrap over images with the seeds held fixed.
    """

    replicates: np.ndarray
    seeds: float
    shared: float
    images: float
    degrees: int


def nested(
    values: np.ndarray,
    replicates: np.ndarray,
    weights: np.ndarray,
    confidence: float,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Nested:
    """Return the bootstrap of the mean over seeds; with one seed, that over its images.

    Args:
        values: the figure of each seed (S,); those that are not finite are left out.
        replicates: of each seed over its images, (S, B); NaN entries are left out.
        weights: of `seed_weights`, (B, S).
        confidence: what the stretched replicates are an interval at.
        bounds: of the figure; replicates are clipped to them.
    """
    drawn = over_seeds(replicates, weights)
    known = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(known)
    known, S = known[finite], int(finite.sum())
    mean = over_seeds(replicates[finite], np.ones((len(drawn), S)))
    images = _variance(mean)
    if S < 2:
        return Nested(drawn, 0.0, images, images, 1)
    seeds = float(known.var(ddof=1)) / S
    own = sum(_variance(row) for row in replicates[finite])
    shared = max(0.0, (S * S * images - own) / (S * (S - 1)))
    half = float(_half_width((1 - confidence) / 2, seeds, shared, images, S - 1))
    lo, hi = percentile_interval(drawn, confidence)
    if hi > lo:
        # By the width that will be read, not by its variance: few seeds draw few distinct means.
        centre, plain = drawn[np.isfinite(drawn)].mean(), (hi - lo) / 2
        drawn = np.clip(centre + (half / plain) * (drawn - centre), *bounds)
    return Nested(drawn, seeds, shared, images, S - 1)


def p_values(differences: np.ndarray, of: list[Nested]) -> np.ndarray:
    """Return the two-sided p of differences from zero: that whose half-width just reaches zero.

    It is Student's where seeds alone spread and the normal one where images alone do. Without any
    spread nothing is known, and it is 1. The percentile interval lies about the mean of the
    replicates, keeps their shape and ends at the bounds of the figure; so near p = 1 - confidence
    one of the two may exclude zero and the other not (of the 7,440 differences of each of the four
    published sets 20 to 31 have p < 0.05 and zero in the interval, 42 to 197 the reverse). A
    verdict asks for both.
    """
    value = np.abs(np.asarray(differences, dtype=np.float64))
    parts = np.array([[n.seeds, n.shared, n.images] for n in of], dtype=np.float64).T
    degrees = np.array([n.degrees for n in of])
    low, high = np.full(len(value), SMALLEST), np.zeros(len(value))  # log10 of p
    for _ in range(60):
        middle = (low + high) / 2
        wide = _half_width(10**middle / 2, *parts, degrees) > value
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    return np.where(parts.any(axis=0), 10**low, 1.0)


def _half_width(tail, seeds, shared, images, degrees) -> np.ndarray:
    """Return the half-width that leaves `tail` at either end."""
    t, z = special.stdtrit(degrees, tail), special.ndtri(tail)
    return np.maximum(np.sqrt(t**2 * seeds + z**2 * shared), -z * np.sqrt(images))


def _variance(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.var(ddof=1)) if len(finite) > 1 else 0.0


def percentile_interval(replicates: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return the percentile interval of finite replicates; NaN when there is none."""
    (interval,) = percentile_intervals(replicates[None], confidence)
    return interval


def percentile_intervals(replicates: np.ndarray, confidence: float) -> list[tuple[float, float]]:
    """Return the percentile interval of each row of (n, B): all at once, which is faster."""
    tail = (1 - confidence) / 2
    whole = np.isfinite(replicates).all(axis=1)
    found = np.full((len(replicates), 2), np.nan)
    found[whole] = np.quantile(replicates[whole], [tail, 1 - tail], axis=1).T
    for i in np.flatnonzero(~whole):
        finite = replicates[i][np.isfinite(replicates[i])]
        if len(finite):
            found[i] = np.quantile(finite, [tail, 1 - tail])
    return [(float(lo), float(hi)) for lo, hi in found]


def t_interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return the t-interval of the mean over seeds; NaN below two seeds.

    It holds how much a result depends on which images were drawn for training, and not how much
    it depends on which images the test part holds.
    """
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if len(finite) < 2:
        return float("nan"), float("nan")
    half = _t_quantile(confidence, len(finite) - 1) * finite.std(ddof=1) / np.sqrt(len(finite))
    return float(finite.mean() - half), float(finite.mean() + half)


@lru_cache
def _t_quantile(confidence: float, degrees: int) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, degrees))
