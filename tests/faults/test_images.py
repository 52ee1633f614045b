"""Bad images: each is named with its reason and remedy, all others are done; and images that break,
vanish or change after they were added."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import open_features, open_masks
from pipeline.errors import PipelineError
from tests.images.makers import encoded
from tests.project import in_process
from tests.site import IMAGES, STORES, Site, stage_command

NAMED = "Every kind of bad file is named with its reason and remedy, and the others are done."
HANGS = "Nothing hangs: a pipe in the place of an image or a mask is named, not waited for."
SHARES = (
    "In each stage that reads images, a dataset of which more than the stated share cannot be read "
    "exits 3, with the counts in record, status and report; `data check` names them and exits 3."
)
PAGE = b"<!DOCTYPE html><html>Sign in</html>"


def picture(
    seed: int, height: int = 40, width: int = 48, *, bright: bool = True, suffix: str = "png"
) -> bytes:
    """Return a file of a bright or dim ellipse on noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.uniform(0.4, 0.6, 2) * (height, width)
    inside = ((y - cy) / (height / 4)) ** 2 + ((x - cx) / (width / 5)) ** 2 < 1
    pixels = rng.integers(0, 90, (height, width)) + (150 if bright else 60) * inside
    return encoded(pixels.astype("u1"), suffix)


def locked(path: Path) -> None:
    path.write_bytes(picture(72))
    path.chmod(0)


BAD = {"locked.png": (locked, "permission denied"), "pipe.png": (os.mkfifo, "is a pipe")}
"""Files that `data add` cannot take: how they are made and what is said; tests/data has more."""
DAMAGED = {f"cut.{suffix}": picture(71, suffix=suffix)[:900] for suffix in ("png", "jpeg")}
"""Files with a sound header, whose damage shows when the pixels are read."""
HOSTILE = ("quo'te\".png", "new\nline.png", "[0-9]*.png", "影像.png", "-rf.png", "%s{}.png")
HOSTILE += ("UPPER.png", "upper.png", "stem.png", "stem.jpg", "really_png.dcm")
HOSTILE += ("caf\u00e9.png", "cafe\u0301.png")
"""Names of images; some collide but for case, suffix or Unicode form."""


@pytest.mark.promise(NAMED)
@pytest.mark.promise(HANGS)
def test_bad_files_are_named_and_hostile_names_are_done_each_as_itself(
    drawn: Site, tmp_path: Path, no_override: str
) -> None:
    folder = tmp_path / "images"
    labels = ("benign", "malignant")
    good = [f"{split}/{label}/00.png" for split in ("train", "test") for label in labels]
    good += [*(f"train/benign/{name}" for name in HOSTILE), "train/malignant/stem.png"]
    for number, name in enumerate(good):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number, bright="benign" in name))
    for name, (make, _) in BAD.items():
        make(folder / "train/benign" / name)
    for name, content in DAMAGED.items():
        (folder / "train/benign" / name).write_bytes(content)
    os.mkfifo(folder / "train/malignant/pipe")  # might be DICOM, which often has no suffix
    site = drawn.copy(tmp_path / "site")
    (site.root / "data_manifests/breast.csv").unlink()
    shutil.rmtree(site.root / "data/breast")
    add = ("data", "add", "breast", "--from", str(folder))
    said = site.run("pipeline", *add, first=no_override, code=3)
    for name, (_, reason) in BAD.items():
        (line,) = [line for line in said.splitlines() if f"/{name}:" in line]
        assert line.strip().startswith("FAILED") and reason in line and " - " in line
    assert "is a pipe, socket or device, not a file" in said
    damaged = {f"train/benign/{name}" for name in DAMAGED}
    assert {row["path"] for row in site.rows()} == {*good, *damaged}
    ids = [row["image_id"] for row in site.rows() if row["path"] in good]
    assert len(set(site.ids())) == len(good) + len(damaged)

    site.params(segment__prompt="center-box")
    for stage in ("segment", "encode"):
        site.stage(stage, code=3)
        failed = site.record(stage)["failed"]
        assert failed.keys() == damaged
        assert stage == "encode" or all("truncated" in reason for reason in failed.values())
    masks = open_masks(site.root / STORES["segment"])
    assert {masks[image_id].shape for image_id in ids} == {(40, 48)}
    for name in damaged:
        with pytest.raises(PipelineError, match="truncated"):
            masks[name]
    features = open_features(site.root / STORES["encode"]).image_features("whole", ids)
    # No two of these pictures are the same, so no two rows are.
    assert len({row.tobytes() for row in features}) == len(good)


