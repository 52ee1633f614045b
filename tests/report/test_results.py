"""The result pages: figures equal to the tables they come from, answers generated."""

from __future__ import annotations

import pandas as pd
import pytest
from make_inputs import REPO, project

from pipeline.report import write_results


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    params, paths = project(tmp_path_factory.mktemp("results"), "brain", "two", synthetic="0")
    return paths, write_results(params, paths, ["brain", "two", "not yet"])


def test_each_dataset_has_a_page_and_a_table_and_the_readme_names_what_is_missing(written):
    paths, files = written
    names = [str(f.relative_to(paths.results)) for f in files]
    assert names == ["brain.md", "brain.csv.gz", "two.md", "two.csv.gz", "README.md"]
    readme = (paths.results / "README.md").read_text(encoding="utf-8")
    assert "pipeline evaluate --dataset not yet" in readme


def test_the_table_holds_every_row_of_the_metrics_with_the_same_values(written):
    paths, _ = written
    ours = pd.read_csv(paths.results / "brain.csv.gz", dtype={"seed": str})
    source = pd.read_parquet(paths.metrics_table("brain"))
    assert len(ours) == len(source)
    key = ["protocol", "subset", "head", "view", "fraction", "seed", "metric"]
    source["seed"] = source["seed"].astype(str).replace("-1", "all")
    source["fraction"] = source["fraction"].astype(float).round(4)
    both = ours.merge(source, on=key, suffixes=("", "_source"))
    assert len(both) == len(source)
    assert both["value"].to_numpy() == pytest.approx(both["value_source"].to_numpy(), abs=1e-5)


def test_quoted_figures_stand_only_in_their_own_columns_beside_the_published_split(written):
    paths, _ = written
    table = pd.read_csv(paths.results / "brain.csv.gz")
    quoted = table.dropna(subset=["quoted_MedFocusCLIP"])
    assert sorted(quoted["quoted_MedFocusCLIP"]) == [0.8609, 0.9491, 0.9757]
    assert set(quoted["protocol"]) == {"official"}
    assert set(quoted["subset"]) == {"full"}
    assert set(quoted["seed"]) == {"all"}


def test_the_answers_carry_intervals_and_questions(written):
    paths, _ = written
    readme = (paths.results / "README.md").read_text(encoding="utf-8")
    for question in ("Does masking help", "How much survives", "Which baseline"):
        assert question in readme
    assert "points [" in readme
    assert "Quoted from the paper, MedFocusCLIP with all labels: 97.57 %" in readme


def test_pages_say_the_parameters_and_the_command_that_made_them(written):
    paths, _ = written
    page = (paths.results / "brain.md").read_text(encoding="utf-8")
    assert "pipeline results --dataset brain" in page
    assert "lambda: 0.5" in page


def test_writing_twice_gives_the_same_bytes(written):
    from pipeline.config import load_params

    paths, files = written
    before = [f.read_bytes() for f in files]
    params = load_params(REPO / "params.yaml", {"report.gallery": 6, "datasets": ["brain", "two"]})
    again = write_results(params, paths, ["brain", "two", "not yet"])
    assert [f.read_bytes() for f in again] == before


def test_synthetic_results_are_labelled_on_every_page(tmp_path):
    params, paths = project(tmp_path, "one", synthetic="1")
    for file in write_results(params, paths):
        if file.suffix == ".md":
            assert "Synthetic data" in file.read_text(encoding="utf-8")
