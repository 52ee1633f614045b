"""The out-of-core probe is the linear probe, and what it reads in blocks is what was stored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.learners import on_disk
from pipeline.learners.on_disk import OnDisk
from tests.learners.projects import read_tables, small_params
from tests.learners.test_learners import make
from tests.learners.test_linear_probe import draw
from tests.learners.test_train import MASKED, make_project, train

NAME = "out-of-core-probe"


@pytest.mark.promise("The out-of-core probe is the linear probe, to the tolerance of its solver.")
@pytest.mark.parametrize("classes", (2, 4))
def test_it_is_the_linear_probe(classes, monkeypatch, tmp_path):
    monkeypatch.setattr(on_disk, "BLOCK", 7)
    train_part, val = draw(80, 16, classes, 0), draw(40, 16, classes, 1)
    found = {}
    for name in ("linear-probe", NAME):
        probe = make(name, max_iter=2000, c_min=1e-2, c_max=1.0, c_steps=3)
        probe.tol = 1e-6
        found[name] = probe.fit(train_part, val)
    assert found[NAME].chosen == found["linear-probe"].chosen
    proba = found[NAME].predict_proba(val)
    np.testing.assert_allclose(proba, found["linear-probe"].predict_proba(val), atol=1e-3)

    (tmp_path / "x").write_bytes(train_part.X.tobytes())
    rows = np.random.default_rng(0).permutation(80)  # another order of the images
    stored = {train_part.view: OnDisk(tmp_path / "x", 16, np.arange(80))}
    again = make(NAME, max_iter=2000, c_min=1e-2, c_max=1.0, c_steps=3)
    again.tol = 1e-6
    again.fit(replace(train_part, features=stored).take(rows, labelled=True), val)
    np.testing.assert_array_equal(again.coef_, found[NAME].coef_)
    np.testing.assert_array_equal(again.predict_proba(val), proba)


def test_train_reads_the_features_of_a_large_set_from_a_file_that_it_removes(tmp_path):
    paths = make_project(tmp_path)
    left = paths.cache("toy") / f".rows-{NAME}-left"  # by a run that was killed
    left.mkdir()
    params = small_params("linear-probe", NAME, train__views=MASKED, train__seeds=[1])
    assert train(paths, params)["failed"] == 0
    assert not list(paths.cache("toy").glob(".rows*"))
    table = read_tables(paths)[1]
    of = {
        name: rows.reset_index(drop=True) for name, rows in table.groupby("learner", observed=True)
    }
    proba = [of[name].filter(regex="^p:").to_numpy() for name in ("linear-probe", NAME)]
    np.testing.assert_allclose(*proba, atol=0.05)  # as `tol` lets it
