"""Predictions image by image: how sure a run is of each, what another run changes, and whether a
better mask gains more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from pipeline.config import EvaluateParams
from pipeline.evaluate.intervals import mean_interval, percentile_interval
from pipeline.evaluate.predictions import by_image, flips, true_probability  # noqa: F401

QUARTERS = 4


@dataclass(frozen=True)
class GainByDice:
    """Whether masking helps more where the mask is better.

    Attributes:
        rho: Spearman's rank correlation within classes between Dice and `p_change`.
        lo, hi: its bootstrap interval.
        n_images: number of images.
        quarters: one row per quarter of the images by Dice: dice_min, dice_max, dice (mean),
            n_images, and the mean of p_change with `_lo` and `_hi`.
    """

    rho: float
    lo: float
    hi: float
    n_images: int
    quarters: pd.DataFrame

    @property
    def verdict(self) -> str:
        """ "more" or "less" (gain with a better mask), "no difference" or "too few"."""
        if not np.isfinite([self.rho, self.lo, self.hi]).all():
            return "too few"
        return "more" if self.lo > 0 else "less" if self.hi < 0 else "no difference"


def gain_by_dice(
    changes: pd.DataFrame, dice: pd.Series, units: Mapping[str, str], params: EvaluateParams
) -> GainByDice:
    """Relate what a run changes to the quality of the masks.

    Args:
        changes: result of `flips`.
        dice: Dice of the stored mask by image_id; images without one are left out.
        units: unit by image_id, for the bootstrap.
        params: number of resamples, confidence and seed.
    """
    table = changes.join(dice.rename("dice"), how="inner")
    table = table.dropna(subset=["dice", "p_change"]).sort_index()
    table["unit"] = [units.get(i, i) for i in table.index]
    rows = []
    ranks = table["dice"].rank(method="first")
    quarter = pd.qcut(ranks, min(QUARTERS, len(table)), labels=False) if len(table) else ranks
    for _, part in table.groupby(quarter):
        row = {"dice_min": part["dice"].min(), "dice_max": part["dice"].max()}
        row |= {"dice": part["dice"].mean(), "n_images": len(part)}
        ends = mean_interval(part["p_change"], part["unit"], params)
        rows.append(row | dict(zip(("p_change", "p_change_lo", "p_change_hi"), ends, strict=True)))
    values = (table[name].to_numpy() for name in ("dice", "p_change", "unit"))
    found = rank_correlation(*values, table["y_true_before"].to_numpy(str), params)
    return GainByDice(*found, len(table), pd.DataFrame(rows))


def rank_correlation(
    x: np.ndarray,
    y: np.ndarray,
    units: Sequence[str],
    strata: Sequence[str],
    params: EvaluateParams,
) -> tuple[float, float, float]:
    """Return Spearman's rank correlation and its bootstrap interval; NaN where undefined.

    Args:
        x, y: one value per image (n,).
        units: unit of each image (n,).
        strata: class of each image (n,). Images are ranked within their class, so that a
            difference between classes is not taken for a correlation.
        params: number of resamples, confidence and seed.
    """
    of = np.unique(strata, return_inverse=True)[1]
    rho = _rank_correlation(x, y, of)
    if not np.isfinite(rho):
        return np.nan, np.nan, np.nan
    members = [np.flatnonzero(units == name) for name in np.unique(units)]
    rng = np.random.default_rng(params.seed)
    draws = []
    for _ in range(params.bootstrap):
        at = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        draws.append(_rank_correlation(x[at], y[at], of[at]))
    lo, hi = percentile_interval(np.array(draws), params.confidence)
    return rho, float(lo), float(hi)


def _rank_correlation(x: np.ndarray, y: np.ndarray, of: np.ndarray) -> float:
    """Return the correlation of the ranks within strata; NaN if x or y is constant in each."""
    xy, xx, yy = 0.0, 0.0, 0.0
    for stratum in np.unique(of):
        here = of == stratum
        n = here.sum()
        a, b = (rankdata([x[here], y[here]], axis=1) - (n + 1) / 2) / n
        xy, xx, yy = xy + a @ b, xx + a @ a, yy + b @ b
    return float(xy / np.sqrt(xx * yy)) if xx > 0 and yy > 0 else np.nan
