"""The scripts of examples/ run on a built project."""

from __future__ import annotations

import runpy
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.report.data import PUBLISHED, load_dataset
from tests.report.fabricated import make_project
from tests.site import Site


def lines(path: Path) -> int:
    """All lines of a file, docstrings and blank ones too."""
    return len(path.read_text().splitlines())


def test_figure_2_is_redrawn_from_the_stored_predictions(site: Site, repo: Path) -> None:
    script = repo / "examples/figure2.py"
    site.run("python", str(script), "covid", "figure2.png")
    assert (site.root / "figure2.png").read_bytes()[:4] == b"\x89PNG"
    assert lines(script) < 40


def test_figure_2_draws_the_runs_of_the_study_and_its_shares(tmp_path, repo, monkeypatch):
    params, paths = make_project(tmp_path, "set")
    settings = yaml.safe_load((repo / "params.yaml").read_text())
    settings |= {"datasets": ["set"]}
    settings["learners"] = {name: settings["learners"][name] for name in params.learners}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["figure2.py", "set", "out.png"])
    axis = runpy.run_path(str(repo / "examples/figure2.py"))["axis"]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["5", "100"]
    lines = {line.get_label(): line for line in axis.get_lines()}
    assert list(lines) == [run.name for run in params.study.runs]
    found = load_dataset("set", params, paths).accuracy(PUBLISHED)
    for run in params.study.runs:
        values = [found[run.key][f].value for f in (0.05, 1.0)]
        assert list(lines[run.name].get_ydata()) == pytest.approx(values)


@pytest.mark.parametrize("absent", range(3))
def test_a_class_without_an_image_has_probability_0_in_the_new_head(repo, absent):
    prototype = runpy.run_path(str(repo / "examples/prototype_head.py"))["Prototype"]
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 8)).astype(np.float32), np.arange(30) % 3
    there, T = y != absent, np.ones((3, 8), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head = prototype().fit(X[there], y[there], T=T, X_val=X[:0], y_val=y[:0])
        # Images as far from all means as can be, too.
        proba = head.predict_proba(np.concatenate([X, -X]))
    assert np.isfinite(proba).all() and (proba[:, absent] == 0).all()
    assert proba.sum(axis=1) == pytest.approx(1, abs=1e-5)
    # The others are as without that class.
    others = [c for c in range(3) if c != absent]
    two = np.searchsorted(others, y[there])
    alone = prototype().fit(X[there], two, T=T[:2], X_val=X[:0], y_val=y[:0])
    np.testing.assert_allclose(proba[:30, others], alone.predict_proba(X), atol=1e-6)
    saved = prototype.from_saved(head.to_tensors(), head.to_config())
    np.testing.assert_array_equal(saved.predict_proba(X), proba[:30])


def test_a_new_head_gets_its_rows_without_a_change_to_the_library(site: Site, repo: Path) -> None:
    script = Path(shutil.copy(repo / "examples/prototype_head.py", site.root))
    cache = site.root / "cache/covid"
    before = pd.read_parquet(cache / "metrics.parquet")
    heads = {file: file.read_bytes() for file in (cache / "heads").rglob("*") if file.is_file()}
    site.run("python", script.name, "covid")
    metrics = pd.read_parquet(cache / "metrics.parquet")
    rows = metrics[(metrics["head"] == "prototype") & (metrics["metric"] == "accuracy")]
    assert len(rows) and rows["value"].between(0, 1).all()
    others = metrics[metrics["head"] != "prototype"].reset_index(drop=True)
    assert "medfocus" in set(before["head"])
    pd.testing.assert_frame_equal(others, before)
    assert heads and all(file.read_bytes() == content for file, content in heads.items())
    assert lines(script) < 40
