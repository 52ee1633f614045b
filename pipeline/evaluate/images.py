"""Predictions image by image: how sure a run is of each, what another run changes, and whether a
better mask gains more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from pipeline.evaluate.intervals import NONE, mean_interval, percentile_interval

if TYPE_CHECKING:
    from pipeline.config import EvaluateParams

QUARTERS = 4


def by_image(predictions: pd.DataFrame) -> pd.DataFrame:
    """Summarise the predictions of one run over its seeds.

    Args:
        predictions: rows of predictions.parquet of one protocol, learner, view and fraction.

    Returns:
        By image_id: y_true, y_pred (the most frequent, ties by name), right (share of seeds that
        are right), p_true (mean probability of the true class), seeds (number of seeds).
    """
    rows = predictions.assign(
        p_true=true_probability(predictions),
        right=predictions["y_true"].astype(str) == predictions["y_pred"].astype(str),
    )
    votes = rows.groupby(["image_id", "y_pred"], observed=True).size().rename("n").reset_index()
    votes = votes.astype({"y_pred": str})
    votes = votes.sort_values(["image_id", "n", "y_pred"], ascending=[True, False, True])
    cases = rows.groupby("image_id", observed=True).agg(
        y_true=("y_true", "first"),
        right=("right", "mean"),
        p_true=("p_true", "mean"),
        seeds=("right", "size"),
    )
    cases.insert(1, "y_pred", votes.drop_duplicates("image_id").set_index("image_id")["y_pred"])
    return cases


def true_probability(predictions: pd.DataFrame) -> np.ndarray:
    """Return the probability of the true class of each row, float64 (n,)."""
    columns = [c for c in predictions.columns if c.startswith("p:")]
    at = pd.Index([c[2:] for c in columns]).get_indexer(predictions["y_true"].astype(str))
    values = predictions[columns].to_numpy(float)
    return np.where(at >= 0, values[np.arange(len(values)), at], np.nan)


def flips(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Join two results of `by_image` on the images that both have.

    Returns:
        By image_id: the columns of both with the suffixes `_before` and `_after`; `change`
        (difference of `right`: above 0 = more seeds are right after) and `p_change` (difference
        of `p_true`).
    """
    suffixes = ("_before", "_after")
    both = before.merge(after, left_index=True, right_index=True, suffixes=suffixes)
    both["change"] = (both["right_after"] - both["right_before"]).round(6)
    both["p_change"] = both["p_true_after"] - both["p_true_before"]
    return both


@dataclass(frozen=True)
class GainByDice:
    """Whether masking helps more where the mask is better.

    Attributes:
        rho: Spearman's rank correlation within classes between Dice and `p_change`.
        lo, hi: its bootstrap interval.
        change: mean of `p_change`.
        n_images: number of images.
        quarters: one row per quarter of the images by Dice: dice_min, dice_max, dice (mean),
            n_images and, with `_lo` and `_hi`, the means of p_change, right_before, right_after.
    """

    rho: float
    lo: float
    hi: float
    change: float
    n_images: int
    quarters: pd.DataFrame

    @property
    def verdict(self) -> str:
        """ "more" or "less" (gain with a better mask), "no difference" or "too few"."""
        if not np.isfinite([self.rho, self.lo, self.hi]).all():
            return "too few"
        return "more" if self.lo > 0 else "less" if self.hi < 0 else "no difference"


def gain_by_dice(
    changes: pd.DataFrame, dice: pd.Series, units: Sequence[str], params: EvaluateParams
) -> GainByDice:
    """Relate what a run changes to the quality of the masks.

    Args:
        changes: result of `flips`.
        dice: Dice of the stored mask by image_id; images without one are left out.
        units: unit by image_id (a mapping), for the bootstrap.
        params: number of resamples, confidence and seed.
    """
    table = changes.join(dice.rename("dice"), how="inner")
    table = table.dropna(subset=["dice", "p_change"]).sort_index()
    of = np.array([units.get(i, i) for i in table.index], dtype=str)
    x, y = table["dice"].to_numpy(), table["p_change"].to_numpy()
    rho, lo, hi = rank_correlation(x, y, of, params, table["y_true_before"].to_numpy(str))
    rows = []
    ranks = table["dice"].rank(method="first")
    quarter = pd.qcut(ranks, min(QUARTERS, len(table)), labels=False) if len(table) else ranks
    for _, part in table.groupby(quarter):
        at = table.index.get_indexer(part.index)
        row = {"dice_min": part["dice"].min(), "dice_max": part["dice"].max()}
        row |= {"dice": part["dice"].mean(), "n_images": len(part)}
        for name in ("p_change", "right_before", "right_after"):
            mean, low, high = mean_interval(part[name].to_numpy(), of[at], params)
            row |= {name: mean, f"{name}_lo": low, f"{name}_hi": high}
        rows.append(row)
    change = float(y.mean()) if len(y) else np.nan
    return GainByDice(rho, lo, hi, change, len(table), pd.DataFrame(rows))


def rank_correlation(
    x: np.ndarray,
    y: np.ndarray,
    units: Sequence[str] | None,
    params: EvaluateParams,
    strata: Sequence[str] | None = None,
) -> tuple[float, float, float]:
    """Return Spearman's rank correlation and its bootstrap interval; NaN where undefined.

    Args:
        x, y: one value per image (n,).
        units: unit of each image (n,); None = every image is a unit.
        params: number of resamples, confidence and seed.
        strata: classes (n,). Images are ranked within their class, so that a difference between
            classes is not taken for a correlation. None = all images are ranked together.
    """
    of = np.zeros(len(x), int) if strata is None else np.unique(strata, return_inverse=True)[1]
    rho = _rank_correlation(x, y, of)
    if not np.isfinite(rho):
        return np.nan, *NONE
    names = np.arange(len(x)) if units is None else np.asarray(units)
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    rng = np.random.default_rng(params.seed)
    draws = []
    for _ in range(params.bootstrap):
        drawn = rng.integers(0, len(members), len(members))
        at = np.concatenate([members[i] for i in drawn])
        draws.append(_rank_correlation(x[at], y[at], of[at]))
    lo, hi = percentile_interval(np.array(draws), params.confidence)
    return rho, float(lo), float(hi)


def _rank_correlation(x: np.ndarray, y: np.ndarray, of: np.ndarray) -> float:
    """Return the correlation of the ranks within strata; NaN if x or y is constant in each.

    With one stratum this is Spearman's rho, four times as fast as scipy's.
    """
    xy, xx, yy = 0.0, 0.0, 0.0
    for stratum in np.unique(of):
        here = of == stratum
        n = here.sum()
        a, b = (rankdata([x[here], y[here]], axis=1) - (n + 1) / 2) / n
        xy, xx, yy = xy + a @ b, xx + a @ a, yy + b @ b
    return float(xy / np.sqrt(xx * yy)) if xx > 0 and yy > 0 else np.nan
