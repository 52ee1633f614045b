"""Where a bootstrap says nothing: no resample differs, or a class has too few units to draw from.

Resamples of units that are all right, or all wrong, are all alike: their interval has no width and
holds the truth hardly ever. A share of 0 or 1 gets the exact bound of its units instead (Clopper
and Pearson 1934): with n of n right it is (alpha / 2) ** (1 / n) from below, near 3.7 / n of errors
(one-sided 3 / n, the rule of three: Hanley and Lippman-Hand 1983, "If nothing goes wrong, is
everything all right?"). It takes the seeds that were run as they are. No other figure has such a
bound: it has no interval (NaN), and a note says so.

A figure over classes is one of all of them only where a resample holds every one. Those that lack a
class are drawn again (`intervals.TestSet`), as pROC leaves them out (Robin et al. 2011, resampling
that is not stratified); to draw within each class instead is not open where a unit holds images of
several. A class of one unit is the same in every resample: the figures have no interval then.
Figures of one class leave out the resamples without it, and no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

SHARES = ("accuracy", "precision", "recall")
OVER_CLASSES = ("balanced_accuracy", "macro_f1", "macro_auroc")
WIDTH = 1e-6  # below it an interval is rounding of float32 sums
NONE = (float("nan"), float("nan"))

EXACT = "exact bound (Clopper-Pearson) where all units are right or all wrong"
ALIKE = "no interval where all resamples are alike"
REJECTED = "no interval of means over classes: resamples with every class are too rare"


@dataclass(frozen=True)
class Units:
    """How many independent units are behind the figures of each seed.

    Attributes:
        every: of the test part, int (S,).
        true: those with an image of each class, int (S, C).
        predicted: those with an image that is predicted as each class, int (S, C).
        part: which test part, int (S,); 0 for all where parts overlap.
        redrawn: resamples that lacked a class and were drawn again, int (S,).
        rejected: whether some of them still lacked one after many draws, bool (S,).
        resamples: of each part, B.
    """

    every: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    part: np.ndarray
    redrawn: np.ndarray
    rejected: np.ndarray
    resamples: int

    def of_seed(self, k: int) -> Units:
        """Return those of the seed at k alone."""
        names = ("every", "true", "predicted", "part", "redrawn", "rejected")
        return Units(*(getattr(self, name)[k : k + 1] for name in names), self.resamples)

    def behind(self, count: np.ndarray) -> int:
        """Return the units behind a mean over seeds: the fewest of a seed times its own parts.

        Say at most k seeds share a part. With n_s units in seed s, whose true share is p_s, all
        are right with a probability of at most prod p_s ** (n_s / k): seeds that share a part may
        err on the same units. That is not above mean(p_s) ** (min(n_s) * S / k).

        Args:
            count: by seed, (S,); seeds with none have no figure and are left out.
        """
        some = count > 0
        if not some.any():
            return 0
        return int(count[some].min() * some.sum() / np.bincount(self.part[some]).max())

    @cached_property
    def single(self) -> list[int]:
        """The classes that rest on one unit."""
        return [c for c, count in enumerate(self.true.T) if self.behind(count) == 1]

    @property
    def thin(self) -> bool:
        """Whether there is no interval over classes: one has a single unit, or too few to draw."""
        return bool(self.single) or bool(self.rejected.any())

    def notes(self, classes: list[str]) -> list[str]:
        """Say how the intervals of means over classes were drawn, or why there are none."""
        if self.single:
            names = ", ".join(classes[c] for c in self.single)
            return [f"no interval of means over classes, one test unit only: {names}"]
        if self.rejected.any():
            return [REJECTED]
        parts = np.unique(self.part, return_index=True)[1]
        redrawn, every = int(self.redrawn[parts].sum()), len(parts) * self.resamples
        said = f"{redrawn:,} of {every:,} resamples drawn again for lack of a class"
        return [said] if redrawn else []


def exact_bounds(value: float, units: int, confidence: float) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share of 0 or 1 of this many units.

    Example:
        >>> [round(end, 3) for end in exact_bounds(1.0, 20, 0.95)]
        [0.832, 1.0]
    """
    far = ((1 - confidence) / 2) ** (1 / units)
    return (far, 1.0) if value == 1 else (0.0, 1 - far)


def settled(
    name: str, value: float, interval: tuple[float, float], units: int, confidence: float
) -> tuple[float, float, str]:
    """Return the ends that a figure is given, and the note on them ("" for the bootstrap's).

    Args:
        name: of the metric.
        value: the figure.
        interval: its bootstrap's.
        units: behind it.
        confidence: of the interval.
    """
    lo, hi = interval
    if name in SHARES and value in (0, 1) and units:
        return *exact_bounds(value, units, confidence), EXACT
    # Seeds that predict a class for one unit each do not share it: they tell of each other.
    if hi - lo < WIDTH or (units < 2 and name != "precision"):
        return *NONE, ALIKE if np.isfinite(value) else ""
    return lo, hi, ""
