"""A folder with every kind of bad image: each is named with its reason and remedy, all others are
done; and images that break, vanish or change after they were added."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipeline import open_features, open_masks
from pipeline.errors import PipelineError
from tests.images.makers import encode_png
from tests.site import IMAGES, STORES, Site

from .bad_images import BAD, DAMAGED, GOOD, picture

NAMED = "Every kind of bad file is named with its reason and remedy, and the others are done."
HANGS = "Nothing hangs: a pipe in the place of an image or a mask is named, not waited for."
LABELS = ("benign", "malignant")


@pytest.fixture(scope="module")
def mixed(
    drawn: Site, tmp_path_factory: pytest.TempPathFactory, no_override: str
) -> tuple[Site, str]:
    """A folder of good and bad images after `data add`, and what that printed."""
    folder = tmp_path_factory.mktemp("mixed") / "images"
    for number, split in enumerate(("train", "test")):
        for label in LABELS:
            (folder / split / label).mkdir(parents=True)
            image = picture(1000 * number, bright=label == "benign")
            Image.fromarray(image).save(folder / split / label / "00.png")
    makers = {name: fault[0] for name, fault in {**BAD, **DAMAGED}.items()}
    for name, make in {**makers, **GOOD}.items():
        make(folder / "train/benign" / name)
    Image.fromarray(picture(99)).save(folder / "train/malignant/stem.png")
    os.mkfifo(folder / "train/malignant/pipe")  # might be DICOM, which often has no suffix
    site = drawn.copy(folder.parent / "site")
    (site.root / "data_manifests/breast.csv").unlink()
    shutil.rmtree(site.root / "data/breast")
    running = site.begin("data", "add", "breast", "--from", str(folder), first=no_override)
    assert running.wait() == 3, running.output
    return site, running.output


@pytest.mark.promise(NAMED)
@pytest.mark.promise(HANGS)
def test_data_add_names_each_bad_file_and_takes_exactly_the_others(mixed) -> None:
    site, said = mixed
    for name, (_, reason, remedy) in BAD.items():
        (line,) = [line for line in said.splitlines() if f"/{name}:" in line]
        assert line.strip().startswith("FAILED") and reason in line and remedy in line
        assert " - " in line, "no remedy"
    assert "is a pipe, socket or device, not a file" in said
    wanted = {f"{split}/{label}/00.png" for split in ("train", "test") for label in LABELS}
    wanted |= {f"train/benign/{name}" for name in (*GOOD, *DAMAGED)} | {"train/malignant/stem.png"}
    assert {row["path"] for row in site.rows()} == wanted
    assert len(set(site.ids())) == len(wanted)


@pytest.mark.promise(NAMED)
def test_damaged_pixels_are_named_and_hostile_names_are_done_each_as_itself(mixed) -> None:
    site, _ = mixed
    damaged = {f"train/benign/{name}": fault[1:] for name, fault in DAMAGED.items()}
    wanted = {
        row["image_id"]: (int(row["height"]), int(row["width"]))
        for row in site.rows()
        if row["path"] not in damaged
    }
    site.params(segment__prompt="center-box")
    for stage in ("segment", "encode"):
        site.stage(stage, code=3)
        failed = site.record(stage)["failed"]
        assert set(failed) == set(damaged)
        assert all(damaged[name][0] in failed[name] for name in damaged) or stage == "encode"
    masks = open_masks(site.root / STORES["segment"])
    assert {name: masks[name].shape for name in wanted} == wanted
    for name in damaged:
        with pytest.raises(PipelineError, match=r"truncated|damaged"):
            masks[name]
    ids = sorted(wanted)
    features = open_features(site.root / STORES["encode"]).image_features("whole", ids)
    # No two of these pictures are the same, so no two rows are.
    assert len({row.tobytes() for row in features}) == len(wanted)


@pytest.mark.promise(NAMED)
@pytest.mark.promise(HANGS)
def test_files_that_break_after_data_add_fail_alone_and_are_done_once_they_are_back(
    built: Site, half: Site, tmp_path: Path, no_override: str
) -> None:
    site = built.before("segment", half, tmp_path / "site")
    site.remove("prompt_quality")
    site.remove("audit")
    sound = tmp_path / "sound"
    shutil.copytree(site.root / "data", sound)
    rows = site.rows()[-7:]  # not among those that `half` has
    files = [site.root / "data/breast" / row["path"] for row in rows]
    cut = files[1].read_bytes()
    files[0].write_bytes(b"<html>Sign in</html>")
    files[1].write_bytes(cut[: len(cut) // 2])
    files[2].unlink()
    files[3].unlink()
    files[3].symlink_to("nowhere.png")
    files[4].write_bytes(encode_png(picture(55)))
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
    shape = (int(row["height"]), int(row["width"]))
    Image.fromarray(picture(77, *shape)).save(site.root / "data/breast" / row["path"])
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
