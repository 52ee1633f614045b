"""Intervals hold what they claim: images, units, few seeds, and shares of 0 and 1."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.config import EvaluateParams
from pipeline.evaluate.compare import verdict
from pipeline.evaluate.intervals import (
    ALL_EQUAL,
    EXACT,
    Resamples,
    exact_bounds,
    mean_interval,
    mean_over_seeds,
    p_values,
    percentile_interval,
    seed_weights,
    t_interval,
)
from pipeline.evaluate.metrics import METRICS, OVER_CLASSES
from pipeline.evaluate.predictions import Predicted
from pipeline.evaluate.scores import Units, score_rows

from .runs import PARAMS, class_rows, ids, mean_rows, predicted, score

B = 2000
SPREAD = np.array([-0.1, -0.05, 0, 0.05, 0.1])
FEW_SEEDS = (
    "Intervals and p-values over a few seeds are as wide as Student's t makes them, and with one "
    "fold per seed no image counts twice."
)
EXACT_BOUNDS = (
    "A share of 0 or 1 has the exact bound of its independent units; other metrics whose resamples "
    "are all equal have no interval, and a note."
)
EVERY_CLASS = (
    "Means over classes, and their differences, use resamples that hold every class; a class with "
    "one unit leaves them without an interval."
)
UNITS = (
    "Images of a patient, a group or copies of one picture are resampled together, in the units "
    "of the splits."
)


@pytest.mark.promise(UNITS)
def test_the_bootstrap_has_the_binomial_error_of_its_units():
    right = np.repeat(np.arange(40) % 4 != 0, 10).astype(float)  # ten images per patient
    params = EvaluateParams(bootstrap=B)
    widths = {
        units: np.diff(mean_interval(right, np.arange(400) // size, params)[1:])[0]
        for units, size in (("image", 1), ("patient", 10))
    }
    assert widths["image"] / 3.92 == pytest.approx((0.75 * 0.25 / 400) ** 0.5, rel=0.1)
    assert widths["patient"] / widths["image"] == pytest.approx(10**0.5, rel=0.15)


def test_units_in_any_order_are_joined_to_their_own_rows():
    rows = np.array([[1.0], [10.0], [2.0], [100.0]], dtype=np.float32)
    test = Resamples(ids(4), np.array(["b", "a", "b", "c"]), 50, 0)
    expected = test.weights @ np.array([[10.0], [3.0], [100.0]])
    np.testing.assert_allclose(test.sums(rows)[0], expected)
    alone = Resamples(ids(4)[::-1], ids(4)[::-1], 50, 0)
    np.testing.assert_allclose(alone.sums(rows)[0], alone.weights @ rows[::-1])


def test_the_same_images_are_resampled_alike_and_other_seeds_differ():
    a, b, other = (Resamples(ids(30), ids(30), 20, seed).weights for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != other).any()


def test_the_t_interval_is_the_textbook_one():
    values = np.array([0.8, 0.82, 0.79, 0.85, 0.81])
    expected = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    np.testing.assert_allclose(t_interval(values, 0.95), expected)
    assert np.isnan(t_interval(values[:1], 0.95)).all()


def test_nan_replicates_are_left_out():
    nan = np.nan
    lo, hi = percentile_interval(np.array([[0.5, nan, 1], [nan, nan, 2], [0.5, nan, 3]]), 0.5)
    np.testing.assert_array_equal(lo, [0.5, nan, 1.5])
    np.testing.assert_array_equal(hi, [0.5, nan, 2.5])


def over_seeds(values: np.ndarray, noise: np.ndarray, confidence: float = 0.95):
    """Bootstrap the mean of seeds whose replicates differ from `values` by `noise`; return it with
    the width of its interval."""
    weights = seed_weights(tuple(range(len(values))), B, 0)
    of = mean_over_seeds(values, values[:, None] + noise, weights, confidence, -1.0)
    lo, hi = percentile_interval(of.replicates, confidence)
    return of, hi - lo


@pytest.mark.promise(FEW_SEEDS)
@pytest.mark.parametrize("confidence", (0.8, 0.95))
@pytest.mark.parametrize("seeds", (2, 3, 10))
def test_where_only_seeds_vary_interval_and_p_are_students(seeds, confidence):
    values = 0.5 + np.resize(SPREAD, seeds) * 0.1
    of, width = over_seeds(values, np.zeros((seeds, B)), confidence)
    lo, hi = stats.t.interval(confidence, seeds - 1, values.mean(), stats.sem(values))
    assert width == pytest.approx(hi - lo, rel=1e-6)
    expected = 2 * stats.t.sf(0.02 / stats.sem(values), seeds - 1)
    assert p_values(0.02, of) == pytest.approx(expected, rel=1e-6)


@pytest.mark.promise(FEW_SEEDS)
def test_seeds_and_shared_images_add_up_in_squares_and_images_of_folds_count_once():
    rng = np.random.default_rng(0)
    t, z = stats.t.ppf(0.975, 4), stats.norm.ppf(0.975)
    shared = rng.normal(0, 0.02, B)
    expected = 2 * np.hypot(t * stats.sem(0.3 * SPREAD), z * shared.std())
    assert over_seeds(0.8 + 0.3 * SPREAD, np.tile(shared, (5, 1)))[1] == pytest.approx(
        expected, rel=0.05
    )
    folds = rng.normal(0, 0.08, (5, B))  # folds differ as much as their images make them
    assert over_seeds(0.5 + SPREAD, folds)[1] == pytest.approx(2 * t * stats.sem(SPREAD), rel=0.05)
    equal = over_seeds(np.full(5, 0.5), folds)[1]  # equal by luck: the images still vary
    assert equal == pytest.approx(2 * z * 0.08 / 5**0.5, rel=0.06)


@pytest.mark.promise(FEW_SEEDS)
@pytest.mark.parametrize(("seed", "shared", "own"), [(1, 0, 0), (2, 1, 0), (1, 1, 1), (1, 0, 1)])
def test_interval_and_p_contain_the_truth_as_often_as_they_say(seed, shared, own):
    rng, runs, S = np.random.default_rng(3), 400, 5
    a, b, c = np.array([seed, shared, own]) * 0.02

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal((*shape, runs))

    values = 0.5 + a * normal(S) + b * normal() + c * normal(S)
    replicates = values[:, None] + b * normal(B) + c * normal(S, B)
    of = mean_over_seeds(values, replicates, seed_weights(tuple(range(S)), B, 0), 0.95)
    lo, hi = percentile_interval(of.replicates, 0.95)
    assert 0.92 <= ((lo <= 0.5) & (hi >= 0.5)).mean() <= 0.995
    assert 0.002 <= (p_values(values.mean(axis=0) - 0.5, of) < 0.05).mean() <= 0.08


def test_p_is_below_its_level_where_the_interval_excludes_zero():
    noise = np.tile(np.random.default_rng(0).normal(0, 0.01, B), (5, 1))
    of, width = over_seeds(0.1 + 0.2 * SPREAD, noise)
    below, above = (p_values(f * width / 2, of) for f in (0.9, 1.1))
    assert above < 0.05 < below
    nothing, _ = over_seeds(np.zeros(2), np.zeros((2, B)))
    assert p_values(0.1, nothing) == 1


@pytest.mark.parametrize(("sign", "size"), [(1, 1.8), (-1, 2.05)])
def test_with_skewed_resamples_p_and_interval_may_disagree_and_a_verdict_needs_both(sign, size):
    skewed = np.random.default_rng(0).gamma(3.4, size=(1, B))
    noise = sign * 0.05 * (skewed - skewed.mean())
    of, _ = over_seeds(np.array([size * noise.std()]), noise)
    lo, hi = percentile_interval(of.replicates, 0.95)
    p = p_values(size * noise.std(), of)
    assert (lo > 0) == (sign > 0) != (p < 0.05)
    assert verdict(float(lo), float(hi), float(p)) == "no difference"


def test_no_end_leaves_the_scale_and_one_seed_has_the_interval_of_its_images():
    y = np.arange(200) % 2
    seeds = [predicted(y, np.where(np.arange(200) < right, y, 1 - y)) for right in (40, 200)]
    for row in mean_rows(score(*seeds)).values():
        assert 0 <= row["lo"] <= row["hi"] <= (2 if row["metric"] == "brier" else 1)
    one, _ = score_rows(score(seeds[0]), "official", "full", PARAMS)
    for seed, mean in zip(one[::2], one[1::2], strict=True):
        np.testing.assert_equal([seed["lo"], seed["hi"]], [mean["lo"], mean["hi"]])


@pytest.mark.promise(
    "The interval of a calibration error contains it and lacks the bias that resampling adds."
)
@pytest.mark.parametrize(("gap", "n"), [(0.0, 60), (0.1, 400)])
def test_the_interval_of_a_calibration_error_contains_it_and_no_bias(gap, n):
    rng, params, held = np.random.default_rng(0), EvaluateParams(bootstrap=300), []
    for _ in range(20):
        seeds = []
        for _ in range(5):
            sure = rng.beta(4, 1.5, n) / 2 + 0.5
            right = rng.random(n) < sure - gap
            proba = np.stack([sure, 1 - sure], axis=1).astype(np.float32)
            seeds.append(Predicted(ids(n), np.where(right, 0, 1), proba))
        rows, _ = score_rows(score(*seeds, params=params), "official", "full", params)
        for row in (row for row in rows if row["metric"] == "ece"):
            assert 0 <= row["lo"] <= row["value"] <= row["hi"] <= 1
            held.append(row["lo"] <= max(gap, 0.01) and row["hi"] >= gap)
    assert np.mean(held) > 0.6  # plain percentiles contain hardly any of those near zero


@pytest.mark.promise(EXACT_BOUNDS)
@pytest.mark.parametrize("confidence", (0.8, 0.95))
@pytest.mark.parametrize("n", (1, 20, 500))
def test_a_share_of_0_or_1_has_the_bound_of_clopper_and_pearson(n, confidence):
    for k in (0, n):
        theirs = stats.binomtest(k, n).proportion_ci(confidence, "exact")
        assert exact_bounds(k / n, n, confidence) == pytest.approx(tuple(theirs), abs=1e-9)


@pytest.mark.promise(EXACT_BOUNDS)
@pytest.mark.parametrize("seeds", (1, 5))
def test_of_20_units_all_right_the_lower_bound_is_83_percent_and_copies_are_no_units(seeds):
    y = np.arange(20) % 2
    row = mean_rows(score(*[predicted(y, y)] * seeds))["accuracy"]
    assert (round(row["lo"], 3), row["hi"], row["note"]) == (0.832, 1.0, EXACT)
    wrong = mean_rows(score(*[predicted(y, 1 - y)] * seeds))["accuracy"]
    assert (wrong["lo"], round(wrong["hi"], 3)) == (0.0, 0.168)
    pairs = mean_rows(score(*[predicted(y, y)] * seeds, units=np.arange(20) // 2))["accuracy"]
    assert pairs["lo"] == pytest.approx(0.025 ** (1 / 10))


@pytest.mark.promise(EXACT_BOUNDS)
def test_intervals_of_accuracy_contain_the_truth_where_most_test_sets_are_all_right():
    rng, held, y = np.random.default_rng(0), [], np.arange(20) % 2
    for _ in range(200):
        wrong = rng.random(20) < 0.03
        row = mean_rows(score(predicted(y, np.where(wrong, 1 - y, y))))["accuracy"]
        held.append(row["lo"] <= 0.97 <= row["hi"])
    assert np.mean(held) > 0.93  # fewer than half of them with intervals without width


@pytest.mark.promise(EXACT_BOUNDS)
def test_where_all_resamples_are_equal_other_metrics_have_no_interval_and_a_note():
    y = np.arange(20) % 2
    rows = mean_rows(score(predicted(y, np.zeros(20, int))))  # recall 1 and 0 in every resample
    assert rows["balanced_accuracy"]["value"] == 0.5
    assert np.isnan([rows["balanced_accuracy"][end] for end in ("lo", "hi")]).all()
    assert rows["balanced_accuracy"]["note"] == ALL_EQUAL
    assert rows["accuracy"]["lo"] < 0.5 < rows["accuracy"]["hi"]
    rows = mean_rows(score(predicted(y, y)))
    for metric in METRICS[1:]:
        assert np.isnan([rows[metric]["lo"], rows[metric]["hi"]]).all(), metric
        assert rows[metric]["note"] == ALL_EQUAL
    for row in class_rows(score(predicted(y, y))):
        assert row["recall_lo"] == row["precision_lo"] == pytest.approx(0.025 ** (1 / 10))
        assert np.isnan(row["f1_lo"])
    assert np.isnan(mean_interval(np.full(3, 0.5), None, PARAMS)[1:]).all()


@pytest.mark.promise(EVERY_CLASS)
def test_a_class_of_one_unit_gives_no_interval_over_classes_and_an_exact_one_of_its_own():
    y = np.array([0] * 9 + [1])
    one = score(*[predicted(y, np.array([1] + [0] * 8 + [1]))] * 5)
    rows = mean_rows(one)
    for metric in METRICS:
        assert np.isfinite(rows[metric]["value"])
        assert np.isnan(rows[metric]["lo"]) == (metric in OVER_CLASSES), metric
        assert ("one test unit only: c1" in rows[metric]["note"]) == (metric in OVER_CLASSES)
    rare = class_rows(one)[1]
    assert (rare["recall"], rare["recall_lo"], rare["recall_hi"]) == pytest.approx((1, 0.025, 1))
    assert np.isnan([rare["f1_lo"], rare["f1_hi"]]).all()


@pytest.mark.promise(EVERY_CLASS)
def test_resamples_without_a_class_are_drawn_again_for_means_over_classes_alone():
    y = np.array([0] * 18 + [1] * 2)
    said = np.array([0] * 15 + [1] * 3 + [0, 1])
    one = score(predicted(y, said))
    test = Resamples(ids(20), ids(20), PARAMS.bootstrap, PARAMS.seed, y)
    lacking = test.weights[:, -2:].sum(axis=1) == 0
    assert 30 < lacking.sum() < 90  # about one in e ** 2
    held = test.weights.copy()
    held[lacking] = test.redrawn[1]
    common, rare = held[:, :15].sum(axis=1) / held[:, :18].sum(axis=1), held[:, 18:]
    drawn = {name: one.replicates[0, :, f] for name, f in one.columns.items()}
    expected = (common + rare[:, 1] / rare.sum(axis=1)) / 2
    np.testing.assert_allclose(drawn["balanced_accuracy", -1], expected, rtol=1e-6)
    np.testing.assert_allclose(drawn["accuracy", -1], test.weights @ (y == said) / 20, rtol=1e-6)
    assert mean_rows(one)["macro_f1"]["note"].startswith(f"{lacking.sum()} of 400 resamples")
    assert mean_rows(one)["accuracy"]["note"] == ""
    # Metrics of one class leave out the resamples without that class, and no others.
    for metric in ("recall", "f1"):
        np.testing.assert_array_equal(np.isnan(drawn[metric, 1]), lacking)
    for metric in ("precision", "recall", "f1"):
        assert np.isfinite(drawn[metric, 0]).all()
    assert (drawn["precision", 0][lacking] == 1).all()


@pytest.mark.promise(EVERY_CLASS)
def test_replaced_resamples_hold_every_class_and_are_the_same_for_all_runs():
    y = np.array([0, 0, 1, 0, 2, 0, 0, 1, 2, 0])
    units = np.array(list("aabbbcdeef"))  # b holds three classes, e two
    test = Resamples(ids(10), units, 300, 0, y)
    lacking, weights = test.redrawn
    holds = np.stack([np.isin(list("abcdef"), list(of)) for of in ("abcdf", "be", "be")], axis=1)
    np.testing.assert_array_equal(test.units_with(y), holds)
    assert len(lacking) and (test.weights[lacking] @ holds == 0).any(axis=1).all()
    assert (weights @ holds > 0).all() and (weights.sum(axis=1) == 6).all()
    kept = np.setdiff1d(np.arange(300), lacking)
    assert (test.weights[kept] @ holds > 0).all()
    np.testing.assert_array_equal(Resamples(ids(10), units, 300, 0, y).redrawn[1], weights)
    np.testing.assert_array_equal(test.weights, Resamples(ids(10), units, 300, 0).weights)
    plain, complete = test.sums(np.eye(3, dtype=np.float32)[y])
    np.testing.assert_array_equal(plain[kept], complete[kept])
    assert (complete > 0).all() and not (plain > 0).all()


@pytest.mark.promise(EVERY_CLASS)
def test_many_classes_of_two_units_are_too_rarely_drawn_together():
    y = np.repeat(np.arange(60), 2)
    row = mean_rows(score(predicted(y, np.where(np.arange(120) % 5, y, 0), 60)))
    assert np.isnan(row["balanced_accuracy"]["lo"]) and "are rare" in row["macro_f1"]["note"]
    assert row["accuracy"]["lo"] < row["accuracy"]["value"]


def test_seeds_that_share_a_test_set_count_its_units_once():
    def behind(count, part) -> int:
        count, part = np.array(count), np.array(part)
        none = np.zeros((len(part), 2), int)
        return Units(count, none, none, part, 0 * part, part < 0).behind(count)

    assert behind([10, 10, 10], [0, 0, 0]) == 10
    assert behind([10, 12, 11], [0, 1, 2]) == 30
    assert behind([10, 12, 10], [0, 1, 0]) == 15  # two seeds test the first fold
    assert behind([0, 4, 4], [0, 1, 2]) == 8
    assert behind([0], [0]) == 0


@pytest.mark.parametrize(("starts", "units"), [((0, 10, 20), 30), ((0, 5, 10), 10)])
def test_folds_are_test_sets_of_their_own_and_overlapping_ones_count_as_one(starts, units):
    y = np.arange(30) % 2
    one = score(*(predicted(y, y).take(np.arange(s, s + 10)) for s in starts))
    assert mean_rows(one)["accuracy"]["lo"] == pytest.approx(0.025 ** (1 / units))
    assert class_rows(one)[0]["recall_lo"] == pytest.approx(0.025 ** (2 / units))
