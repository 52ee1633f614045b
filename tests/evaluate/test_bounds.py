"""Small test parts: exact bounds for shares of 0 and 1, whole resamples, or no interval and why."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from pipeline.config import EvaluateParams
from pipeline.evaluate.bounds import ALIKE, EXACT, OVER_CLASSES, REJECTED, Units, exact_bounds
from pipeline.evaluate.compare import difference
from pipeline.evaluate.intervals import TestSet
from pipeline.evaluate.metrics import METRICS
from pipeline.evaluate.predictions import Predicted, Run
from pipeline.evaluate.scores import Block, Scored, metric_rows
from pipeline.evaluate.tables import class_rows

PARAMS = EvaluateParams(bootstrap=400)


def names(n: int) -> np.ndarray:
    return np.array([f"i{k:03d}" for k in range(n)])


def scored(y, predicted, groups=None, seeds: int = 1, classes: int = 2, params=PARAMS) -> Scored:
    """Score `seeds` runs alike, 90 % sure of what they predict; images are units without groups."""
    ids, y = names(len(y)), np.asarray(y)
    proba = np.full((len(y), classes), 0.1 / max(1, classes - 1), dtype=np.float32)
    proba[np.arange(len(y)), predicted] = 0.9
    groups = {} if groups is None else dict(zip(ids, groups, strict=True))
    block = Block(None, groups, params, [f"c{k}" for k in range(classes)])
    found = {s: Predicted(ids, y, proba) for s in range(seeds)}
    labels = dict.fromkeys(found, 10)
    return block.score(Run("official", "head", "view", 1.0, found, labels, {}))


def of_mean(one: Scored, params=PARAMS) -> dict[str, dict]:
    rows = metric_rows(one, "official", "full", params)
    return {row["metric"]: row for row in rows if row["seed"] == -1}


def by_class(one: Scored) -> list[dict]:
    return class_rows(one, "official", "full", one.classes, 0.95)


@pytest.mark.parametrize("confidence", (0.8, 0.95))
@pytest.mark.parametrize("n", (1, 3, 20, 500))
def test_a_share_of_0_or_1_has_the_bound_of_clopper_and_pearson(n, confidence):
    for k in (0, n):
        theirs = binomtest(k, n).proportion_ci(confidence, "exact")
        assert exact_bounds(k / n, n, confidence) == pytest.approx(tuple(theirs), abs=1e-9)


@pytest.mark.parametrize("seeds", (1, 5))
def test_of_20_units_all_right_the_lower_bound_is_83_percent_and_copies_are_no_units(seeds):
    y = np.arange(20) % 2
    row = of_mean(scored(y, y, seeds=seeds))["accuracy"]
    assert (round(row["lo"], 3), row["hi"], row["note"]) == (0.832, 1.0, EXACT)
    wrong = of_mean(scored(y, 1 - y, seeds=seeds))["accuracy"]
    assert (wrong["lo"], round(wrong["hi"], 3)) == (0.0, 0.168)
    pairs = of_mean(scored(y, y, groups=np.arange(20) // 2 + 1, seeds=seeds))["accuracy"]
    assert pairs["lo"] == pytest.approx(0.025 ** (1 / 10))


def test_intervals_of_accuracy_hold_the_truth_where_most_test_parts_are_all_right():
    rng, held = np.random.default_rng(0), []
    y = np.arange(20) % 2
    for _ in range(200):
        wrong = rng.random(20) < 0.03
        row = of_mean(scored(y, np.where(wrong, 1 - y, y)))["accuracy"]
        held.append(row["lo"] <= 0.97 <= row["hi"])
    assert np.mean(held) > 0.93  # less than half of them with intervals of no width


def test_where_all_resamples_are_alike_other_figures_have_no_interval_and_a_note_says_so():
    y = np.arange(20) % 2
    rows = of_mean(scored(y, np.zeros(20, int)))  # always the first class: recall 1 and 0
    assert rows["balanced_accuracy"]["value"] == 0.5
    assert np.isnan([rows["balanced_accuracy"][end] for end in ("lo", "hi")]).all()
    assert rows["balanced_accuracy"]["note"] == ALIKE
    assert rows["accuracy"]["lo"] < 0.5 < rows["accuracy"]["hi"]
    rows = of_mean(scored(y, y))
    for metric in METRICS[1:]:
        assert np.isnan([rows[metric]["lo"], rows[metric]["hi"]]).all(), metric
        assert rows[metric]["note"] == ALIKE
    for row in by_class(scored(y, y)):
        assert row["recall_lo"] == row["precision_lo"] == pytest.approx(0.025 ** (1 / 10))
        assert np.isnan(row["f1_lo"])


def test_a_class_of_one_unit_gives_no_interval_over_classes_and_hardly_any_of_its_own():
    y = np.array([0] * 9 + [1])
    predicted = np.array([1] + [0] * 8 + [1])
    one, other = scored(y, predicted, seeds=5), scored(y, np.zeros(10, int), seeds=5)
    rows = of_mean(one)
    said = "no interval of means over classes, one test unit only: c1"
    for metric in OVER_CLASSES:
        assert np.isfinite(rows[metric]["value"]) and np.isnan(rows[metric]["lo"])
        assert said in rows[metric]["note"]
    assert rows["accuracy"]["lo"] < 0.9 < rows["accuracy"]["hi"]
    assert said not in rows["accuracy"]["note"]
    rare = by_class(one)[1]
    assert (rare["recall"], rare["recall_lo"], rare["recall_hi"]) == pytest.approx((1, 0.025, 1))
    assert np.isnan([rare["f1_lo"], rare["f1_hi"]]).all()
    found = difference(one, other, "balanced_accuracy", PARAMS)
    assert np.isnan([found["lo"], found["hi"]]).all() and found["p"] == 1
    assert difference(one, other, "accuracy", PARAMS)["hi"] >= 0
    same = difference(one, one, "accuracy", PARAMS)
    assert np.isnan(same["lo"]) and same["p"] == 1 and same["difference"] == 0


def test_resamples_without_a_class_are_drawn_again_for_figures_over_classes_alone():
    y = np.array([0] * 18 + [1] * 2)
    predicted = np.array([0] * 15 + [1] * 3 + [0, 1])
    one = scored(y, predicted)
    test = TestSet(names(20), np.array([f"image {i}" for i in names(20)]), 400, PARAMS.seed, y)
    lacking = test.weights[:, -2:].sum(axis=1) == 0
    assert 30 < lacking.sum() < 90  # about one in e ** 2
    held = test.weights.copy()
    held[lacking] = test.redrawn[1]
    common, rare = held[:, :15].sum(axis=1) / held[:, :18].sum(axis=1), held[:, 18:]
    expected = (common + rare[:, 1] / rare.sum(axis=1)) / 2
    np.testing.assert_allclose(one.replicates["balanced_accuracy"][0], expected, rtol=1e-6)
    accuracy = (test.weights @ (y == predicted)) / 20
    np.testing.assert_allclose(one.replicates["accuracy"][0], accuracy, rtol=1e-6)
    note = of_mean(one)["macro_f1"]["note"]
    assert note == f"{lacking.sum()} of 400 resamples drawn again for lack of a class"
    assert of_mean(one)["accuracy"]["note"] == ""


def test_a_figure_of_one_class_leaves_out_the_resamples_without_it_and_no_others():
    y = np.array([0] * 18 + [1] * 2)
    one = scored(y, np.array([0] * 15 + [1] * 3 + [0, 1]))
    of = one.class_replicates
    lacking = np.isnan(of["recall"][0, :, 1])
    assert lacking.sum() > 30
    np.testing.assert_array_equal(np.isnan(of["f1"][0, :, 1]), lacking)  # not 0
    for metric in ("precision", "recall", "f1"):
        assert np.isfinite(of[metric][0, :, 0]).all()
    assert (of["precision"][0, lacking, 0] == 1).all()  # without it none is taken for the other


def test_what_is_drawn_again_holds_every_class_is_fixed_and_the_same_for_all_runs():
    y = np.array([0, 0, 1, 0, 2, 0, 0, 1, 2, 0])
    groups = np.array(list("aabbbcdeef"))  # b holds three classes, e two
    test = TestSet(names(10), groups, 300, 0, y)
    lacking, weights = test.redrawn
    holds = np.stack([np.isin(list("abcdef"), list(of)) for of in ("abcdf", "be", "be")], axis=1)
    np.testing.assert_array_equal(test.holding(y), holds)
    assert len(lacking) and (test.weights[lacking] @ holds == 0).any(axis=1).all()
    assert (weights @ holds > 0).all() and (weights.sum(axis=1) == 6).all()
    kept = np.setdiff1d(np.arange(300), lacking)
    assert (test.weights[kept] @ holds > 0).all()
    again = TestSet(names(10), groups, 300, 0, y)
    np.testing.assert_array_equal(again.redrawn[1], weights)
    np.testing.assert_array_equal(again.weights, TestSet(names(10), groups, 300, 0).weights)
    sums, whole = test.both_sums(np.eye(3, dtype=np.float32)[y])
    np.testing.assert_array_equal(sums[kept], whole[kept])
    assert (whole > 0).all() and not (sums > 0).all()


def test_a_difference_of_means_over_classes_is_of_whole_resamples_too():
    y = np.array([0] * 20 + [1] * 2)
    good, bad = np.array([0] * 18 + [1] * 4), np.array([0] * 20 + [0, 1])
    one, other = scored(y, good), scored(y, bad)
    found = difference(one, other, "balanced_accuracy", PARAMS)
    gaps = one.replicates["balanced_accuracy"][0] - other.replicates["balanced_accuracy"][0]
    assert (found["lo"], found["hi"]) == pytest.approx(tuple(np.quantile(gaps, [0.025, 0.975])))
    test = TestSet(names(22), np.array([f"image {i}" for i in names(22)]), 400, PARAMS.seed, y)
    lacking, held = test.redrawn
    assert len(lacking) > 30
    common = held[:, :18].sum(axis=1) / held[:, :20].sum(axis=1) - 1
    rare = held[:, 20] / held[:, 20:].sum(axis=1)
    np.testing.assert_allclose(gaps[lacking], (common + rare) / 2, atol=1e-6)


def test_many_classes_of_two_units_are_too_rarely_drawn_together():
    y = np.repeat(np.arange(60), 2)
    one = scored(y, np.where(np.arange(120) % 5, y, 0), classes=60)
    row = of_mean(one)["balanced_accuracy"]
    assert np.isnan(row["lo"]) and row["note"] == REJECTED
    assert of_mean(one)["accuracy"]["lo"] < row["value"]


def test_units_behind_a_mean_are_those_of_one_part_for_seeds_that_share_it():
    def behind(count, part) -> int:
        count, part = np.array(count), np.array(part)
        none = np.zeros((len(part), 2), int)
        of = Units(count, none, none, part, 0 * part, part < 0, 100)
        return of.behind(of.every)

    assert behind([10, 10, 10], [0, 0, 0]) == 10
    assert behind([10, 12, 11], [0, 1, 2]) == 30
    assert behind([10, 12, 10], [0, 1, 0]) == 15  # two seeds test the first fold
    assert behind([0, 4, 4], [0, 1, 2]) == 8
    assert behind([0], [0]) == 0


def test_folds_are_parts_of_their_own_and_parts_that_overlap_are_one():
    y = np.arange(30) % 2
    proba = np.eye(2, dtype=np.float32)[y]
    for starts, units in (((0, 10, 20), 30), ((0, 5, 10), 10)):
        found = {
            k: Predicted(names(30)[s : s + 10], y[s : s + 10], proba[s : s + 10])
            for k, s in enumerate(starts)
        }
        block = Block(None, {}, PARAMS, ["a", "b"])
        one = block.score(Run("grouped", "head", "view", 1.0, found, dict.fromkeys(found, 1), {}))
        assert of_mean(one)["accuracy"]["lo"] == pytest.approx(0.025 ** (1 / units))
        assert by_class(one)[0]["recall_lo"] == pytest.approx(0.025 ** (2 / units))
