"""`dvc repro` builds everything once, and afterwards only what changed."""

from __future__ import annotations

import csv
import json
import re
import shutil

import pandas as pd

from .conftest import Project


def stages_run(output: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", output))


def record(project: Project, dataset: str, stage: str) -> dict:
    return json.loads((project.root / f"cache/{dataset}/records/{stage}.json").read_text())


def test_one_command_leads_from_images_to_a_report(built_project: Project) -> None:
    root = built_project.root
    for dataset in ("breast", "covid"):
        assert record(built_project, dataset, "segment")["done"] > 0
        metrics = json.loads((root / f"cache/{dataset}/metrics.json").read_text())
        assert set(metrics[dataset]["dice"]) == {"salient-refine", "ellipse", "random"}
        judged = pd.read_parquet(root / f"cache/{dataset}/prompt_quality.parquet")
        assert judged["image_id"].nunique() == 6
        assert {"salient", "auto", "box", "box-ellipse"} < set(judged["strategy"])
    page = (root / "report/index.html").read_text()
    assert "synthetic" in page.lower()


def test_a_second_repro_runs_nothing(project: Project) -> None:
    assert stages_run(project.run("dvc", "repro")) == set()


def test_changing_lambda_reruns_only_the_heads_and_what_follows(project: Project) -> None:
    project.params(train__lambda=0.25)
    ran = stages_run(project.run("dvc", "repro"))
    assert ran == {
        *(f"{stage}@{d}" for stage in ("train", "evaluate") for d in ("breast", "covid")),
        "report",
    }


def test_ten_added_images_are_ten_computed_images(project: Project) -> None:
    donors = sorted((project.root / "data/breast").rglob("*.png"))[:10]
    for i, donor in enumerate(donors):
        copy = donor.with_name(f"added_{i}.png")
        shutil.copy(donor, copy)
        # One more byte after the end of the PNG: other bytes, the same picture.
        copy.write_bytes(copy.read_bytes() + bytes([i]))
    add = ["--from", "data/breast", "--masks", "data/breast_masks", "--patient-regex", r"(P\d+)_"]
    project.run("pipeline", "data", "add", "breast", *add, "--force")
    for stage in ("segment", "encode"):
        project.run("python", "-m", f"stages.{stage}", "--dataset", "breast")
        assert record(project, "breast", stage)["done"] == 10


def test_removed_and_reordered_rows_recompute_nothing(project: Project) -> None:
    path = project.root / "data_manifests/breast.csv"
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows[5:][::-1]])
    for stage in ("segment", "encode"):
        project.run("python", "-m", f"stages.{stage}", "--dataset", "breast")
        assert record(project, "breast", stage)["done"] == 0


def kept(project: Project) -> dict[str, bytes]:
    """Everything that stages made and DVC keeps, but for what the failing stage may write."""
    files = [p for p in (project.root / "cache").rglob("*") if p.is_file()]
    files += [p for p in (project.root / ".dvc/cache/files").rglob("*") if p.is_file()]
    own = (project.root / "cache/breast/records", project.root / "cache/breast/.masks.zarr.rebuild")
    return {str(p): p.read_bytes() for p in files if not any(p.is_relative_to(o) for o in own)}


def test_a_failing_stage_leaves_the_other_stores_and_the_lock_file_alone(project: Project) -> None:
    before = kept(project)
    assert any("covid/masks.zarr" in name for name in before)
    assert any("breast/features.zarr" in name for name in before)
    lock = (project.root / "dvc.lock").read_bytes()
    image = next((project.root / "data/breast").rglob("*.png"))
    good = image.read_bytes()
    image.write_bytes(b"not an image")
    project.params(segment__min_area=0.001)
    out = project.run("dvc", "repro", "segment@breast", code=255)
    assert image.name in out and "failed to reproduce" in out
    assert (project.root / "dvc.lock").read_bytes() == lock
    after = kept(project)
    assert {name: after.get(name) for name in before} == before
    # DVC does not take the stage for done, and once the image is mended it is.
    assert stages_run(project.run("dvc", "repro", "segment@breast", code=255)) == {"segment@breast"}
    image.write_bytes(good)
    project.run("dvc", "repro", "segment@breast")
    assert stages_run(project.run("dvc", "repro", "segment@breast")) == set()


def test_metrics_and_plots_are_declared_to_dvc(project: Project) -> None:
    shown = json.loads(project.run("dvc", "metrics", "show", "--json"))
    assert shown[""]["data"]["cache/breast/metrics.json"]["data"]
    drawn = json.loads(project.run("dvc", "plots", "show", "--json"))["data"]
    axes = {"curve": ("fraction", "accuracy"), "reliability": ("confidence", "accuracy")}
    tables = {f"cache/{d}/plots/{t}.csv": xy for d in ("breast", "covid") for t, xy in axes.items()}
    assert set(drawn) == set(tables)
    for path, (x, y) in tables.items():
        (plot,) = drawn[path]
        content = plot["content"]
        assert [content["encoding"][axis]["field"] for axis in "xy"] == [x, y]
        assert len(content["data"]["values"]) == len(pd.read_csv(project.root / path)) > 0
