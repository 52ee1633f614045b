"""What commands refuse and print before any model is loaded."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.engine.record import RunRecord
from pipeline.paths import Paths
from tests.project import REPO, Project, in_process, write_params

REFUSED = (
    "A mistyped dataset, view, learner or number of jobs is refused before any work, and `report` "
    "and `results` replace no page for it; `status` shows every dataset that has a manifest or a "
    "record."
)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A project folder with parameters that name no dataset of its own, and the dataset "toy"."""
    write_params(tmp_path, datasets=["brain"])
    project = Project(tmp_path)
    for at in range(8):
        image = np.random.default_rng(at).integers(0, 255, (24, 32, 3), dtype=np.uint8)
        project.add(f"{at}.png", image, label=("cat", "dog")[at % 2], split="")
    return project.paths


@pytest.mark.promise(REFUSED)
@pytest.mark.parametrize("command", ["report", "results"])
def test_a_dataset_that_is_not_there_is_refused_and_no_page_is_replaced(
    paths: Paths, command: str
) -> None:
    for page in (paths.report, paths.results / "README.md"):
        page.parent.mkdir()
        page.write_text("the page of before")
    code, said = in_process(paths.root, command, "-d", "toy", "-d", "tyo")
    assert code == 2 and "there is no dataset 'tyo'" in said and "one of toy" in said
    for page in (paths.report, paths.results / "README.md"):
        assert page.read_text() == "the page of before"


@pytest.mark.promise(REFUSED)
@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize("jobs", ["0", "-2"])
def test_a_number_of_jobs_that_means_nothing_is_refused(
    paths: Paths, command: str, jobs: str
) -> None:
    code, said = in_process(paths.root, command, "-d", "toy", "--jobs", jobs)
    assert code == 2 and "--jobs" in said and "1 or more nor -1" in said


@pytest.mark.promise(REFUSED)
def test_status_shows_datasets_that_params_yaml_does_not_name(paths: Paths) -> None:
    RunRecord("segment", "gone", status="ok").write(paths.record("gone", "segment"))
    code, said = in_process(paths.root, "status", "--json")
    rows = json.loads(said)
    assert code == 0
    assert [row["dataset"] for row in rows if row["stage"] == "segment"] == ["brain", "gone", "toy"]
    _, said = in_process(paths.root, "status")
    assert [line.split()[0] for line in said.splitlines()[1:4:2]] == ["brain", "gone"]


def test_audit_says_in_words_what_data_check_does(paths: Paths) -> None:
    code, said = in_process(paths.root, "audit", "-d", "toy")
    checked = in_process(paths.root, "data", "check", "--dataset", "toy")
    assert code == 0 and (code, said) == checked
    assert said.startswith("toy: 8 images") and "{" not in said
    code, said = in_process(paths.root, "audit", "-d", "toy", "--json")
    assert code == 0 and json.loads(said)["images"] == 8


def test_data_check_refuses_words_with_braces(paths: Paths) -> None:
    paths.prompts.write_text(paths.prompts.read_text().replace("a dog", '"a {dog}"'))
    code, said = in_process(paths.root, "data", "check", "--dataset", "toy")
    assert code == 2 and "words with braces" in said


@pytest.mark.promise("What commands write about patients by default is ignored by git.")
def test_git_ignores_what_commands_write_of_patients_by_default() -> None:
    for name in ("predictions/scan1.png", "preview.png", "splits.csv"):
        assert subprocess.run(["git", "check-ignore", "-q", name], cwd=REPO).returncode == 0, name
