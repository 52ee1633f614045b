"""What every head promises, on arrays: it learns what is there, and nothing that is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.heads import DivergedError, get_head
from pipeline.heads.linear_probe import LinearProbe
from pipeline.heads.medfocus import MedFocus
from pipeline.heads.medfocus_probe import MedFocusProbe
from pipeline.heads.zero_shot import ZeroShot

CLASSES = 3
DIM = 24
SHUFFLES = 24


def make(name: str):
    """Return a small unfitted head."""
    if name == "zero-shot":
        return ZeroShot()
    if name == "linear-probe":
        return LinearProbe(c_steps=4)
    focus = MedFocus(epochs=30, attention_dim=8, learning_rate=3e-3)
    return focus if name == "medfocus" else MedFocusProbe(focus, LinearProbe(c_steps=4))


def draw(n: int, seed: int, spread: float = 1.0):
    """Return X (n, d), y (n,), T (C, d) with one centre a class; T lies near the centres."""
    centres = np.random.default_rng(0).standard_normal((CLASSES, DIM))
    rng = np.random.default_rng(seed)
    y = np.arange(n) % CLASSES
    X = (centres[y] + spread * rng.standard_normal((n, DIM))).astype(np.float32)
    return X, y, centres.astype(np.float32)


def hits(head, X, y) -> float:
    return float((head.predict_proba(X).argmax(axis=1) == y).mean())


def chance(n: int) -> tuple[float, float]:
    """Return the 99.9 % interval of the accuracy of guessing among the classes."""
    lo, hi = stats.binom.interval(0.999, n, 1 / CLASSES)
    return lo / n, hi / n


NAMES = ("zero-shot", "linear-probe", "medfocus", "medfocus-probe")
TRAINED = NAMES[1:]


@pytest.fixture(scope="module")
def fitted():
    X, y, T = draw(90, 1)
    X_val, y_val, _ = draw(30, 2)
    return {n: make(n).fit(X, y, T=T, X_val=X_val, y_val=y_val) for n in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_head_finds_classes_that_are_there(fitted, name):
    X, y, _ = draw(300, 3)
    assert hits(fitted[name], X, y) > 0.85


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_float32_rows_that_sum_to_one(fitted, name):
    proba = fitted[name].predict_proba(draw(7, 3)[0])
    assert proba.shape == (7, CLASSES) and proba.dtype == np.float32
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_head_rebuilt_from_its_tensors_predicts_the_same_bits(fitted, name):
    head, X = fitted[name], draw(50, 4)[0]
    again = get_head(name).from_saved(head.to_tensors(), head.to_config())
    np.testing.assert_array_equal(again.predict_proba(X), head.predict_proba(X))


@pytest.mark.parametrize("name", TRAINED)
def test_shuffled_labels_give_chance(name):
    X, y, T = draw(60, 1)
    X_val, y_val, _ = draw(30, 2)
    X_test, y_test, _ = draw(60, 3)
    rng = np.random.default_rng(5)
    # The classes are clusters: on shuffled labels each whole cluster gets one guess, right with
    # probability 1 / 3. One shuffle may give 0 or 1; their mean over many must be chance.
    scores = [
        hits(
            make(name).fit(X, rng.permutation(y), T=T, X_val=X_val, y_val=rng.permutation(y_val)),
            X_test,
            y_test,
        )
        for _ in range(SHUFFLES)
    ]
    deviation = np.sqrt(CLASSES * (1 / CLASSES) * (1 - 1 / CLASSES)) / CLASSES
    error = abs(np.mean(scores) - 1 / CLASSES)
    assert error < 3 * deviation / np.sqrt(SHUFFLES)


@pytest.mark.parametrize("name", NAMES)
def test_noise_in_place_of_features_gives_chance(name):
    rng = np.random.default_rng(6)
    _, y, T = draw(240, 1)
    noise = [rng.standard_normal((n, DIM)).astype(np.float32) for n in (240, 60, 600)]
    y_val, y_test = draw(60, 2)[1], draw(600, 3)[1]
    head = make(name).fit(noise[0], y, T=T, X_val=noise[1], y_val=y_val)
    lo, hi = chance(600)
    assert lo <= hits(head, noise[2], y_test) <= hi


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_classes_changes_no_prediction(fitted, name):
    X, y, T = draw(90, 1)
    X_val, y_val, _ = draw(30, 2)
    order = np.array([2, 0, 1])  # new class k is old class order[k]
    new = np.argsort(order)
    head = make(name).fit(X, new[y], T=T[order], X_val=X_val, y_val=new[y_val])
    X_test = draw(200, 3, spread=2)[0]
    ours = head.predict_proba(X_test).argmax(axis=1)
    theirs = fitted[name].predict_proba(X_test).argmax(axis=1)
    np.testing.assert_array_equal(order[ours], theirs)


@pytest.mark.parametrize("name", ("linear-probe", "zero-shot"))
def test_the_order_of_images_changes_no_prediction(fitted, name):
    X, y, T = draw(90, 1)
    X_val, y_val, _ = draw(30, 2)
    order = np.random.default_rng(0).permutation(90)
    head = make(name).fit(X[order], y[order], T=T, X_val=X_val, y_val=y_val)
    X_test = draw(200, 3)[0]
    ours, theirs = head.predict_proba(X_test), fitted[name].predict_proba(X_test)
    np.testing.assert_array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))


@pytest.mark.parametrize("name", NAMES)
def test_fitting_twice_gives_the_same_bits(fitted, name):
    X, y, T = draw(90, 1)
    X_val, y_val, _ = draw(30, 2)
    head = make(name).fit(X, y, T=T, X_val=X_val, y_val=y_val)
    for tensor, array in fitted[name].to_tensors().items():
        np.testing.assert_array_equal(head.to_tensors()[tensor], array)


@pytest.mark.parametrize("name", TRAINED)
def test_a_head_does_without_a_validation_part(name):
    X, y, T = draw(60, 1)
    head = make(name).fit(X, y, T=T, X_val=X[:0], y_val=y[:0])
    assert head.val_score is None
    assert hits(head, *draw(100, 3)[:2]) > 0.8


@pytest.mark.parametrize("name", TRAINED)
def test_a_nan_feature_is_a_divergence_and_not_a_prediction(name):
    X, y, T = draw(60, 1)
    X[3, 4] = np.nan
    with pytest.raises(DivergedError, match="not finite"):
        make(name).fit(X, y, T=T, X_val=X[:0], y_val=y[:0])


def test_zero_shot_is_the_nearest_prompt_whatever_the_scale():
    X, _, T = draw(50, 1)
    cosine = (X / np.linalg.norm(X, axis=1, keepdims=True)) @ (
        T / np.linalg.norm(T, axis=1, keepdims=True)
    ).T
    for scale in (1.0, 100.0):
        proba = ZeroShot(scale).fit(T=T).predict_proba(X)
        np.testing.assert_array_equal(proba.argmax(axis=1), cosine.argmax(axis=1))
