"""Differences are paired, corrected and called significant by one rule."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import f1_score, roc_auc_score

from pipeline.config import EvaluateParams
from pipeline.evaluate.compare import (
    COLUMNS,
    comparison_text,
    corrected,
    differences,
    holm,
    verdict,
)
from pipeline.evaluate.intervals import Resamples, percentile_interval
from pipeline.evaluate.predictions import Predicted

from .runs import PARAMS, class_rows, ids, mean_rows, predicted, score

PAIRED = "Compared runs are paired, and p-values corrected for the number of comparisons."


def difference(a, b, metric="accuracy", params=PARAMS) -> dict:
    (row,) = differences([(a, b)], [metric], params)
    return row


def test_holm_is_the_textbook_example_and_keeps_the_order():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])
    assert (holm(np.array([0.6, 0.9])) == [1.0, 1.0]).all()
    assert len(holm(np.array([]))) == 0


@pytest.mark.promise(PAIRED)
def test_the_error_of_a_difference_is_that_of_its_pairs():
    params, y = EvaluateParams(bootstrap=2000), np.zeros(200, int)
    wrong = np.arange(200) % 4 == 0
    a, b = (
        predicted(y, 1 * (wrong & (np.arange(200) >= 16))),
        predicted(y, 1 * wrong),
    )  # 4 images differ
    found = difference(*(score(p, params=params) for p in (a, b)), params=params)
    assert found["difference"] == pytest.approx(0.02)
    # The error of a share of 4 in 200; that of two independent runs would be four times as large.
    error = (0.02 * 0.98 / 200) ** 0.5
    assert (found["hi"] - found["lo"]) / 3.92 == pytest.approx(error, rel=0.15)
    assert found["p"] == pytest.approx(2 * stats.norm.sf(0.02 / error), rel=0.5)


@pytest.mark.promise(PAIRED)
@pytest.mark.parametrize("metric", ("macro_f1", "macro_auroc"))
def test_the_interval_of_a_difference_is_that_of_scoring_each_resample_anew(metric):
    rng, y = np.random.default_rng(0), np.arange(180) % 3
    probas = [
        softmax(rng.standard_normal((180, 3)) + skill * np.eye(3)[y], axis=1) for skill in (2, 1)
    ]
    params = EvaluateParams(bootstrap=150)
    runs = [
        score(Predicted(ids(180), y, proba.astype(np.float32)), params=params) for proba in probas
    ]
    found = difference(*runs, metric, params)

    def anew(proba: np.ndarray, weights: np.ndarray | None = None) -> float:
        if metric == "macro_f1":
            return f1_score(y, proba.argmax(axis=1), average="macro", sample_weight=weights)
        return roc_auc_score(np.eye(3)[y], proba, average="macro", sample_weight=weights)

    assert found["difference"] == pytest.approx(anew(probas[0]) - anew(probas[1]), abs=1e-6)
    weights = Resamples(ids(180), ids(180), params.bootstrap, params.seed).weights
    gaps = np.array([anew(probas[0], w) - anew(probas[1], w) for w in weights])
    lo, hi = percentile_interval(gaps, 0.95)
    # Replicates of AUROC are first-order: equal up to a tenth of the width.
    assert (found["lo"], found["hi"]) == pytest.approx((lo, hi), abs=0.1 * (hi - lo))


@pytest.mark.promise(
    "Means over classes, and their differences, use resamples that hold every class; a class with "
    "one unit leaves them without an interval."
)
def test_a_difference_of_means_over_classes_uses_resamples_with_every_class():
    y = np.array([0] * 20 + [1] * 2)
    a = score(predicted(y, [0] * 18 + [1] * 4))
    b = score(predicted(y, [0] * 20 + [0, 1]))
    f = a.columns["balanced_accuracy", -1]
    gaps = a.replicates[0, :, f] - b.replicates[0, :, f]
    found = difference(a, b, "balanced_accuracy")
    assert (found["lo"], found["hi"]) == pytest.approx(tuple(np.quantile(gaps, [0.025, 0.975])))
    lacking, held = Resamples(ids(22), ids(22), PARAMS.bootstrap, PARAMS.seed, y).redrawn
    assert len(lacking) > 30
    common = held[:, :18].sum(axis=1) / held[:, :20].sum(axis=1) - 1
    rare = held[:, 20] / held[:, 20:].sum(axis=1)
    np.testing.assert_allclose(gaps[lacking], (common + rare) / 2, atol=1e-6)
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
    assert len(one.image_ids) == len(other.image_ids)
    assert difference(one, same)["difference"] == 0
    assert differences([(one, other)], ["accuracy"], PARAMS) == []


@pytest.mark.promise(
    "Intervals and p-values over a few seeds are as wide as Student's t makes them, and with one "
    "fold per seed no image counts twice."
)
def test_intervals_of_metrics_differences_and_classes_grow_with_the_spread_of_the_seeds():
    y, at = np.arange(200) % 2, np.arange(200)

    def widths(spread: int) -> dict[str, float]:
        a, b = (
            score(
                *(
                    predicted(y, np.where(at < right + sign * spread * seed, y, 1 - y))
                    for seed in range(-2, 3)
                )
            )
            for right, sign in ((120, 1), (150, -1))
        )
        row, found, recall = mean_rows(a)["accuracy"], difference(a, b), class_rows(a)[0]
        return {
            "metric": row["hi"] - row["lo"],
            "seeds": row["t_hi"] - row["t_lo"],
            "difference": found["hi"] - found["lo"],
            "p": found["p"],
            "recall": recall["recall_hi"] - recall["recall_lo"],
        }

    calm, spread = widths(0), widths(12)
    assert calm["seeds"] == 0 < calm["metric"]
    for name in ("metric", "difference", "recall"):
        assert spread[name] > 1.3 * calm[name], name
    assert spread["p"] > calm["p"]
    assert spread["metric"] > 0.999 * spread["seeds"]


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


def row(protocol: str, subset: str, difference: float, p: float = 0.001, views="ab") -> dict:
    runs = {"learner_a": "probe", "view_a": views[0], "learner_b": "probe", "view_b": views[1]}
    numbers = {"difference": difference, "lo": difference - 0.01, "hi": difference + 0.01, "p": p}
    where = {"protocol": protocol, "subset": subset, "metric": "accuracy", "fraction": 0.05}
    return where | runs | numbers | {"n_seeds": 5, "n_images": 40}


def table(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame(corrected(list(rows)), columns=list(COLUMNS))


def test_the_text_of_comparisons_rounds_and_leaves_out_repeated_subsets():
    text = comparison_text(
        table(
            row("official", "full", -1 / 3, p=1e-8),
            row("official", "clean", -1 / 3, p=1e-8),
            row("official", "clean_any", 0.2) | {"lo": np.nan, "hi": np.nan},
        )
    )
    _, first, second, last = (line.split() for line in text.splitlines())
    assert first[8:] == ["-0.3333", "-0.3433", "-0.3233", "<0.0001", "<0.0001", "worse", "5", "40"]
    assert (
        second[1] == "clean_any" and second[9:11] == ["–", "–"] and second[13:15] == ["too", "few"]
    )
    assert last[-2:] == ["official,", "clean"]
