"""Intervals and differences hold what they claim: images, units, few seeds, shares of 0 and 1."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import f1_score, roc_auc_score

from pipeline.config import EvaluateParams
from pipeline.evaluate.intervals import MeanOverSeeds, Resamples, mean_interval, percentile_interval
from pipeline.evaluate.predictions import Predicted
from pipeline.evaluate.scores import (
    ALL_EQUAL,
    EXACT,
    FEW_UNITS,
    METRICS,
    OVER_CLASSES,
    compare_block,
    differences,
    holm,
    verdict,
)

from .runs import PARAMS, ids, mean_rows, predicted, rows, score

SPREAD = np.array([-0.1, -0.05, 0, 0.05, 0.1])
UNITS = (
    "Images of a patient, a group or copies of one picture are resampled together, in the units "
    "of the splits."
)
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
PAIRED = "Compared runs are paired, and p-values corrected for the number of comparisons."


@pytest.mark.promise(UNITS)
def test_the_bootstrap_has_the_binomial_error_of_its_units():
    right = np.repeat(np.arange(40) % 4 != 0, 10).astype(float)  # ten images per patient
    image, patient = (
        np.diff(mean_interval(right, np.arange(400) // size, EvaluateParams(bootstrap=2000))[1:])
        for size in (1, 10)
    )
    assert image / 3.92 == pytest.approx((0.75 * 0.25 / 400) ** 0.5, rel=0.1)
    assert patient / image == pytest.approx(10**0.5, rel=0.15)
    assert np.isnan(mean_interval(np.full(3, 0.5), range(3), PARAMS)[1:]).all()


@pytest.mark.promise("Confidence, resamples and seed of every interval are those of params.yaml.")
def test_intervals_follow_the_parameters():
    values = np.random.default_rng(0).normal(size=60)

    def found(**changed) -> tuple:
        return mean_interval(values, range(60), PARAMS.model_copy(update=changed))

    usual, narrow = found(), found(confidence=0.5)
    assert usual[0] == narrow[0] and usual[1] < narrow[1] < narrow[2] < usual[2]
    assert found(seed=1) != usual != found(bootstrap=20)


def test_units_in_any_order_are_joined_to_their_own_rows():
    table = np.array([[1.0], [10.0], [2.0], [100.0]], dtype=np.float32)
    test = Resamples(ids(4), ["b", "a", "b", "c"], np.zeros(4, int), PARAMS)
    np.testing.assert_allclose(test.sums(table)[0], test.weights @ [[10.0], [3.0], [100.0]])


@pytest.mark.promise(FEW_SEEDS)
@pytest.mark.parametrize(("seeds", "confidence"), [(2, 0.95), (10, 0.8)])
def test_where_only_seeds_vary_interval_and_p_are_students(seeds, confidence):
    values = 0.5 + np.resize(SPREAD, seeds) * 0.1
    params = EvaluateParams(confidence=confidence)
    of = MeanOverSeeds(values, np.repeat(values[:, None], 1000, 1), range(seeds), params)
    width = np.diff(percentile_interval(of.replicates, confidence)).item()
    lo, hi = stats.t.interval(confidence, seeds - 1, values.mean(), stats.sem(values))
    assert width == pytest.approx(hi - lo, rel=1e-6)
    assert of.t_half_width((1 - confidence) / 2) == pytest.approx((hi - lo) / 2)
    expected = 2 * stats.t.sf(0.02 / stats.sem(values), seeds - 1)
    assert of.p_values(0.02) == pytest.approx(expected, rel=1e-6)


@pytest.mark.promise(FEW_SEEDS)
@pytest.mark.parametrize(("seed", "shared", "own"), [(2, 1, 0), (1, 1, 1), (1, 0, 1)])
def test_interval_and_p_contain_the_truth_as_often_as_they_say(seed, shared, own):
    rng, S, runs = np.random.default_rng(3), 5, 400
    a, b, c = np.array([seed, shared, own]) * 0.02

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal((*shape, runs))

    values = 0.5 + a * normal(S) + b * normal() + c * normal(S)
    replicates = values[:, None] + b * normal(500) + c * normal(S, 500)
    of = MeanOverSeeds(values, replicates, range(S), EvaluateParams(bootstrap=500))
    lo, hi = percentile_interval(of.replicates, 0.95)
    assert 0.92 <= ((lo <= 0.5) & (hi >= 0.5)).mean() <= 0.995
    assert 0.002 <= (of.p_values(values.mean(axis=0) - 0.5) < 0.05).mean() <= 0.08


@pytest.mark.promise(
    "The interval of a calibration error contains it and lacks the bias that resampling adds."
)
@pytest.mark.parametrize(("gap", "n"), [(0.0, 60), (0.1, 400)])
def test_the_interval_of_a_calibration_error_contains_it_and_no_bias(gap, n):
    rng, params, held = np.random.default_rng(0), EvaluateParams(bootstrap=200), []
    for _ in range(10):
        seeds = []
        for _ in range(3):
            sure = rng.beta(4, 1.5, n) / 2 + 0.5
            right = rng.random(n) < sure - gap
            proba = np.stack([sure, 1 - sure], axis=1).astype(np.float32)
            seeds.append(Predicted(ids(n), np.where(right, 0, 1), proba))
        for row in rows(score(*seeds, params=params), params=params):
            if row["metric"] == "ece":
                assert 0 <= row["lo"] <= row["value"] <= row["hi"] <= 1
                held.append(row["lo"] <= max(gap, 0.01) and row["hi"] >= gap)
    assert np.mean(held) > 0.6  # plain percentiles contain hardly any of those near zero


@pytest.mark.promise(EXACT_BOUNDS)
@pytest.mark.parametrize(("n", "confidence"), [(1, 0.95), (20, 0.8), (500, 0.95)])
def test_a_share_of_0_or_1_has_the_bound_of_clopper_and_pearson(n, confidence):
    params, y = EvaluateParams(bootstrap=20, confidence=confidence), np.zeros(n, int)
    for k in (0, n):
        theirs = stats.binomtest(k, n).proportion_ci(confidence, "exact")
        row = mean_rows(score(predicted(y, y + (k == 0)), params=params), params)["accuracy"]
        assert (row["lo"], row["hi"]) == pytest.approx(tuple(theirs), abs=1e-9)
        assert EXACT in row["note"]


@pytest.mark.promise(EXACT_BOUNDS)
def test_seeds_and_copies_of_a_picture_are_no_further_units_and_folds_are():
    y = np.arange(20) % 2
    for seeds in (1, 5):
        row = mean_rows(score(*[predicted(y, y)] * seeds))["accuracy"]
        assert (round(row["lo"], 3), row["hi"], row["note"]) == (0.832, 1.0, EXACT)
    pairs = mean_rows(score(predicted(y, y), units=np.arange(20) // 2))["accuracy"]
    assert pairs["lo"] == pytest.approx(0.025 ** (1 / 10))
    y = np.arange(30) % 2
    # Two of three seeds that test the same fold, and sets that overlap, count less.
    for starts, units in (((0, 10, 20), 30), ((0, 10, 0), 15), ((0, 5, 10), 10)):
        one = score(*(predicted(y, y).take(np.arange(s, s + 10)) for s in starts))
        assert mean_rows(one)["accuracy"]["lo"] == pytest.approx(0.025 ** (1 / units))
        assert rows(one, "per_class")[0]["recall_lo"] == pytest.approx(0.025 ** (1 / (units // 2)))


@pytest.mark.promise(EXACT_BOUNDS)
def test_where_all_resamples_are_equal_other_metrics_have_no_interval_and_a_note():
    y = np.arange(20) % 2
    found = mean_rows(score(predicted(y, np.zeros(20, int))))  # recall 1 and 0 in every resample
    balanced = found["balanced_accuracy"]
    assert balanced["value"] == 0.5 and np.isnan([balanced["lo"], balanced["hi"]]).all()
    assert balanced["note"] == ALL_EQUAL and found["accuracy"]["lo"] < 0.5
    found = mean_rows(score(predicted(y, y)))
    for metric in METRICS[1:]:
        assert np.isnan([found[metric]["lo"], found[metric]["hi"]]).all(), metric
        assert found[metric]["note"] == ALL_EQUAL
    for row in rows(score(predicted(y, y)), "per_class"):
        assert row["recall_lo"] == row["precision_lo"] == pytest.approx(0.025 ** (1 / 10))
        assert np.isnan(row["f1_lo"])


@pytest.mark.promise(EVERY_CLASS)
def test_a_class_of_one_unit_gives_no_interval_over_classes_and_an_exact_one_of_its_own():
    y = np.array([0] * 9 + [1])
    one = score(*[predicted(y, np.array([1] + [0] * 8 + [1]))] * 5)
    for metric, row in mean_rows(one).items():
        assert np.isfinite(row["value"])
        assert np.isnan(row["lo"]) == (metric in OVER_CLASSES), metric
        assert (FEW_UNITS in row["note"]) == (metric in OVER_CLASSES)
    rare = rows(one, "per_class")[1]
    assert (rare["recall"], rare["recall_lo"], rare["recall_hi"]) == pytest.approx((1, 0.025, 1))
    assert np.isnan([rare["f1_lo"], rare["f1_hi"]]).all()


@pytest.mark.promise(EVERY_CLASS)
def test_resamples_without_a_class_are_drawn_again_for_means_over_classes_alone():
    y, said = np.array([0] * 18 + [1] * 2), np.array([0] * 15 + [1] * 3 + [0, 1])
    one = score(predicted(y, said))
    test = Resamples(ids(20), ids(20), y, PARAMS)
    lacking = test.weights[:, -2:].sum(axis=1) == 0
    assert 30 < lacking.sum() < 90  # about one in e ** 2
    held = test.weights.copy()
    held[lacking] = test.redrawn
    common, rare = held[:, :15].sum(axis=1) / held[:, :18].sum(axis=1), held[:, 18:]
    expected = (common + rare[:, 1] / rare.sum(axis=1)) / 2
    drawn = {name: one.replicates[0][:, one.names == name].T for name in one.names}
    np.testing.assert_allclose(drawn["balanced_accuracy"][0], expected, rtol=1e-6)
    np.testing.assert_allclose(drawn["accuracy"][0], test.weights @ (y == said) / 20, rtol=1e-6)
    # Metrics of one class leave out the resamples without that class, and no others.
    for metric in ("recall", "f1"):
        np.testing.assert_array_equal(np.isnan(drawn[metric][1]), lacking)
        assert np.isfinite(drawn[metric][0]).all()
    assert (drawn["precision"][0][lacking] == 1).all()


@pytest.mark.promise(EVERY_CLASS)
def test_many_classes_of_two_units_are_too_rarely_drawn_together():
    y = np.repeat(np.arange(60), 2)
    row = mean_rows(score(predicted(y, np.where(np.arange(120) % 5, y, 0), 60)))
    assert np.isnan(row["balanced_accuracy"]["lo"]) and FEW_UNITS in row["macro_f1"]["note"]
    assert row["accuracy"]["lo"] < row["accuracy"]["value"]


def difference(a, b, metric="accuracy", params=PARAMS) -> dict:
    rows = differences([(a, b)], [*a.run.seeds], params)
    (row,) = (row for row in rows if row["metric"] == metric)
    return row


@pytest.mark.promise(PAIRED)
@pytest.mark.parametrize("metric", ("macro_f1", "macro_auroc"))
def test_the_interval_of_a_difference_is_that_of_scoring_each_resample_anew(metric):
    rng, y, params = np.random.default_rng(0), np.arange(180) % 3, EvaluateParams(bootstrap=60)
    probas = [
        softmax(rng.standard_normal((180, 3)) + skill * np.eye(3)[y], axis=1) for skill in (2, 1)
    ]
    runs = [score(Predicted(ids(180), y, np.float32(p)), params=params) for p in probas]
    found = difference(*runs, metric, params)

    def anew(proba: np.ndarray, weights: np.ndarray | None = None) -> float:
        if metric == "macro_f1":
            return f1_score(y, proba.argmax(axis=1), average="macro", sample_weight=weights)
        return roc_auc_score(np.eye(3)[y], proba, average="macro", sample_weight=weights)

    assert found["difference"] == pytest.approx(anew(probas[0]) - anew(probas[1]), abs=1e-6)
    weights = Resamples(ids(180), ids(180), y, params).weights
    gaps = np.array([anew(probas[0], w) - anew(probas[1], w) for w in weights])
    lo, hi = percentile_interval(gaps, 0.95)
    # Replicates of AUROC are first-order: equal up to a tenth of the width.
    assert (found["lo"], found["hi"]) == pytest.approx((lo, hi), abs=0.1 * (hi - lo))


@pytest.mark.promise(EVERY_CLASS)
def test_a_difference_over_a_class_of_one_unit_has_no_interval():
    y = np.array([0] * 9 + [1])
    one, other = (score(predicted(y, said)) for said in ([1] + [0] * 8 + [1], [0] * 10))
    found = difference(one, other, "balanced_accuracy")
    assert np.isnan([found["lo"], found["hi"]]).all() and found["p"] == 1
    assert np.isfinite(difference(one, other)["lo"])
    same = difference(one, one)
    assert np.isnan(same["lo"]) and same["p"] == 1 and same["difference"] == 0


def test_pooled_runs_that_lack_different_folds_are_not_compared():
    y = np.arange(30) % 2
    folds = [predicted(y, y).take(np.arange(i, i + 10)) for i in (0, 10, 20)]
    one, same, other = (
        score(*(folds[k] for k in kept), pool=True) for kept in ((0, 1), (0, 1), (0, 2))
    )
    assert len(one.run.image_ids) == len(other.run.image_ids)
    compared = [compare_block([one, run], ("", ""), PARAMS) for run in (same, other)]
    assert {row["difference"] for row in compared[0]} == {0} and compared[1] == []


def test_holm_is_the_textbook_example_and_keeps_the_order():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])
    assert (holm(np.array([0.6, 0.9])) == [1.0, 1.0]).all()


@pytest.mark.promise(
    "A difference is called better or worse only when its interval excludes zero and its corrected "
    "p is below 0.05."
)
@pytest.mark.parametrize(
    ("lo", "hi", "p", "code"),
    [
        (0.01, 0.2, 0.04, "better"),
        (-0.2, -0.01, 0.04, "worse"),
        (0.01, 0.2, 0.05, "no difference"),
        (-0.01, 0.2, 0.001, "no difference"),
        (0.01, 0.2, np.nan, "better"),
        (np.nan, np.nan, 0.001, "too few"),
    ],
)
def test_a_verdict_needs_the_interval_and_the_corrected_p(lo, hi, p, code):
    assert verdict(lo, hi, p) == code
