"""The scripts of examples/ run on a built project."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.site import Site


def lines(path: Path) -> int:
    """All lines of a file, docstrings and blank ones too."""
    return len(path.read_text().splitlines())


def test_figure_2_is_redrawn_from_the_stored_predictions(site: Site, repo: Path) -> None:
    script = repo / "examples/figure2.py"
    site.run("python", str(script), "covid", "figure2.png")
    assert (site.root / "figure2.png").read_bytes()[:4] == b"\x89PNG"
    assert lines(script) < 40


def test_figure_2_has_the_winner_too_and_its_shares_on_the_axis(tmp_path, repo, monkeypatch):
    shares = (0.05, 0.2, 1.0)
    runs = [(head, view) for head in ("linear-probe", "medfocus") for view in ("whole", "masked")]
    cells = [("official", *run, share, seed) for run in runs for share in shares for seed in (0, 1)]
    cells += [("official", "zero-shot", view, 0.0, 0) for view in ("whole", "masked")]
    cells += [("grouped", "linear-probe", "masked", 0.1, 0)]  # of another split: not drawn
    columns = ["protocol", "head", "view", "fraction", "seed"]
    rows = pd.DataFrame(cells, columns=columns).merge(pd.DataFrame({"y_true": [0, 1]}), how="cross")
    rows["y_pred"] = np.where(
        (rows["view"] == "whole") | (rows["fraction"] == 1), rows["y_true"], 0
    )
    rows = rows.astype({"fraction": "float32", "head": "category", "view": "category"})
    (tmp_path / "cache/set").mkdir(parents=True)
    rows.to_parquet(tmp_path / "cache/set/predictions.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["figure2.py", "set", "out.png"])
    axis = runpy.run_path(str(repo / "examples/figure2.py"))["axis"]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["5", "20", "100"]
    lines = {line.get_label(): line for line in axis.get_lines()}
    assert set(lines) == {
        "linear-probe, whole",
        "linear-probe, masked",
        "medfocus, masked",
        "zero-shot, masked",
    }
    assert list(lines["linear-probe, whole"].get_ydata()) == [1, 1, 1]
    assert list(lines["linear-probe, masked"].get_ydata()) == [0.5, 0.5, 1]
    assert list(lines["medfocus, masked"].get_xdata()) == pytest.approx([5, 20, 100])
