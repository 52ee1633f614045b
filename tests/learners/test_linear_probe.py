"""The linear probe is scikit-learn's logistic regression; validation images only choose its C.

The out-of-core probe is the linear probe, and what it reads in blocks is what was stored.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.learners import on_disk
from tests.learners.projects import read_tables, small_params
from tests.learners.test_learners import make, samples
from tests.learners.test_train import MASKED, make_project, train

PROBES = LINEAR, OUT_OF_CORE = ("linear-probe", "out-of-core-probe")
SAME = "The out-of-core probe is the linear probe, to the tolerance of its solver."


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(on_disk, "BLOCK", 7)


def draw(n, d, classes, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = np.random.default_rng(99).standard_normal((classes, d))
    X = centres[y] * 0.7 + rng.standard_normal((n, d)) * rng.uniform(1, 5, d) + 3
    return samples(X, y, np.zeros((classes, d), np.float32))


def fit(name, *parts):
    probe = make(name, max_iter=2000, c_min=1e-2, c_max=1.0, c_steps=3)
    probe.tol = 1e-6
    return probe.fit(*parts)


@pytest.mark.promise("The linear probe is logistic regression at the C that validation chose.")
@pytest.mark.promise(SAME)
@pytest.mark.parametrize("classes", (2, 4))
@pytest.mark.parametrize(("n", "d"), ((80, 16), (24, 64)), ids=("n > d", "n < d"))
def test_both_equal_scikit_learn_at_the_chosen_C(n, d, classes):
    parts = draw(n, d, classes, 0), draw(40, d, classes, 1)
    probe, other = (fit(name, *parts) for name in PROBES)
    X, X_val = (part.X.astype(np.float64) for part in parts)
    model = LogisticRegression(C=probe.chosen["C"], tol=1e-8, max_iter=5000)
    plain = make_pipeline(StandardScaler(), model).fit(X, parts[0].y)
    proba = probe.predict_proba(parts[1])
    np.testing.assert_allclose(proba, plain.predict_proba(X_val), atol=5e-3)
    np.testing.assert_allclose(other.predict_proba(parts[1]), proba, atol=1e-3)
    assert other.chosen == probe.chosen


@pytest.mark.promise(SAME)
@pytest.mark.parametrize("classes", (2, 4))
def test_features_in_a_file_in_another_order_give_the_same_bits(classes, tmp_path):
    part, val = draw(80, 16, classes, 0), draw(40, 16, classes, 1)
    (tmp_path / "x").write_bytes(part.X.tobytes())
    stored = {part.view: on_disk.OnDisk(tmp_path / "x", 16, np.arange(80))}
    rows = np.random.default_rng(0).permutation(80)
    plain = fit(OUT_OF_CORE, part, val)
    again = fit(OUT_OF_CORE, replace(part, features=stored).take(rows, labelled=True), val)
    np.testing.assert_array_equal(again.coef_, plain.coef_)
    np.testing.assert_array_equal(again.predict_proba(val), plain.predict_proba(val))


def test_train_reads_the_features_of_a_large_set_from_a_file_that_it_removes(tmp_path):
    paths = make_project(tmp_path)
    left = paths.cache("toy") / f".rows-{OUT_OF_CORE}-left"  # by a run that was killed
    left.mkdir()
    assert train(paths, small_params(*PROBES, train__views=MASKED, train__seeds=[1]))["failed"] == 0
    assert not list(paths.cache("toy").glob(".rows*"))
    table = read_tables(paths)[1].set_index("learner").filter(regex="^p:")
    np.testing.assert_allclose(table.loc[LINEAR], table.loc[OUT_OF_CORE], atol=0.05)  # as `tol`
