"""Images of which the right answer is known, through the whole pipeline by its commands.

The class is the texture inside the lesion and the background is drawn at random of both
textures, or the other way round. Masked images must win on the first set and lose on the second.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from .conftest import Project, empty_project

WHERE = ("lesion", "background")
SETTINGS = {
    "segment.prompt": "salient",  # SAM2 without a prompt finds these lesions well
    "encode.views": "[whole, masked]",
    "splits.fractions": "[0.1]",  # few labels: with many, the whole image holds the answer too
    "train.heads": "[zero-shot, linear-probe, medfocus, medfocus-probe]",
    "train.views": "{official: [whole, masked]}",
    "train.seeds": "[0, 1, 2]",
    "train.epochs": "30",
    "train.c_steps": "3",
    "evaluate.bootstrap": "500",
}
TRAINED = {"linear-probe", "medfocus", "medfocus-probe"}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> dict[str, pd.DataFrame]:
    """The rows of `evaluate --compare masked whole` on both sets, made side by side."""
    settings = [part for k, v in SETTINGS.items() for part in ("--set", f"{k}={v}")]
    projects: dict[str, Project] = {}
    for where in WHERE:
        projects[where] = empty_project(tmp_path_factory.mktemp(where) / "project", repo)
    commands = [
        lambda where: ["data", "sample", "--known-answer", where, "--images", "80"],
        lambda where: ["segment", "-d", f"known-{where}", *settings],
        lambda where: ["encode", "-d", f"known-{where}", *settings],
        lambda where: ["train", "-d", f"known-{where}", "--jobs", "1", *settings],
        lambda where: ["evaluate", "-d", f"known-{where}", *settings],
        lambda where: [
            *("evaluate", "-d", f"known-{where}", "--compare", "masked", "whole"),
            *("--json", *settings),
        ],
    ]
    for command in commands:
        running = {
            where: project.start("pipeline", *command(where), OMP_NUM_THREADS="1")
            for where, project in projects.items()
        }
        out = {where: process.communicate(timeout=600)[0] for where, process in running.items()}
        for where, process in running.items():
            assert process.returncode == 0, f"{command(where)}\n{out[where]}"
    rows = {w: pd.DataFrame(json.loads(out[w][out[w].index("[") :])) for w in WHERE}
    return {where: t[t["metric"] == "accuracy"].set_index("head_a") for where, t in rows.items()}


@pytest.mark.parametrize("head", sorted(TRAINED))
def test_masked_beats_whole_where_the_class_is_only_in_the_lesion(compared, head) -> None:
    row = compared["lesion"].loc[head]
    assert row["difference"] > 0.1 and row["lo"] > 0


@pytest.mark.parametrize("head", sorted(TRAINED))
def test_whole_beats_masked_where_the_class_is_only_in_the_background(compared, head) -> None:
    row = compared["background"].loc[head]
    assert row["difference"] < -0.1 and row["hi"] < 0


def test_the_two_runs_of_a_pair_share_their_images_and_seeds(compared) -> None:
    for table in compared.values():
        assert set(table.index) == TRAINED | {"zero-shot"}
        assert set(table["view_a"]) == {"masked"} and set(table["view_b"]) == {"whole"}
        assert set(table.loc[sorted(TRAINED), "n_seeds"]) == {3}
        assert set(table["n_images"]) == {20}


def test_the_set_has_a_name_of_its_own(tmp_path: Path, repo: Path) -> None:
    project = empty_project(tmp_path / "project", repo)
    command = ("pipeline", "data", "sample", "--known-answer", "lesion", "--images", "16")
    assert "leave out --dataset" in project.run(*command, "-d", "brain", code=2)
    assert "known-lesion.csv" in project.run(*command)
