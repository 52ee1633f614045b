"""Commands of the documents and the Makefile on a finished project: `dvc metrics diff`,
`dvc repro results/dvc.yaml` and the recipe of `make demo`; and its files as docs/tables.md has
them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.config import load_params
from pipeline.paths import Paths
from pipeline.report.data import load_dataset
from pipeline.report.results import metrics_table
from pipeline.splits import load_split_plan
from tests.tables import differences, table, written

from .conftest import Project
from .test_repro import stages_run

MADE_BY = "dvc repro && dvc repro results/dvc.yaml"


def git(project: Project, *arguments: str) -> str:
    who = ("-c", "user.name=tests", "-c", "user.email=tests@example.org")
    done = subprocess.run(
        ["git", *who, *arguments], cwd=project.root, check=True, capture_output=True, text=True
    )
    return done.stdout


def test_metrics_and_plots_are_compared_with_those_of_an_older_commit(project: Project) -> None:
    git(project, "add", "--all")
    assert "dvc.lock" in git(project, "ls-files").splitlines()
    git(project, "commit", "--quiet", "--message", "before")
    project.params(train__lambda=0.0)
    ran = stages_run(project.run("dvc", "repro", "evaluate@breast"))
    assert ran == {"train@breast", "evaluate@breast"}

    out = project.run("dvc", "metrics", "diff", "--json")
    assert "failed to load" not in out
    changed = json.loads(out)["cache/breast/metrics.json"]
    assert changed
    for name, figure in changed.items():
        assert None not in (figure["old"], figure["new"]), name
        assert figure["old"] != figure["new"], name
    assert all(".medfocus" in name for name in changed)  # no other head reads lambda

    assert "failed to load" not in project.run("dvc", "plots", "diff")
    assert (project.root / "dvc_plots/index.html").is_file()
    drawn = json.loads(project.run("dvc", "plots", "diff", "--json"))["data"]
    for name in ("curve", "reliability"):
        (plot,) = drawn[f"cache/breast/plots/{name}.csv"]
        rows = plot["content"]["data"]["values"]
        assert {row["rev"] for row in rows} == {"HEAD", "workspace"}
    assert git(project, "status", "--porcelain").split() == ["M", "dvc.lock", "M", "params.yaml"]


def test_the_documented_command_makes_the_results_once_and_a_deleted_page_again(
    project: Project, repo: Path
) -> None:
    for document in ("README.md", "docs/benchmarks.md", "results/dvc.yaml"):
        assert MADE_BY in (repo / document).read_text(encoding="utf-8"), document
    folder = project.root / "results"
    folder.mkdir()
    shutil.copy2(repo / "results/dvc.yaml", folder)

    def made() -> set[str]:
        ran = stages_run(project.run("dvc", "repro", "results/dvc.yaml"))
        return {name.removeprefix("results/dvc.yaml:") for name in ran}

    assert made() == {"readme", "tables@breast", "tables@covid"}
    kinds = (".csv.gz", "_comparisons.csv.gz")
    pages = {f"{name}{kind}" for name in ("breast", "covid") for kind in kinds}
    pages |= {"README.md", "accuracy.svg"}
    assert {path.name for path in folder.iterdir()} == {*pages, "dvc.yaml", "dvc.lock"}
    written = {name: (folder / name).read_bytes() for name in pages}
    assert f"Made by `{MADE_BY}` at" in written["README.md"].decode()
    assert f"\n{MADE_BY}\n```" in written["README.md"].decode()
    git(project, "add", "results")  # where they belong: DVC neither tracks nor ignores them
    assert made() == set()
    (folder / "breast.csv.gz").unlink()
    assert made() == {"tables@breast"}
    assert {name: (folder / name).read_bytes() for name in pages} == written
    assert made() == set()


def test_every_table_of_a_finished_project_is_documented_with_its_columns_and_types(
    built_project: Project, repo: Path, tmp_path: Path
) -> None:
    page = (repo / "docs/tables.md").read_text(encoding="utf-8")
    paths, params = Paths(built_project.root), load_params(built_project.root / "params.yaml")
    load_split_plan("breast", params, paths).export(tmp_path / "splits.csv")
    files = written(paths, "breast") | {path.name: table(path) for path in tmp_path.iterdir()}
    files["results/<dataset>.csv.gz"] = dict.fromkeys(
        metrics_table(load_dataset("breast", params, paths)), ""
    )
    assert not differences(page, files)
    for here, otherwise in (
        ("| `n_groups` | int64 |", "| `n_units` | int64 |"),
        ("| `straddles` | bool |", "| `straddles` | text |"),
        ("## splits.csv", "## split.csv"),
    ):
        assert here in page
        assert len(differences(page.replace(here, otherwise), files)) in (1, 2)


def test_the_recipe_of_make_demo_evaluates_its_four_datasets_once_each_and_then_reports(
    project: Project,
) -> None:
    root = project.root
    # `make test` is the caller as a rule: a make below another says which folder it enters.
    flags = ("--dry-run", "--no-print-directory", "--old-file=setup", f"VENV={sys.prefix}")
    recipe = subprocess.check_output(("make", *flags, "demo"), cwd=root, text=True)
    (line,) = (line for line in recipe.splitlines() if line.startswith("printf"))
    names = re.findall(r"[a-z]{3,}", line.split(r"\n")[1])
    # The two finished datasets under the names of the other two as well, as DVC is told.
    assert {"breast", "covid"} < set(names)
    others = [name for name in names if name not in ("breast", "covid")]
    for name, twin in zip(others, ("breast", "covid"), strict=True):
        for folder in ("cache", "data"):
            shutil.copytree(root / folder / twin, root / folder / name)
        shutil.copy2(root / f"data_manifests/{twin}.csv", root / f"data_manifests/{name}.csv")
    project.params(datasets=names, report__heatmaps=0)
    project.run("dvc", "commit", "--force")

    project.params(evaluate__seed=1)
    drawing = next(line for line in recipe.splitlines() if "data sample" in line)
    out = project.run("bash", "-euo", "pipefail", "-c", recipe.replace(drawing, ""))
    ran = re.findall(r"Running stage '([^']+)'", out)
    assert sorted(ran[:-1]) == sorted(f"evaluate@{name}" for name in names)
    assert ran[-1] == "report"
    for name in names:
        assert f"'prompt_quality@{name}' didn't change" in out
    assert stages_run(project.run("dvc", "repro")) == set()
