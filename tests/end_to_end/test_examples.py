"""The script of examples/ draws the figure of the study."""

from __future__ import annotations

import runpy
import sys

import pytest
import yaml

from pipeline.report.data import PUBLISHED, load_dataset
from tests.report.fabricated import make_project


def test_figure_2_draws_the_runs_of_the_study_and_its_shares(tmp_path, repo, monkeypatch):
    params, paths = make_project(tmp_path, "set")
    settings = yaml.safe_load((repo / "params.yaml").read_text())
    settings |= {"datasets": ["set"]}
    settings["learners"] = {name: settings["learners"][name] for name in params.learners}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["figure2.py", "set", "out.png"])
    script = repo / "examples/figure2.py"
    assert len(script.read_text().splitlines()) < 40
    axis = runpy.run_path(str(script))["axis"]
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["5", "100"]
    lines = {line.get_label(): line for line in axis.get_lines()}
    assert list(lines) == [run.name for run in params.study.runs]
    found = load_dataset("set", params, paths).accuracy(PUBLISHED)
    for run in params.study.runs:
        values = [found[run.key][f].value for f in (0.05, 1.0)]
        assert list(lines[run.name].get_ydata()) == pytest.approx(values)
