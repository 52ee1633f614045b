"""The metrics equal scikit-learn's and torchmetrics', and stay finite where classes are absent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.functional import classification as tm

from pipeline.evaluate.scores import METRICS, contributions, from_sums, metric_columns


def draw(n=200, classes=4):
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, n)
    logits = rng.standard_normal((n, classes)) + 2 * np.eye(classes)[y]
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return proba.astype(np.float32), y


def score(proba, y, bins=15) -> dict[str, float | np.ndarray]:
    """The metrics by name, those of classes as (C,)."""
    about = contributions(proba, y, bins)
    found = from_sums(about.rows.sum(axis=0, dtype=float), about)
    names = metric_columns(proba.shape[1])
    by = {name: found[names == name] for name in dict.fromkeys(names)}
    return {name: values if len(values) > 1 else values[0] for name, values in by.items()}


@pytest.mark.parametrize(("classes", "digits"), [(2, 7), (4, 7), (4, 1)])
def test_metrics_equal_scikit_learn_also_where_scores_are_tied(classes, digits):
    proba, y = draw(classes=classes)
    proba = np.round(proba, digits)
    predicted, ours = proba.argmax(axis=1), score(proba, y)
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(y, predicted))
    assert ours["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, predicted))
    assert ours["macro_f1"] == pytest.approx(sk.f1_score(y, predicted, average="macro"))
    one_vs_rest = np.mean([sk.roc_auc_score(y == c, proba[:, c]) for c in range(classes)])
    assert ours["macro_auroc"] == pytest.approx(one_vs_rest, abs=1e-5)
    squares = ((np.float64(proba) - np.eye(classes)[y]) ** 2).sum(axis=1)
    assert ours["brier"] == pytest.approx(squares.mean(), abs=1e-5)
    theirs = sk.precision_recall_fscore_support(y, predicted)
    for name, expected in zip(("precision", "recall", "f1"), theirs, strict=False):
        np.testing.assert_allclose(ours[name], expected, atol=1e-6)


def test_the_calibration_error_equals_torchmetrics():
    proba, y = draw()
    ece = tm.multiclass_calibration_error(torch.tensor(proba), torch.tensor(y), 4, 10, "l1")
    assert score(proba, y, 10)["ece"] == pytest.approx(float(ece), abs=1e-5)


def test_an_absent_class_is_left_out_of_means_and_one_class_alone_has_no_auroc():
    proba, y = draw()
    kept = y != 2
    ours = score(proba[kept], y[kept])
    assert all(np.isfinite(ours[name]) for name in METRICS)
    recalls = sk.recall_score(
        y[kept], proba[kept].argmax(axis=1), labels=[0, 1, 3], average="macro"
    )
    assert ours["balanced_accuracy"] == pytest.approx(recalls)
    alone = score(proba, np.zeros(len(y), int))
    assert [name for name in METRICS if np.isnan(alone[name])] == ["macro_auroc"]