@pytest.mark.promise(NAMED)
@pytest.mark.promise(HANGS)
def test_files_that_break_after_data_add_fail_alone_and_are_done_once_they_are_back(
    built: Site, half: Site, tmp_path: Path, no_override: str
) -> None:
    site = built.before("segment", half, tmp_path / "site")
    site.remove("audit")
    sound = tmp_path / "sound"
    shutil.copytree(site.root / "data", sound)
    rows = site.rows()[-7:]  # not among those that `half` has
    files = [site.root / "data/breast" / row["path"] for row in rows]
    files[0].write_bytes(PAGE)
    files[1].write_bytes(files[1].read_bytes()[:900])
    files[2].unlink()
    files[3].unlink()
    files[3].symlink_to("nowhere.png")
    files[4].write_bytes(picture(55))
    files[5].chmod(0)
    files[6].unlink()
    os.mkfifo(files[6])
    why = ("changed", "changed", "not exist", "broken link", "changed", "permission", "a pipe")
    reasons = {row["image_id"]: reason for row, reason in zip(rows, why, strict=True)}
    for stage in ("audit", "segment"):
        site.stage(stage, code=3, first=no_override)
        failed = site.record(stage)["failed"]
        assert failed.keys() == reasons.keys()
        for name, reason in reasons.items():
            assert reason in failed[name] and " - " in failed[name], failed[name]
    masks = open_masks(site.root / STORES["segment"])
    assert set(masks.table().query("status != 'failed'").index) == set(site.ids()) - set(reasons)

    shutil.rmtree(site.root / "data")
    shutil.copytree(sound, site.root / "data")
    site.stage("segment")
    record = site.record("segment")
    assert (record["done"], record["skipped"], record["failed"]) == (7, IMAGES - 7, {})


@pytest.mark.promise(HANGS)
def test_a_pipe_in_the_place_of_a_ground_truth_fails_its_image_alone(fresh: Site) -> None:
    row = next(row for row in fresh.rows() if row["split"] == "test" and row["mask_path"])
    mask = fresh.root / "data/breast" / row["mask_path"]
    mask.unlink()
    os.mkfifo(mask)
    fresh.stage("prompt_quality", "--set", "prompt_quality.strategies=[center-box]", code=3)
    failed = fresh.record("prompt_quality")["failed"]
    assert failed.keys() == {row["image_id"]} and "is a pipe" in failed[row["image_id"]]


@pytest.mark.promise(
    "After `data refresh` found other bytes under a name, `train` refuses the older features and "
    "`evaluate` the older predictions, with the command that makes them again."
)
@pytest.mark.promise(
    "A run of `train`, `evaluate` or `audit` that failed says so in its record and in `pipeline "
    "status`, in the place of the earlier `ok`."
)
def test_what_an_older_image_gave_is_neither_trained_on_nor_judged(site: Site) -> None:
    row = next(row for row in site.rows() if row["split"] == "train")
    image_id = row["image_id"]
    changed = picture(77, int(row["height"]), int(row["width"]))
    (site.root / "data/breast" / row["path"]).write_bytes(changed)
    site.run("pipeline", "data", "refresh", "breast")
    (site.root / "cache/breast/audit.parquet").unlink()  # it would be the first to refuse
    for stage, named, remedy in (
        ("train", image_id, "pipeline encode"),
        ("evaluate", "linear-probe/predictions.parquet", "pipeline train"),
    ):
        before = site.outputs(stage)
        said = site.stage(stage, code=2)
        assert named in said and remedy in said
        for path, content in site.outputs(stage).items():  # zero-shot needs no training image
            assert content == before[path] or "/zero-shot/" in path
        record = site.record("train-linear-probe" if stage == "train" else stage)
        assert record["status"] == "error" and named in record["error"]
    pairs = site.root / "cache/breast/audit_pairs.parquet"
    pairs.unlink()
    pairs.mkdir()  # in the way of the file
    assert pairs.name in site.stage("audit", code=2)
    assert site.record("audit")["status"] == "error"


@pytest.mark.promise(SHARES)
@pytest.mark.parametrize(("count", "allowed", "code"), [(IMAGES, 0.99, 3), (2, 2 / IMAGES, 0)])
def test_images_that_cannot_be_read_are_counted_everywhere_and_exit_3_above_the_stated_share(
    fresh: Site, count: int, allowed: float, code: int
) -> None:
    for row in fresh.rows()[:count]:
        (fresh.root / "data/breast" / row["path"]).write_bytes(PAGE)
    names = set(fresh.ids()[:count])
    fresh.params(segment__prompt="center-box", prompt_quality__strategies=["center-box"])
    for stage in ("audit", "segment", "prompt_quality", "encode"):
        options = ["--set", f"{stage}.max_failed={allowed}"]
        wanted, total = names, IMAGES
        if stage == "prompt_quality":  # all images whose ground truth is not empty
            if count < IMAGES:
                continue
            options += ["--images", "0"]
            wanted = {row["image_id"] for row in fresh.rows() if row["mask_area"] != "0"}
            total = len(wanted)
        assert in_process(fresh.root, *stage_command(stage), *options)[0] == code
        record = fresh.record(stage)
        assert (record["status"], record["total"]) == ("failed" if code else "ok", total)
        assert set(record["failed"]) == wanted and record["failed_share"] == len(wanted) / total
    # No table is made with images silently missing: who leaves them out says so in the manifest.
    ended, said = in_process(fresh.root, *stage_command("train"))
    assert ended == 2 and (count == IMAGES or all(name in said for name in names))
    assert not code or "failed" in in_process(fresh.root, "status")[1]
    ended, said = in_process(fresh.root, "data", "check", "--dataset", "breast")
    assert ended == 3 and len([name for name in names if name in said]) == min(count, 3)
    assert count <= 3 or f"and {count - 3} more in the record" in said
    in_process(fresh.root, "report")
    page = (fresh.root / "report/index.html").read_text()
    assert count == IMAGES or all(name in page for name in names)
