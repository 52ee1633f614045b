"""What the documents and the Makefile say, on a finished project."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import load_params
from pipeline.paths import Paths
from pipeline.report.data import load_dataset
from pipeline.report.results import metrics_table
from pipeline.splits import load_split_plan
from tests.site import Site, stages_run
from tests.tables import differences, table, written

RECIPES = (
    "The documented commands do what they say: results once and a deleted page again; `make demo` "
    "evaluates its four datasets once each."
)


@pytest.mark.promise(RECIPES)
def test_the_documented_command_makes_the_results_once_and_a_deleted_file_again(
    site: Site, repo: Path
) -> None:
    folder = site.root / "results"
    folder.mkdir()
    shutil.copy2(repo / "results/dvc.yaml", folder)

    def made() -> set[str]:
        ran = stages_run(site.run("dvc", "repro", "results/dvc.yaml"))
        return {name.removeprefix("results/dvc.yaml:") for name in ran}

    everything = made()
    assert everything
    written = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix not in (".yaml",)}
    lost = next(name for name in written if name.startswith("breast"))
    (folder / lost).unlink()
    again = made()
    assert again and again < everything
    del written["dvc.lock"]
    assert {name: (folder / name).read_bytes() for name in written} == written


@pytest.mark.promise("Every column of every table is documented, with its type.")
def test_every_table_of_a_finished_project_is_documented_with_its_columns_and_types(
    built: Site, repo: Path, tmp_path: Path
) -> None:
    page = (repo / "docs/tables.md").read_text(encoding="utf-8")
    paths, params = Paths(built.root), load_params(built.root / "params.yaml")
    load_split_plan("breast", params, paths).export(tmp_path / "splits.csv")
    files = written(paths, "breast") | {path.name: table(path) for path in tmp_path.iterdir()}
    files["results/<dataset>.csv.gz"] = dict.fromkeys(
        metrics_table(load_dataset("breast", params, paths)), ""
    )
    assert not differences(page, files)
    for here, otherwise in (
        ("| `n_groups` | int64 |", "| `n_units` | int64 |"),
        ("## splits.csv", "## split.csv"),
    ):
        assert here in page
        assert len(differences(page.replace(here, otherwise), files)) in (1, 2)


@pytest.mark.promise(RECIPES)
def test_the_recipe_of_make_demo_evaluates_its_four_datasets_once_each_and_then_reports(
    site: Site,
) -> None:
    # A make below another one prints which folder it enters.
    flags = ("--dry-run", "--no-print-directory", "--old-file=setup", f"VENV={sys.prefix}")
    recipe = subprocess.check_output(("make", *flags, "demo"), cwd=site.root, text=True)
    (line,) = (line for line in recipe.splitlines() if line.startswith("printf"))
    names = re.findall(r"[a-z]{3,}", line.split(r"\n")[1])
    others = [name for name in names if name not in ("breast", "covid")]
    assert {"breast", "covid", *others} == set(names) and len(others) == 2
    # A stand-in for `dvc` that writes down what it is asked for.
    asked = site.root / "asked.txt"
    for program in ("dvc", "pipeline"):
        stand_in = site.root / "bin" / program
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text(f'#!/bin/sh\necho "{program} $*" >> "{asked}"\n')
        stand_in.chmod(0o755)
    recipe = re.sub(r'export PATH=".*', f'export PATH="{site.root}/bin:$PATH"', recipe)
    site.run("bash", "-euo", "pipefail", "-c", recipe)
    ran = asked.read_text().splitlines()
    assert sorted(ran[1:5]) == sorted(
        f"dvc --wait-for-lock repro evaluate@{n} prompt_quality@{n}" for n in names
    )
    assert ran[0].startswith("pipeline data sample") and ran[5] == "dvc repro"
