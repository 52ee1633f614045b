"""The linear probe is scikit-learn's logistic regression, and validation only chooses its C."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.heads.linear_probe import LinearProbe


def draw(n, d, classes, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = np.random.default_rng(99).standard_normal((classes, d))
    X = centres[y] * 0.7 + rng.standard_normal((n, d)) * rng.uniform(1, 5, d) + 3
    return X.astype(np.float32), y


@pytest.mark.parametrize("classes", (2, 4))
@pytest.mark.parametrize(("n", "d"), ((20, 64), (300, 16)), ids=("n < d", "n > d"))
def test_it_equals_scikit_learn_at_the_chosen_C(n, d, classes):
    X, y = draw(n, d, classes, 0)
    X_val, y_val = draw(40, d, classes, 1)
    head = LinearProbe(c_min=1e-2, c_max=1.0, c_steps=3, tol=1e-6, max_iter=2000)
    head.fit(X, y, T=np.zeros((classes, d)), X_val=X_val, y_val=y_val)
    plain = make_pipeline(
        StandardScaler(), LogisticRegression(C=head.chosen["C"], tol=1e-8, max_iter=5000)
    ).fit(X.astype(np.float64), y)
    np.testing.assert_allclose(
        head.predict_proba(X_val), plain.predict_proba(X_val.astype(np.float64)), atol=5e-3
    )


def test_noise_in_place_of_validation_features_changes_the_chosen_C_only():
    X, y = draw(60, 32, 3, 0)
    X_val, y_val = draw(30, 32, 3, 1)
    X_new, _ = draw(50, 32, 3, 2)
    noise = np.random.default_rng(5).standard_normal((30, 32)).astype(np.float32) * 3
    chosen = []
    for values in (X_val, noise):
        head = LinearProbe(c_steps=7, tol=1e-6, max_iter=2000)
        head.fit(X, y, T=np.zeros((3, 32)), X_val=values, y_val=y_val)
        # Beside C everything comes from the train part: scikit-learn's fit of it alone.
        plain = make_pipeline(
            StandardScaler(), LogisticRegression(C=head.chosen["C"], tol=1e-8, max_iter=5000)
        ).fit(X.astype(np.float64), y)
        np.testing.assert_allclose(
            head.predict_proba(X_new), plain.predict_proba(X_new.astype(np.float64)), atol=5e-3
        )
        chosen.append(head.chosen["C"])
    assert chosen[0] != chosen[1]


def test_the_candidates_are_log_spaced_and_the_best_on_validation_is_taken():
    X, y = draw(80, 16, 3, 0)
    X_val, y_val = draw(60, 16, 3, 1)
    head = LinearProbe(c_min=1e-4, c_max=1e2, c_steps=7)
    np.testing.assert_allclose(head.candidates, [1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100])
    head.fit(X, y, T=np.zeros((3, 16)), X_val=X_val, y_val=y_val)
    scores = []
    for c in head.candidates:
        alone = LinearProbe(c_min=c, c_max=c, c_steps=1)
        alone.fit(X, y, T=np.zeros((3, 16)), X_val=X_val, y_val=y_val)
        scores.append(alone.val_score)
    assert max(scores) == head.val_score > scores[-1]
    assert head.chosen["C"] == head.candidates[np.argmax(scores)]


def test_a_class_without_training_images_gets_no_probability():
    X, y = draw(40, 16, 4, 0)
    kept = y != 2
    head = LinearProbe(c_steps=2)
    head.fit(X[kept], y[kept], T=np.zeros((4, 16)), X_val=X[:0], y_val=y[:0])
    proba = head.predict_proba(X)
    assert proba[:, 2].max() == 0
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)


def test_a_constant_feature_does_no_harm():
    X, y = draw(40, 16, 2, 0)
    X[:, 3] = 7.0
    head = LinearProbe(c_steps=2).fit(X, y, T=np.zeros((2, 16)), X_val=X, y_val=y)
    assert np.isfinite(head.coef_).all() and head.val_score > 0.8


def test_a_feature_dead_in_training_does_not_decide_a_new_image():
    X, y = draw(40, 16, 2, 0)
    X[:, 3] = 1e-7 * np.arange(40) * (y - 0.5)  # next to nothing, and it tells the classes apart
    head = LinearProbe().fit(X, y, T=np.zeros((2, 16)), X_val=X, y_val=y)
    new, _ = draw(40, 16, 2, 1)
    new[:, 3] = 0
    alive = new.copy()
    alive[:, 3] = 5.0
    same = head.predict_proba(new).argmax(axis=1) == head.predict_proba(alive).argmax(axis=1)
    assert same.all()
