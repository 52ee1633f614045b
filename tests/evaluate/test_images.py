"""Predictions by image: what another run changes, and whether a better mask gains more."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from pipeline.config import EvaluateParams
from pipeline.evaluate.images import by_image, flips, gain_by_dice, rank_correlation
from pipeline.evaluate.intervals import mean_interval

PARAMS = EvaluateParams(bootstrap=300)


def predictions(said: dict[str, list[str]], true: str = "a") -> pd.DataFrame:
    """Rows of predictions.parquet: by image, what each seed says with a probability of 0.8."""
    rows = [
        {"image_id": i, "seed": seed, "y_true": true, "y_pred": label}
        | {f"p:{c}": 0.8 if c == label else 0.1 for c in "abc"}
        for i, labels in said.items()
        for seed, label in enumerate(labels)
    ]
    return pd.DataFrame(rows)


def test_an_image_has_its_share_of_right_seeds_and_its_most_frequent_class():
    cases = by_image(
        predictions({"x": ["a", "b", "a"], "y": ["c", "b", "b"], "z": ["c", "b", "a"]})
    )
    assert cases["right"].to_dict() == pytest.approx({"x": 2 / 3, "y": 0, "z": 1 / 3})
    assert cases["y_pred"].to_dict() == {"x": "a", "y": "b", "z": "a"}
    assert cases.loc["x", "p_true"] == pytest.approx((0.8 + 0.1 + 0.8) / 3)
    assert set(cases["seeds"]) == {3} and set(cases["y_true"]) == {"a"}


def test_flips_count_images_that_both_runs_have():
    before = by_image(predictions({"x": ["a", "a"], "y": ["b", "a"], "z": ["b", "b"]}))
    after = by_image(predictions({"x": ["b", "a"], "y": ["a", "a"], "w": ["a", "a"]}))
    both = flips(before, after)
    assert both["change"].to_dict() == {"x": -0.5, "y": 0.5}
    assert both["p_change"].to_dict() == pytest.approx({"x": -0.35, "y": 0.35})
    assert {"right_before", "y_pred_before", "y_pred_after"} <= set(both.columns)


def changes(n: int, seed: int = 0) -> tuple[pd.DataFrame, pd.Series]:
    """Result of `flips` and Dice of n images in two classes; Dice differs between the classes."""
    rng = np.random.default_rng(seed)
    level = np.arange(n) % 2
    index = pd.Index([f"i{k:03d}" for k in range(n)], name="image_id")
    dice = pd.Series(0.4 * level + 0.5 * rng.random(n), index)
    table = {"y_true_before": np.where(level, "b", "a")}
    return pd.DataFrame(table | {"p_change": rng.normal(size=n)}, index), dice


@pytest.mark.promise("Whether a better mask gains more is judged within classes, with an interval.")
@pytest.mark.parametrize(("sign", "verdict"), [(1, "more"), (-1, "less"), (0, "no difference")])
def test_gain_by_dice_is_judged_within_classes_by_its_interval(sign, verdict):
    table, dice = changes(120)
    # Between classes the trend is the other way round.
    table["p_change"] = 0.3 * table["p_change"] + 8 * sign * dice - 20 * sign * (dice > 0.45)
    if sign == 0:
        table["p_change"] += 5 * (table["y_true_before"] == "b")
    found = gain_by_dice(table, dice.drop("i000"), {}, PARAMS)
    assert found.verdict == verdict and found.n_images == 119
    quarters = found.quarters
    assert quarters["n_images"].sum() == 119 and len(quarters) == 4
    assert (quarters["dice_min"].iloc[1:].to_numpy() >= quarters["dice_max"].iloc[:-1]).all()
    assert (quarters["p_change_lo"] < quarters["p_change"]).all()


def test_without_dice_there_is_too_little_to_judge():
    table, dice = changes(20)
    found = gain_by_dice(table, dice * np.nan, {}, PARAMS)
    assert found.verdict == "too few" and found.n_images == 0 and found.quarters.empty


def test_ranks_are_those_within_classes_ties_included():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (2, 40))
    alone, level = np.arange(40), np.arange(40) % 2
    found = rank_correlation(x, y, alone, np.zeros(40), PARAMS)[0]
    assert found == pytest.approx(spearmanr(x, y).statistic)
    x, noise = rng.normal(size=(2, 40))
    y = x + noise + 100 * level
    expected = np.mean([spearmanr(x[level == k], y[level == k]).statistic for k in (0, 1)])
    rho, lo, hi = rank_correlation(x, y, alone, level, PARAMS)
    assert rho == pytest.approx(expected) and lo < rho < hi
    assert np.isnan(rank_correlation(level, y, alone, level, PARAMS)).all()


def mean(values: np.ndarray, units: np.ndarray, params: EvaluateParams) -> tuple:
    return mean_interval(values[0], units, params)


def rank(values: np.ndarray, units: np.ndarray, params: EvaluateParams) -> tuple:
    return rank_correlation(*values, units, np.zeros(len(units)), params)


@pytest.mark.parametrize("measure", (mean, rank))
@pytest.mark.promise(
    "Images of a patient, a group or copies of one picture are resampled together, in the units "
    "of the splits."
)
def test_intervals_over_images_are_wider_for_larger_units(measure):
    values = np.repeat(np.random.default_rng(0).normal(size=(2, 30)), 5, axis=1)
    units = np.repeat(np.arange(30), 5), np.arange(150)
    by_unit, by_image = (np.diff(measure(values, of, PARAMS)[1:]) for of in units)
    assert by_unit > 1.6 * by_image


@pytest.mark.parametrize("measure", (mean, rank))
@pytest.mark.promise("Confidence, resamples and seed of every interval are those of params.yaml.")
def test_intervals_over_images_follow_the_parameters(measure):
    values = np.random.default_rng(0).normal(size=(2, 60))

    def found(**changed) -> tuple:
        return measure(values, np.arange(60), PARAMS.model_copy(update=changed))

    usual, narrow = found(), found(confidence=0.5)
    assert usual[0] == narrow[0] and usual[1] < narrow[1] < narrow[2] < usual[2]
    assert found(seed=1) != usual != found(bootstrap=20)
