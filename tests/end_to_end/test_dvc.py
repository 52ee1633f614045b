"""`dvc repro` around the stores: what runs again, linked caches, locks, two datasets at once."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path

import pandas as pd
import psutil
import pytest

from pipeline.io import ProcessLock, sha256_file
from tests.project import in_process
from tests.site import DATASETS, IMAGES, STORES, Site, stages_run

CHANGED = "Bytes that change under the same name are noticed by all who read them."


def git(site: Site, *arguments: str) -> str:
    who = ("-c", "user.name=tests", "-c", "user.email=tests@example.org")
    return subprocess.check_output(["git", *who, *arguments], cwd=site.root, text=True)


def hashes(folder: Path) -> dict[str, str]:
    """Return path -> sha256 of all files below a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): sha256_file(p) for p in files}


# -- what runs, and what runs again ---------------------------------------------------------------


@pytest.mark.promise("One command leads from images to the report.")
@pytest.mark.promise("A dataset is fewer than 200 files.")
def test_one_command_leads_from_images_to_a_report_in_few_files(built: Site) -> None:
    for dataset in DATASETS:
        metrics = json.loads((built.root / f"cache/{dataset}/metrics.json").read_text())
        assert set(metrics[dataset]["dice"]) == {"salient-refine", "ellipse", "random"}
        judged = pd.read_parquet(built.root / f"cache/{dataset}/prompt_quality.parquet")
        assert judged["image_id"].nunique() == 4
        assert set(judged["strategy"]) == {"salient", "center-box", "box", "box-ellipse"}
        for stage in ("audit", "segment", "encode", "train-medfocus", "evaluate"):
            assert built.record(stage, dataset)["status"] == "ok"
        assert len(hashes(built.root / "cache" / dataset)) < 200
    assert len(hashes(built.root / ".dvc/cache/files")) < 200 * len(DATASETS)
    assert "synthetic" in (built.root / "report/index.html").read_text().lower()


@pytest.mark.promise("A second `dvc repro` only looks whether files have changed.")
@pytest.mark.promise("DVC follows the bytes of weights, or the stage refuses them.")
@pytest.mark.promise("Each value of params.yaml reruns the stages that read it, and no others.")
@pytest.mark.promise("Metrics and plots are compared with those of an older commit.")
def test_a_second_repro_runs_nothing_and_another_lambda_refits_one_learner(site: Site) -> None:
    git(site, "add", "--all")
    git(site, "commit", "--quiet", "--message", "before")
    assert stages_run(site.run("dvc", "repro")) == set()

    weights = site.root / "checkpoints/model.pt"
    weights.write_bytes(b"other bytes")
    changed = json.loads(site.run("dvc", "status", "--json"))
    files = [changed.pop(f"stages/dvc.yaml:files@{dataset}")[0] for dataset in DATASETS]
    assert set(files) == {"always changed"}
    models = ("segment", "prompt_quality", "encode")
    assert set(changed) == {f"{stage}@{dataset}" for stage in models for dataset in DATASETS}
    weights.unlink()

    site.params(learners__medfocus__lambda=0.0)
    ran = stages_run(site.run("dvc", "repro", "evaluate@breast"))
    assert ran == {"train@breast-medfocus", "evaluate@breast"}

    changed = json.loads(site.run("dvc", "metrics", "diff", "--json"))
    changed = changed["cache/breast/metrics.json"]
    assert changed and all(".medfocus." in name for name in changed)  # no other learner reads it
    assert all(None not in (figure["old"], figure["new"]) for figure in changed.values())
    drawn = json.loads(site.run("dvc", "plots", "diff", "--json"))["data"]
    for name, axes in {"curve": "fraction", "reliability": "confidence"}.items():
        (plot,) = drawn[f"cache/breast/plots/{name}.csv"]
        assert [plot["content"]["encoding"][a]["field"] for a in "xy"] == [axes, "accuracy"]
        assert {row["rev"] for row in plot["content"]["data"]["values"]} == {"HEAD", "workspace"}
    assert git(site, "status", "--porcelain").split() == ["M", "dvc.lock", "M", "params.yaml"]


@pytest.mark.promise(CHANGED)
@pytest.mark.promise(
    "A failing stage leaves the other outputs, DVC's cache and dvc.lock alone, and is never taken "
    "for done."
)
def test_a_failing_stage_changes_nothing_else_and_is_run_again(site: Site) -> None:
    def kept() -> dict[str, str]:
        own = (
            "breast/records",
            "breast/.masks",
            "breast/hashes",
        )  # what the failing stage may write
        files = hashes(site.root / "cache") | hashes(site.root / ".dvc/cache/files")
        return {name: digest for name, digest in files.items() if not name.startswith(own)}

    image = next((site.root / "data/breast").rglob("*.png"))
    good = image.read_bytes()
    image.write_bytes(b"not an image")
    site.run("dvc", "repro", "stages/dvc.yaml:files@breast")
    before, lock = kept(), (site.root / "dvc.lock").read_bytes()
    out = site.run("dvc", "repro", "segment@breast", code=255)  # though nothing else has changed
    assert image.name in out and "data refresh" in out
    site.params(segment__min_area=0.001)
    out = site.run("dvc", "repro", "segment@breast", code=255)
    assert image.name in out and "failed to reproduce" in out
    assert (site.root / "dvc.lock").read_bytes() == lock
    after = kept()
    assert {name: after.get(name) for name in before} == before
    image.write_bytes(good)  # nothing that DVC compares has changed; it was never done
    assert stages_run(site.run("dvc", "repro", "segment@breast")) == {"segment@breast"}
    assert site.record("segment")["total"] == IMAGES


