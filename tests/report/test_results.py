"""results/: a README with a table a dataset and one figure, and the tables as CSV files."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest

from pipeline.errors import PipelineError
from pipeline.paths import Paths
from pipeline.report import results, systems
from pipeline.report.data import OTHER_SET, load_dataset, quoted


@pytest.fixture(scope="module")
def written(real, tmp_path_factory) -> tuple:
    """Parameters, paths and written files of a project with "lung"."""
    params, paths = real
    root = tmp_path_factory.mktemp("results") / "project"
    shutil.copytree(paths.root, root)
    return params, Paths(root), results.write_results(params, Paths(root))


@pytest.mark.promise(
    "results/README.md has at most 150 lines, a table of all systems a dataset, one figure."
)
def test_the_readme_is_short_and_names_what_it_was_made_of(written):
    params, paths, files = written
    names = ["lung.csv.gz", "lung_comparisons.csv.gz", "lung_systems.csv.gz"]
    names += ["README.md", "systems.svg", "ablations.md"]
    assert [path.name for path in files] == names
    page = (paths.results / "README.md").read_text("utf-8")
    assert len(page.splitlines()) <= 150 and page.count("![") == 1
    sha256 = load_dataset("lung", params, paths).manifest_sha256
    for text in ("dvc repro && dvc repro results/dvc.yaml", "not in a git checkout", sha256):
        assert f"`{text}`" in page
    assert "drawn (prompt salient) for masks" in page and OTHER_SET["lung"] in page
    assert "Synthetic" not in page
    figure = (paths.results / "systems.svg").read_text("utf-8")
    assert len(figure) < 1e6 and ">lung</text>" in figure and "<dc:date>" not in figure


@pytest.mark.promise("results/README.md has every system, share, difference and verdict.")
@pytest.mark.promise("The paper's figures are in a column of their own, labelled as quoted.")
def test_the_rows_of_the_readme_are_those_of_the_tables(written):
    params, paths, _ = written
    table = pd.read_parquet(paths.compare("lung")).query("subset == 'full'")
    lines = (paths.results / "README.md").read_text("utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| System "))
    head, _, *rows = (line.strip("| ").split(" | ") for line in lines[start : start + 5])
    assert head[-2] == "Parameters trained" or head[-1] == "Parameters trained"
    of = {name: i for i, name in enumerate(head)}
    assert {row[0] for row in rows} == {run.name for run in params.study.runs}
    for row in rows:
        mine = table[(table["name"] == row[0]) & (table["protocol"] == "grouped")]
        mean = mine[mine["fraction"] == -1].iloc[0]
        shares = mine[mine["fraction"] > 0].sort_values("fraction")
        for text, value, said in zip(
            [*row[2:7], row[of["Mean over shares"]]],
            [*shares["accuracy"], mean["accuracy"]],
            [*shares["baseline_verdict"], mean["baseline_verdict"]],
            strict=True,
        ):
            assert text == f"{100 * value:.1f}" + {"better": " ▲", "worse": " ▼"}.get(said, "")
        gap = row[of["Mean minus Whole image"]].replace("−", "-")
        if row[0] == "Whole image":
            assert gap == "–"
        else:
            ends = [100 * mean[f"baseline_{name}"] for name in ("difference", "lo", "hi")]
            assert gap.startswith("{:+.1f} [{:+.1f}, {:+.1f}]".format(*ends))
        architecture = {"Whole image": "CLIP"}.get(row[0], row[0])
        figures = quoted("lung").get(architecture, {}).values()
        said = " / ".join(f"{100 * v:.1f}" for v in figures) or "–"
        assert row[of[systems.QUOTED]] == said


@pytest.mark.promise("Every metric, seed and comparison is in a CSV file.")
def test_the_csv_files_hold_every_row(written):
    params, paths, _ = written
    data = load_dataset("lung", params, paths)
    table = pd.read_csv(paths.results / "lung.csv.gz")
    assert len(table) == len(data.metrics)
    assert (table["seed"] == "all").sum() == (data.metrics["seed"] == -1).sum()
    assert len(pd.read_csv(paths.results / "lung_comparisons.csv.gz")) == len(data.comparisons)
    mine = table[table["quoted_MedFocusCLIP"].notna()]
    assert set(mine["protocol"]) == {"official"} and set(mine["subset"]) == {"full"}
    assert set(mine["learner"]) == {"medfocus-probe"} and set(mine["seed"]) == {"all"}
    paper = quoted("lung")["MedFocusCLIP"]
    for fraction, value in zip(mine["fraction"], mine["quoted_MedFocusCLIP"], strict=True):
        assert value == paper[fraction]


def test_phantoms_are_labelled_and_a_dataset_that_was_not_evaluated_is_named(fresh, tmp_path):
    params, paths = fresh
    with pytest.raises(PipelineError, match="of no dataset have been compared"):
        results.write_results(params, Paths(tmp_path))
    results.write_results(params, paths, ["one", "later"])
    page = (paths.results / "README.md").read_text("utf-8")
    assert "Synthetic data: one." in page and systems.QUOTED not in page
    assert pd.read_csv(paths.results / "one.csv.gz")["quoted_MedFocusCLIP"].isna().all()
    assert "later has not been compared: `pipeline compare --dataset later`" in page
    assert "`pipeline results --dataset one --dataset later`" in page
