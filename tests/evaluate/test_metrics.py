"""The metrics equal scikit-learn's and torchmetrics', and stay finite where classes are absent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.functional import classification as tm

from pipeline.evaluate.metrics import METRICS, class_notes, contributions, from_sums, score


def draw(n=200, classes=4, seed=0, sharp=2.0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    logits = rng.standard_normal((n, classes)) + sharp * np.eye(classes)[y]
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return proba.astype(np.float32), y


@pytest.mark.parametrize("classes", (2, 4))
def test_metrics_equal_scikit_learn(classes):
    proba, y = draw(classes=classes)
    predicted, ours = proba.argmax(axis=1), score(proba, y)
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(y, predicted))
    assert ours["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, predicted))
    assert ours["macro_f1"] == pytest.approx(sk.f1_score(y, predicted, average="macro"))
    one_vs_rest = np.mean([sk.roc_auc_score(y == c, proba[:, c]) for c in range(classes)])
    assert ours["macro_auroc"] == pytest.approx(one_vs_rest, abs=1e-5)
    whole = np.float64(proba) / np.float64(proba).sum(axis=1, keepdims=True)
    theirs = sk.brier_score_loss(y, whole if classes > 2 else whole[:, 1], scale_by_half=False)
    assert ours["brier"] == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("bins", (10, 15))
def test_metrics_equal_torchmetrics(bins):
    proba, y = draw()
    p, t = torch.tensor(proba), torch.tensor(y)
    ours = score(proba, y, bins)
    ece = tm.multiclass_calibration_error(p, t, num_classes=4, n_bins=bins, norm="l1")
    assert ours["ece"] == pytest.approx(float(ece), abs=1e-5)
    auroc = tm.multiclass_auroc(p, t, num_classes=4, average="macro", thresholds=None)
    assert ours["macro_auroc"] == pytest.approx(float(auroc), abs=1e-5)
    f1 = tm.multiclass_f1_score(p, t, num_classes=4, average="macro")
    assert ours["macro_f1"] == pytest.approx(float(f1), abs=1e-5)


def test_tied_scores_count_half():
    proba = np.round(draw()[0], 1)
    y = draw()[1]
    expected = np.mean([sk.roc_auc_score(y == c, proba[:, c]) for c in range(4)])
    assert score(proba, y)["macro_auroc"] == pytest.approx(expected, abs=1e-5)


def test_each_class_equals_scikit_learn():
    proba, y = draw()
    about = contributions(proba, y)
    ours = from_sums(about.total, about)
    theirs = sk.precision_recall_fscore_support(y, proba.argmax(axis=1))
    for name, expected in zip(("precision", "recall", "f1", "support"), theirs, strict=True):
        np.testing.assert_allclose(ours[name], expected, atol=1e-6)


def test_an_absent_class_is_left_out_and_named():
    proba, y = draw()
    kept = y != 2
    ours = score(proba[kept], y[kept])
    assert all(np.isfinite(ours[name]) for name in METRICS)
    recalls = sk.recall_score(
        y[kept], proba[kept].argmax(axis=1), labels=[0, 1, 3], average="macro"
    )
    assert ours["balanced_accuracy"] == pytest.approx(recalls)
    assert "no test image: c" in class_notes(y[kept], ["a", "b", "c", "d"])


def test_a_class_of_one_image_is_named_and_finite():
    proba, y = draw(n=30)
    y = np.where(y == 1, 0, y)
    y[0] = 1
    assert all(np.isfinite(v) for v in score(proba, y).values())
    assert "one test image only: b" in class_notes(y, ["a", "b", "c", "d"])


def test_one_class_alone_has_no_auroc_and_all_else():
    proba, _ = draw(n=20)
    ours = score(proba, np.zeros(20, dtype=int))
    assert np.isnan(ours.pop("macro_auroc"))
    assert all(np.isfinite(v) for v in ours.values())


def test_weighted_sums_equal_repeating_the_images():
    proba, y = draw(n=60)
    times = np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60))
    about = contributions(proba, y)
    weighted = from_sums((times[:, None] * about.rows).sum(axis=0), about)
    repeated = score(np.repeat(proba, times, axis=0), np.repeat(y, times))
    for name in set(METRICS) - {"macro_auroc"}:
        assert float(weighted[name]) == pytest.approx(repeated[name], abs=1e-5)
    # AUROC's replicates are first-order: near the exact value, not equal to it.
    assert float(weighted["macro_auroc"]) == pytest.approx(repeated["macro_auroc"], abs=0.01)
