"""results/: a README with one table and one figure, and the tables as CSV files."""

from __future__ import annotations

import gzip
import io
import shutil

import pandas as pd
import pytest

from pipeline.errors import PipelineError
from pipeline.paths import Paths
from pipeline.report import results, words
from pipeline.report.data import GROUPED, OTHER_SET, PUBLISHED, load_dataset, quoted


@pytest.fixture(scope="module")
def written(real, tmp_path_factory) -> tuple:
    """Parameters, paths and written files of a project with "lung"."""
    params, paths = real
    root = tmp_path_factory.mktemp("results") / "project"
    shutil.copytree(paths.root, root)
    return params, Paths(root), results.write_results(params, Paths(root))


def csv(path) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(gzip.decompress(path.read_bytes())), keep_default_na=True)


@pytest.mark.promise("results/README.md has at most 150 lines, one table of results, one figure.")
def test_the_readme_is_short_and_names_what_it_was_made_of(written):
    params, paths, files = written
    names = ["lung.csv.gz", "lung_comparisons.csv.gz", "README.md", "accuracy.svg"]
    assert [path.name for path in files] == names
    page = (paths.results / "README.md").read_text("utf-8")
    assert len(page.splitlines()) <= 150 and page.count("![") == 1
    sha256 = load_dataset("lung", params, paths).manifest_sha256
    for text in ("dvc repro && dvc repro results/dvc.yaml", "not in a git checkout", sha256):
        assert f"`{text}`" in page
    assert "drawn (prompt salient) for masks" in page and OTHER_SET["lung"] in page
    assert "Synthetic" not in page
    figure = (paths.results / "accuracy.svg").read_text("utf-8")
    assert len(figure) < 1e6 and ">lung</text>" in figure and "<dc:date>" not in figure


@pytest.mark.promise("results/README.md has every run, share, interval and verdict of the study.")
def test_the_rows_of_the_readme_are_those_of_the_tables(written):
    params, paths, _ = written
    data = load_dataset("lung", params, paths)
    lines = (paths.results / "README.md").read_text("utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| lung | ")][:-1]
    of = [(block, f) for block in (GROUPED, PUBLISHED) for f in data.fractions(GROUPED)]
    for row, (block, fraction) in zip(rows, of, strict=True):
        assert row[1] == words.block(data, block)
        for text, run in zip(row[3:6], data.study, strict=True):
            e = data.accuracy(block)[run][fraction]
            assert text.startswith(f"{100 * e.value:.1f} [{100 * e.lo:.1f}, {100 * e.hi:.1f}]")
            if run != data.baseline:
                d = data.differences[block, run, data.baseline][fraction]
                assert text.endswith(f", {words.verdict(d)}")
        for name, text in zip(("CLIP", "MedFocusCLIP"), row[6:], strict=True):
            figure = f"{100 * quoted('lung')[name][fraction]:.2f}"
            assert text == (figure if block == PUBLISHED else "–")


@pytest.mark.promise("Every metric, seed and comparison is in a CSV file.")
def test_the_csv_files_hold_every_row(written):
    params, paths, _ = written
    data = load_dataset("lung", params, paths)
    table = csv(paths.results / "lung.csv.gz")
    assert len(table) == len(data.metrics)
    assert (table["seed"] == "all").sum() == (data.metrics["seed"] == -1).sum()
    assert len(csv(paths.results / "lung_comparisons.csv.gz")) == len(data.comparisons)
    mine = table[table["quoted_MedFocusCLIP"].notna()]
    assert set(mine["protocol"]) == {"official"} and set(mine["subset"]) == {"full"}
    assert set(mine["learner"]) == {"medfocus-probe"} and set(mine["seed"]) == {"all"}
    paper = quoted("lung")["MedFocusCLIP"]
    for fraction, value in zip(mine["fraction"], mine["quoted_MedFocusCLIP"], strict=True):
        assert value == paper[fraction]


def test_phantoms_are_labelled_and_a_dataset_that_was_not_evaluated_is_named(fresh, tmp_path):
    params, paths = fresh
    with pytest.raises(PipelineError, match="no dataset has been evaluated"):
        results.write_results(params, Paths(tmp_path))
    results.write_results(params, paths, ["one", "later"])
    page = (paths.results / "README.md").read_text("utf-8")
    assert "Synthetic data: one." in page and "(quoted)" not in page
    assert csv(paths.results / "one.csv.gz")["quoted_MedFocusCLIP"].isna().all()
    assert "later has not been evaluated: `pipeline evaluate --dataset later`" in page
    assert "`pipeline results --dataset one --dataset later`" in page
