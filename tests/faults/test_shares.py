"""A dataset of which nothing, or a tenth, can be read: the exit code, the counts in record, status
and report, and DVC, which does not take the stage for done."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.engine.status import status_rows
from pipeline.paths import Paths
from tests.end_to_end.conftest import empty_project

from .site import PARAMS, PROMPTS, REPO, Site, draw_images

PAGE = b"<!DOCTYPE html><html>Sign in</html>"


def record(site: Site, stage: str) -> dict:
    return json.loads((site.root / f"cache/toy/records/{stage}.json").read_text())


def status(site: Site, stage: str) -> dict:
    """What `pipeline status` says of a stage; another test reads it on the command line."""
    rows = status_rows(Paths(site.root), ["toy"])
    return next(row for row in rows if row["stage"] == stage)


def broken(added: Site, source: Path, root: Path, names: list[str]) -> Site:
    """The project, some of whose images became web pages after they were added."""
    shutil.copytree(source, root / "toy")
    site = added.copy(root / "site")
    (site.root / "data/toy").unlink()
    (site.root / "data/toy").symlink_to(root / "toy")
    for name in names or [str(f.relative_to(source)) for f in source.rglob("*.png")]:
        (root / "toy" / name).write_bytes(PAGE)
    return site


def test_a_dataset_of_which_nothing_can_be_read_exits_3_and_is_told_everywhere(
    added: Site, source: Path, tmp_path: Path
) -> None:
    site = broken(added, source, tmp_path, names=[])
    for stage in ("audit", "segment", "prompt_quality"):
        site.stage(stage, "--set", f"{stage}.max_failed=0.99").expect(
            3, "32 of 32 images failed (100.0%, allowed 99.0%)", "and 29 more", "max_failed"
        )
        assert record(site, stage)["status"] == "failed"
        assert len(record(site, stage)["failed"]) == record(site, stage)["total"] == 32
    said = site.run("status").expect(0)
    for stage in ("audit", "segment", "prompt_quality"):
        assert re.search(rf"toy +{stage} +failed +32 +0 +0 +32 ", said)
    site.stage("report").expect(0)
    assert "96 failures." in (site.root / "report/index.html").read_text()
    site.stage("encode").expect(3, "32 of 32 images failed", "bytes changed")
    site.stage("train").expect(2, "features are not complete", "failed in encode")


def test_data_check_names_what_cannot_be_read_in_either_set_and_exits_3(
    added: Site, source: Path, tmp_path: Path
) -> None:
    names = ["test/cat/00.png", "train/cat/00.png", "train/dog/00.png"]
    site = broken(added, source, tmp_path, names)
    shutil.copy(site.root / "data_manifests/toy.csv", site.root / "data_manifests/sound.csv")
    (site.root / "data/sound").symlink_to(source)
    check = ("data", "check", "--dataset")
    said = site.run(*check, "toy").expect(3, "toy: 32 images", "audit toy: 3 of 32 images failed")
    assert said.index("3 images cannot be read:") < said.index("error: ")
    assert all(f"  {name}: its bytes changed" in said for name in names)
    said = site.run(*check, "sound", "--against", "toy").expect(3, "check toy: 3 of 32 images")
    assert said.index("3 images of toy cannot be read:") < said.index("error: ")
    share = ["--set", "audit.max_failed=0.1"]
    site.run(*check, "sound", "--against", "toy", *share).expect(0, *names, "cannot be read:")


def test_a_tenth_that_cannot_be_read_fails_above_the_stated_share_and_passes_below(
    added: Site, source: Path, tmp_path: Path
) -> None:
    names = ["test/cat/00.png", "train/cat/00.png", "train/dog/00.png"]
    site = broken(added, source, tmp_path, names)
    changed = "changed since the manifest"
    shares = (("0.05", 3, "failed"), ("0.1", 0, "ok"))
    for stage, why, tried in (
        ("audit", changed, shares[1:]),  # other tests see it fail
        ("segment", changed, shares),
        ("prompt_quality", changed, shares[1:]),
        ("encode", "failed", shares),
    ):
        for allowed, code, ended in tried:
            share = ["--set", f"{stage}.max_failed={allowed}"]
            site.stage(stage, *share).expect(code, *names, why)
            assert record(site, stage)["status"] == ended
            assert set(record(site, stage)["failed"]) == set(names)
            assert record(site, stage)["failed_share"] == 3 / 32
            told = status(site, stage)
            assert (told["status"], told["total"], told["failed"]) == (ended, 32, 3)
    # No table is made with images silently missing: who leaves them out says so in the manifest.
    site.stage("train").expect(2, "features are not complete", *names, "out of the manifest")
    site.stage("report").expect(0)
    page = (site.root / "report/index.html").read_text()
    assert "12 failures." in page and all(name in page for name in names)


@pytest.fixture
def repository(tmp_path: Path) -> Site:
    """A git and DVC repository with a dataset added, one image of which then broke."""
    root = tmp_path / "project"
    empty_project(root, REPO)
    raw = yaml.safe_load((root / "params.yaml").read_text())
    for name, value in PARAMS.items():
        raw[name] = raw[name] | value if isinstance(value, dict) else value
    (root / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    (root / "data_manifests/prompts.yaml").write_text(PROMPTS)
    draw_images(tmp_path / "toy", {"train": 3, "test": 2})
    site = Site(root)
    site.run("data", "add", "toy", "--from", str(tmp_path / "toy")).expect(0)
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    return site


def test_dvc_does_not_take_a_failed_stage_for_done_and_runs_it_again(
    repository: Site, tmp_path: Path
) -> None:
    image = tmp_path / "toy/train/cat/00.png"
    sound = image.read_bytes()
    image.write_bytes(PAGE)
    dvc = {"program": ("-m", "dvc"), "PYTHONPATH": str(repository.root)}
    lock = repository.root / "dvc.lock"
    stages = ["audit@toy", "segment@toy"]
    done = repository.run("repro", "--keep-going", *stages, **dvc)
    assert done.code != 0 and done.said.count("1 of 10 images failed") == 2, done.said
    assert not lock.exists()

    # What DVC compares has not changed; it runs the stage because it was never done.
    image.write_bytes(sound)
    done = repository.run("repro", *stages, **dvc)
    assert done.code == 0, done.said
    for stage in stages:
        assert f"Running stage '{stage}'" in done.said
        assert record(repository, stage.split("@")[0])["done"] == 1, "the nine good ones were kept"
    assert sorted(yaml.safe_load(lock.read_text())["stages"]) == stages
