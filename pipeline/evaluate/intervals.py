"""Intervals: a bootstrap over test images, by patient or group, nested in seeds; t over seeds."""

from __future__ import annotations

import hashlib
from functools import cached_property, lru_cache

import numpy as np
from scipy import stats

from pipeline.evaluate.metrics import Contributions, from_sums


class TestSet:
    """The images one seed is tested on, and the resampling weights of their groups.

    Whole groups are drawn with replacement, as many as there are. The draw depends on the images
    and the seed alone, so every run tested on the same images is resampled alike: differences
    between runs are paired, and seeds that share a test set share its uncertainty.

    Args:
        ids: image_id (n,).
        groups: group of each image (n,), text; its own id where it has none.
        bootstrap: B.
        seed: of the draw.
    """

    __test__ = False  # the name is no test's

    def __init__(self, ids: np.ndarray, groups: np.ndarray, bootstrap: int, seed: int):
        self.names, self.group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        self.bootstrap = bootstrap
        text = "\0".join([str(seed), *map(str, ids)])
        self._entropy = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")

    @cached_property
    def weights(self) -> np.ndarray:
        """How often each group is drawn, float32 (B, G)."""
        G = len(self.names)
        rng = np.random.default_rng(self._entropy)
        return rng.multinomial(G, np.full(G, 1 / G), size=self.bootstrap).astype(np.float32)

    def replicate_sums(self, rows: np.ndarray) -> np.ndarray:
        """Return the weighted sums of rows (n, K) in every replicate, float32 (B, K)."""
        if len(self.names) != len(rows):
            by_group = np.zeros((len(self.names), rows.shape[1]), dtype=np.float32)
            np.add.at(by_group, self.group, rows)
            rows = by_group
        else:
            rows = rows[np.argsort(self.group)]
        return self.weights @ rows

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
    """Return the replicates of the mean over seeds, (B,).

    Args:
        replicates: one metric by seed and replicate, (S, B); NaN entries are left out.
        weights: of `seed_weights`, (B, S).
    """
    values = replicates.T
    known = np.isfinite(values)
    count = (weights * known).sum(axis=1)
    total = (weights * np.where(known, values, 0.0)).sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


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