@pytest.mark.promise(
    "With hard-linked or symlinked caches an append never changes an older commit's objects, and "
    "`dvc checkout` brings the older store back byte for byte."
)
@pytest.mark.promise("Only new images are computed; removed and reordered rows compute nothing.")
def test_an_append_computes_new_images_only_and_changes_no_older_object(site: Site) -> None:
    stores = {stage: site.root / path for stage, path in STORES.items()}
    for link, stage in (("hardlink", "segment"), ("symlink", "encode")):
        site.run("dvc", "config", "cache.type", link)
        site.run("dvc", "checkout", "--relink", f"{stage}@breast")
        shards = [p for p in stores[stage].glob("*/c/**/*") if p.is_file()]
        assert shards
        assert all(p.is_symlink() if link == "symlink" else p.stat().st_nlink > 1 for p in shards)
    objects = site.root / ".dvc/cache/files"
    kept, before = hashes(objects), {n: hashes(store) for n, store in stores.items()}
    lock = (site.root / "dvc.lock").read_bytes()

    for i, donor in enumerate(sorted((site.root / "data/breast").rglob("*.png"))[:3]):
        # One more byte after the end: other bytes, the same picture.
        donor.with_name(f"added_{i}.png").write_bytes(donor.read_bytes() + bytes([i]))
    add = ["--from", "data/breast", "--masks", "data/breast_masks", "--patient-regex", r"(P\d+)_"]
    in_process(site.root, "data", "add", "breast", *add, "--force")
    site.run("dvc", "repro", "encode@breast")
    assert [site.record(stage)["done"] for stage in stores] == [3, 3]
    after = hashes(objects)
    assert {name: after[name] for name in kept} == kept and len(after) > len(kept)

    path = site.root / "data_manifests/breast.csv"
    header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([header, *rows[5:][::-1]]), encoding="utf-8")
    for stage in stores:
        site.stage(stage)
        assert site.record(stage)["done"] == 0

    (site.root / "dvc.lock").write_bytes(lock)
    site.run("dvc", "checkout", "--force", "encode@breast", "segment@breast")
    assert {n: hashes(store) for n, store in stores.items()} == before


# -- several at once, and after a kill ------------------------------------------------------------

WAITS = '#!/bin/sh\ntouch "{0}/started"\nwhile :; do sleep 0.05; done\n'
"""A shell whose commands never end: DVC runs commands by $SHELL."""


@pytest.mark.promise("Two datasets are reproduced at the same time.")
@pytest.mark.promise(
    "After `kill -9` of `dvc repro` the next one goes on; a stale lock says what to delete, and a "
    "stage that still runs is named."
)
def test_two_datasets_are_reproduced_at_once_and_after_kill_9_the_next_repro_goes_on(
    fresh: Site, tmp_path: Path
) -> None:
    shell, stale = tmp_path / "shell", fresh.root / ".dvc/tmp/rwlock"
    shell.write_text(WAITS.format(tmp_path))
    shell.chmod(0o755)

    def repro(dataset: str, code: int = 0) -> str:
        return fresh.run("dvc", "--wait-for-lock", "repro", f"audit@{dataset}", code=code)

    def status() -> str:
        return in_process(fresh.root, "status")[1]

    waiting = ("--wait-for-lock", "repro", "audit@breast")
    first = fresh.begin(*waiting, module="dvc", SHELL=str(shell))
    assert first.until((tmp_path / "started").exists), first.output
    assert stages_run(repro("covid")) == {"audit@covid"}
    assert f"(PID {first.pid})" in repro("breast", code=255)  # the same stage twice is refused
    assert "rwlock: used by dvc" in status()
    leader = psutil.Process(first.pid)
    for process in [leader, *leader.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert first.wait() < 0
    assert "rwlock" not in status()  # DVC drops the entry by itself
    text = stale.read_text()
    for content in (text.replace(f'"pid": {first.pid}', f'"pid": {os.getpid()}'), text[:100]):
        stale.write_text(content)  # the pid is in use again; the file was cut while written
        assert str(stale.relative_to(fresh.root)) in status() and "delete this file" in status()
    assert "rwlock" in repro("breast", code=255)
    stale.write_text(text)
    assert stages_run(repro("breast")) == {"audit@breast"}
    assert stages_run(repro("covid")) == set()
    with ProcessLock(fresh.root / "cache/breast/masks.zarr.lock"):
        said = fresh.run("dvc", "repro", "segment@breast", code=255)
        assert f"written by process {os.getpid()}" in said and "masks.zarr.lock" in said
        assert f"process {os.getpid()}" in status()
