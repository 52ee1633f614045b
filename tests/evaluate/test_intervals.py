"""Intervals hold what they claim: images, groups, seeds; and pairs are paired."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import f1_score, roc_auc_score

from pipeline.config import EvaluateParams
from pipeline.evaluate.compare import difference, holm
from pipeline.evaluate.intervals import (
    TestSet,
    percentile_interval,
    t_interval,
)
from pipeline.evaluate.metrics import contributions
from pipeline.evaluate.predictions import Predicted, Run
from pipeline.evaluate.scores import Block


def correct(flags: np.ndarray):
    """Return contributions of a two-class set of class 0 with these images right."""
    proba = np.where(flags[:, None], [0.9, 0.1], [0.1, 0.9]).astype(np.float32)
    return contributions(proba, np.zeros(len(flags), dtype=int))


def names(n: int) -> np.ndarray:
    return np.array([f"i{k:03d}" for k in range(n)])


def test_the_bootstrap_of_accuracy_has_the_binomial_error():
    flags = np.arange(400) % 4 != 0
    test = TestSet(names(400), names(400), 2000, 0)
    drawn = test.replicates(correct(flags))["accuracy"]
    assert drawn.mean() == pytest.approx(0.75, abs=0.005)
    assert drawn.std() == pytest.approx((0.75 * 0.25 / 400) ** 0.5, rel=0.1)


def test_images_of_one_patient_are_drawn_together_and_widen_the_interval():
    flags = np.repeat(np.arange(40) % 4 != 0, 10)  # ten images a patient, all right or all wrong
    patients = np.repeat(names(40), 10)
    by_image = TestSet(names(400), names(400), 1000, 0).replicates(correct(flags))["accuracy"]
    by_patient = TestSet(names(400), patients, 1000, 0).replicates(correct(flags))["accuracy"]
    assert by_patient.std() / by_image.std() == pytest.approx(10**0.5, rel=0.15)


def test_groups_in_any_order_are_joined_to_their_own_rows():
    groups = np.array(["b", "a", "b", "c"])
    rows = np.array([[1.0], [10.0], [2.0], [100.0]], dtype=np.float32)
    test = TestSet(names(4), groups, 50, 0)
    expected = test.weights @ np.array([[10.0], [3.0], [100.0]])
    np.testing.assert_allclose(test.replicate_sums(rows), expected)
    alone = TestSet(names(4)[::-1], names(4)[::-1], 50, 0)
    expected = alone.weights @ rows[::-1]
    np.testing.assert_allclose(alone.replicate_sums(rows), expected)


def test_the_same_images_are_resampled_alike_and_others_not():
    a, b = (TestSet(names(30), names(30), 20, 0).weights for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert (a != TestSet(names(30), names(30), 20, 1).weights).any()


def test_the_t_interval_is_the_textbook_one():
    values = np.array([0.8, 0.82, 0.79, 0.85, 0.81])
    lo, hi = t_interval(values, 0.95)
    expected = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    np.testing.assert_allclose((lo, hi), expected)
    assert np.isnan(t_interval(values[:1], 0.95)).all()


def test_a_nan_replicate_is_left_out_and_all_nan_gives_nan():
    assert percentile_interval(np.array([0.5, np.nan, 0.5]), 0.95) == (0.5, 0.5)
    assert np.isnan(percentile_interval(np.array([np.nan]), 0.95)).all()


def test_holm_is_the_textbook_example_and_keeps_the_order():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])
    assert (holm(np.array([0.6, 0.9])) == [1.0, 1.0]).all()
    assert len(holm(np.array([]))) == 0


def test_a_difference_is_as_sure_as_its_pairs():
    params = EvaluateParams(bootstrap=2000)
    block = Block(None, {}, params, ["a", "b"])
    flags = np.arange(200) % 4 != 0
    scored = []
    for right in (flags | (np.arange(200) < 16), flags):  # they differ in four images
        proba = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9]).astype(np.float32)
        part = Predicted(names(200), np.zeros(200, dtype=int), proba)
        scored.append(block.score(Run("official", "head", "view", 1.0, {0: part}, {0: 10}, {})))
    found = difference(*scored, "accuracy", params)
    assert found["difference"] == pytest.approx(0.02)
    # The error of a share of 4 in 200; that of two runs drawn apart would be four times as large.
    error = (0.02 * 0.98 / 200) ** 0.5
    assert (found["hi"] - found["lo"]) / 3.92 == pytest.approx(error, rel=0.15)
    assert found["p"] == pytest.approx(2 * stats.norm.sf(0.02 / error), rel=0.5)


def test_pooled_runs_that_lack_different_folds_are_not_compared():
    params = EvaluateParams(bootstrap=50)
    block, every = Block(None, {}, params, ["a", "b"]), set(names(30))
    proba = np.full((10, 2), 0.5, dtype=np.float32)
    folds = [Predicted(names(30)[i : i + 10], np.arange(10) % 2, proba) for i in range(0, 30, 10)]
    one, same, other = (
        block.score(
            Run("grouped", "head", "view", 1.0, {k: folds[k] for k in kept}, {}, {}), pooled=every
        )
        for kept in ((0, 1), (0, 1), (0, 2))
    )
    assert one.n_images == other.n_images
    assert difference(one, same, "accuracy", params)["difference"] == 0
    assert difference(one, other, "accuracy", params) is None


@pytest.mark.parametrize("metric", ("macro_f1", "macro_auroc"))
def test_the_interval_of_a_difference_over_classes_is_that_of_scoring_each_resample_anew(metric):
    params = EvaluateParams(bootstrap=400)
    rng = np.random.default_rng(0)
    y = np.arange(180) % 3
    probas = [
        softmax(rng.standard_normal((180, 3)) + skill * np.eye(3)[y], axis=1) for skill in (2, 1)
    ]
    block = Block(None, {}, params, ["a", "b", "c"])
    scored = []
    for proba in probas:
        part = Predicted(names(180), y, proba.astype(np.float32))
        scored.append(block.score(Run("official", "head", "view", 1.0, {0: part}, {0: 10}, {})))
    found = difference(*scored, metric, params)

    def score(proba: np.ndarray, y: np.ndarray, drawn: np.ndarray | None = None) -> float:
        if metric == "macro_f1":
            return f1_score(y, proba.argmax(axis=1), average="macro", sample_weight=drawn)
        binary = np.eye(3)[y]
        return roc_auc_score(binary, proba, average="macro", sample_weight=drawn)

    assert found["difference"] == pytest.approx(score(probas[0], y) - score(probas[1], y), abs=1e-6)
    weights = TestSet(names(180), names(180), params.bootstrap, params.seed).weights
    again = [score(probas[0], y, w) - score(probas[1], y, w) for w in weights]
    lo, hi = percentile_interval(np.array(again), params.confidence)
    # Replicates of AUROC are first-order: as wide, to a tenth of the width.
    width = hi - lo
    assert found["lo"] == pytest.approx(lo, abs=0.1 * width)
    assert found["hi"] == pytest.approx(hi, abs=0.1 * width)
