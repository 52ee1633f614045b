"""What the documents, their guides, the Makefile and the example say, on a finished project.

A block of Python in docs/guides/ whose first line is a comment with a path is saved there; other
blocks are run. tests/models runs the blocks of add_an_encoder, which need no project.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import load_params
from pipeline.paths import Paths
from pipeline.report.data import PUBLISHED, load_dataset
from pipeline.report.results import metrics_table
from pipeline.splits import load_split_plan
from tests import warm
from tests.project import small, write_params
from tests.report.fabricated import make_project
from tests.site import REPO, Site, stages_run
from tests.tables import differences, table, written

GUIDES = [g for g in sorted((REPO / "docs/guides").glob("*.md")) if g.stem != "add_an_encoder"]
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.promise("Every guide does what it says: its blocks are run by the tests.")
@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_the_blocks_of_a_guide_run(site: Site, guide: Path) -> None:
    blocks = BLOCK.findall(guide.read_text(encoding="utf-8"))
    assert {language for language, _ in blocks} == {"python", "bash"}
    variables = site.environment() | {"PYTHONPATH": str(site.root), warm.OWN_CODE: "1"}
    variables["PATH"] = f"{warm.programs()}{os.pathsep}{variables['PATH']}"
    for language, text in blocks:
        if language == "bash":
            script = ("bash", "-euo", "pipefail", "-c", text)
            done = subprocess.run(script, cwd=site.root, env=variables, capture_output=True)
            assert done.returncode == 0, f"{text}\n{done.stdout.decode()}{done.stderr.decode()}"
        else:
            target = site.root / re.match(r"# (\S+\.py)\n", text)[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)


def test_figure_2_draws_the_runs_of_the_study_and_its_shares(tmp_path, repo, monkeypatch):
    params, paths = make_project(tmp_path, "set")
    learners = {name: small()["learners"][name] for name in params.learners}
    write_params(tmp_path, datasets=["set"], learners=learners)
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


@pytest.mark.promise(
    "The documented command makes the published results once, and a deleted file again."
)
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


def test_make_demo_evaluates_its_four_datasets_and_then_reports(repo: Path) -> None:
    flags = ("--dry-run", "--no-print-directory", "--old-file=setup", f"VENV={sys.prefix}")
    recipe = subprocess.check_output(("make", *flags, "demo"), cwd=repo, text=True)
    (line,) = (line for line in recipe.splitlines() if line.startswith("printf"))
    names = re.findall(r"[a-z]{3,}", line.split(r"\n")[1])
    assert sorted(names) == sorted(load_params(repo / "params.yaml").datasets)
    assert "repro train@SET-medfocus\n" in recipe and "repro evaluate@SET" in recipe
    assert recipe.index("cd demo") < recipe.index("pipeline data sample")
