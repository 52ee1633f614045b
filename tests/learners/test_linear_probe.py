"""The linear probe is scikit-learn's logistic regression; validation images only choose its C."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.learners.test_learners import make, samples


def draw(n, d, classes, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = np.random.default_rng(99).standard_normal((classes, d))
    X = centres[y] * 0.7 + rng.standard_normal((n, d)) * rng.uniform(1, 5, d) + 3
    return samples(X, y, np.zeros((classes, d), np.float32))


@pytest.mark.promise("The linear probe is logistic regression at the C that validation chose.")
@pytest.mark.parametrize("classes", (2, 4))
@pytest.mark.parametrize(("n", "d"), ((80, 16), (24, 64)), ids=("n > d", "n < d"))
def test_it_equals_scikit_learn_at_the_chosen_C(n, d, classes):
    train, val = draw(n, d, classes, 0), draw(40, d, classes, 1)
    probe = make("linear-probe", max_iter=2000, c_min=1e-2, c_max=1.0, c_steps=3)
    probe.tol = 1e-6
    probe.fit(train, val)
    model = LogisticRegression(C=probe.chosen["C"], tol=1e-8, max_iter=5000)
    plain = make_pipeline(StandardScaler(), model).fit(train.X.astype(np.float64), train.y)
    expected = plain.predict_proba(val.X.astype(np.float64))
    np.testing.assert_allclose(probe.predict_proba(val), expected, atol=5e-3)
