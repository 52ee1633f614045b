"""The scripts of examples/ run on a built project."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from .conftest import Project


def lines(path: Path) -> int:
    """All lines of a file, docstrings and blank ones too."""
    return len(path.read_text().splitlines())


def test_figure_2_is_redrawn_from_the_stored_predictions(project: Project, repo: Path) -> None:
    script = repo / "examples/figure2.py"
    project.run("python", str(script), "covid", "figure2.png")
    assert (project.root / "figure2.png").read_bytes()[:4] == b"\x89PNG"
    assert lines(script) < 40


def test_a_new_head_gets_its_rows_without_a_change_to_the_library(
    project: Project, repo: Path
) -> None:
    script = Path(shutil.copy(repo / "examples/prototype_head.py", project.root))
    cache = project.root / "cache/covid"
    before = pd.read_parquet(cache / "metrics.parquet")
    heads = {file: file.read_bytes() for file in (cache / "heads").rglob("*") if file.is_file()}
    project.run("python", script.name, "covid")
    metrics = pd.read_parquet(cache / "metrics.parquet")
    rows = metrics[(metrics["head"] == "prototype") & (metrics["metric"] == "accuracy")]
    assert len(rows) and rows["value"].between(0, 1).all()
    others = metrics[metrics["head"] != "prototype"].reset_index(drop=True)
    assert "medfocus" in set(before["head"])
    pd.testing.assert_frame_equal(others, before)
    assert heads and all(file.read_bytes() == content for file, content in heads.items())
    assert lines(script) < 40
