"""The scripts of examples/ run on a built project."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from .conftest import Project


def code_lines(path: Path) -> int:
    """Lines of code below the module's docstring, blank lines not counted."""
    return sum(bool(line.strip()) for line in path.read_text().split('"""', 2)[2].splitlines())


def test_figure_2_is_redrawn_from_the_stored_predictions(project: Project, repo: Path) -> None:
    script = repo / "examples/figure2.py"
    project.run("python", str(script), "covid", "figure2.png")
    assert (project.root / "figure2.png").read_bytes()[:4] == b"\x89PNG"
    assert code_lines(script) < 40


def test_a_new_head_gets_its_rows_without_a_change_to_the_library(
    project: Project, repo: Path
) -> None:
    script = Path(shutil.copy(repo / "examples/prototype_head.py", project.root))
    project.run("python", script.name, "covid")
    metrics = pd.read_parquet(project.root / "cache/covid/metrics.parquet")
    rows = metrics[(metrics["head"] == "prototype") & (metrics["metric"] == "accuracy")]
    assert len(rows) and rows["value"].between(0, 1).all()
    assert code_lines(script) < 40
