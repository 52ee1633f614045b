"""A folder with every kind of bad image through the real commands: each is named with its reason
and remedy, all others are done."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.images import encode_png
from pipeline.store import open_features, open_masks

from .bad_images import BAD, DAMAGED, GOOD
from .site import Done, Site, draw_images, picture


def rows(site: Site) -> list[dict[str, str]]:
    with open(site.root / "data_manifests/toy.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def record(site: Site, stage: str) -> dict:
    return json.loads((site.root / f"cache/toy/records/{stage}.json").read_text())


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, no_override: list[str]) -> tuple[Site, Done]:
    """A folder of good and bad images after `data add`, and what that said."""
    folder = tmp_path_factory.mktemp("mixed") / "toy"
    draw_images(folder, {"train": 2, "test": 2})
    makers = {name: fault[0] for name, fault in {**BAD, **DAMAGED}.items()}
    for name, make in {**makers, **GOOD}.items():
        make(folder / "train" / "cat" / name)
    Image.fromarray(picture(99)).save(folder / "train" / "dog" / "stem.png")
    os.mkfifo(folder / "train" / "dog" / "pipe")  # might be DICOM, which often has no suffix
    site = Site.make(folder.parent / "site")
    return site, site.run("data", "add", "toy", "--from", str(folder), before=no_override)


@pytest.mark.parametrize("name", BAD)
def test_data_add_names_each_bad_file_with_its_reason_and_remedy(mixed, name: str) -> None:
    _, done = mixed
    reason, remedy = BAD[name][1:]
    (line,) = [line for line in done.said.splitlines() if f"/{name}:" in line]
    assert line.strip().startswith("FAILED") and reason in line and remedy in line
    assert " - " in line, "no remedy"


def test_data_add_takes_exactly_the_others_and_exits_3(mixed) -> None:
    site, done = mixed
    taken = {**GOOD, **DAMAGED}
    done.expect(3, f"{len(taken) + 9} images", "is a pipe, socket or device, not a file")
    plain = {
        f"{s}/{c}/{i:02d}.png" for s in ("train", "test") for c in ("cat", "dog") for i in (0, 1)
    }
    wanted = plain | {f"train/cat/{name}" for name in taken} | {"train/dog/stem.png"}
    assert {row["path"] for row in rows(site)} == wanted
    assert len({row["image_id"] for row in rows(site)}) == len(wanted)


def test_damaged_pixels_are_named_and_hostile_names_are_done_each_as_itself(mixed) -> None:
    site, _ = mixed
    damaged = {f"train/cat/{name}": fault[1:] for name, fault in DAMAGED.items()}
    wanted = {
        row["image_id"]: (int(row["height"]), int(row["width"]))
        for row in rows(site)
        if row["path"] not in damaged
    }
    for stage in ("segment", "encode"):
        said = site.stage(stage).expect(3, *damaged)
        assert f"{len(damaged)} of {len(wanted) + len(damaged)} images failed" in said
        failed = record(site, stage)["failed"]
        assert set(failed) == set(damaged)
        for name, (reason, remedy) in damaged.items():
            words = (reason, remedy if stage == "segment" else "its mask failed")
            assert all(word in failed[name] for word in words), failed[name]
    masks = open_masks(site.root / "cache/toy/masks.zarr")
    assert {name: masks[name].shape for name in wanted} == wanted
    for name in damaged:
        with pytest.raises(PipelineError, match=r"truncated|damaged"):
            masks[name]
    features = open_features(site.root / "cache/toy/features.zarr").image_features("whole")
    # No two of these pictures are the same, so no two rows are.
    assert len({row.tobytes() for row in features}) == len(wanted)


@pytest.fixture(scope="module")
def broken(half: Site, source: Path, tmp_path_factory: pytest.TempPathFactory):
    """The project after images broke that `data add` had listed: (site, image id -> reason)."""
    root = tmp_path_factory.mktemp("broken")
    shutil.copytree(source, root / "toy")
    site = half.copy(root / "site")
    (site.root / "data/toy").unlink()
    (site.root / "data/toy").symlink_to(root / "toy")
    folder = root / "toy/train/dog"
    cut = (folder / "01.png").read_bytes()
    (folder / "00.png").write_bytes(b"<html>Sign in</html>")
    (folder / "01.png").write_bytes(cut[: len(cut) // 2])
    (folder / "02.png").unlink()
    (folder / "03.png").unlink()
    (folder / "03.png").symlink_to("nowhere.png")
    (folder / "04.png").write_bytes(encode_png(picture(55)))
    (folder / "05.png").chmod(0)
    for name in ("06.png", "07_mask.png"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    reasons = ("changed", "changed", "not exist", "broken link", "changed")
    reasons += ("permission denied", "is a pipe")
    return site, {f"train/dog/{i:02d}.png": why for i, why in enumerate(reasons)}


def test_files_that_break_after_data_add_fail_alone_and_are_done_once_they_are_back(
    broken, no_override: list[str], source: Path
) -> None:
    site, reasons = broken
    # A pipe in the place of a ground truth fails the one stage that reads it here.
    truth = {"train/dog/07.png": "07_mask.png: is a pipe"}
    for stage, wanted in (
        ("audit", reasons),
        ("segment", reasons),
        ("prompt_quality", reasons | truth),
    ):
        said = site.stage(stage, before=no_override).expect(
            3, f"{len(wanted)} of 32 images failed", f"and {len(wanted) - 3} more"
        )
        failed = record(site, stage)["failed"]
        assert failed.keys() == wanted.keys()
        for name, reason in wanted.items():
            assert reason in failed[name] and " - " in failed[name], failed[name]
        assert sum(repr(name) in said for name in wanted) == 3
    masks = open_masks(site.root / "cache/toy/masks.zarr")
    assert set(masks.table().query("status != 'failed'").index) == set(masks) - set(reasons)
    assert len(masks) == 32

    folder = site.root.parent / "toy/train/dog"
    shutil.rmtree(folder)
    shutil.copytree(source / "train/dog", folder)
    site.stage("segment").expect(0, "7 computed, 25 there already, 0 failed of 32")
