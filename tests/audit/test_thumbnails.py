"""The thumbnail cache reads what is new and nothing else, and an unreadable image is named."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from pipeline.audit import audit_dataset, compare_datasets
from pipeline.audit import thumbnails as thumbnails_module
from pipeline.audit.thumbnails import load_thumbnails
from pipeline.errors import StageFailed, StoreError
from pipeline.io import ProcessLock
from pipeline.manifest import read_manifest
from tests.audit.folder import Folder, params, texture


@pytest.fixture
def folder(tmp_path) -> Folder:
    made = Folder(tmp_path)
    for seed in range(6):
        made.save(f"{seed}.png", texture(seed, 64), split="train" if seed % 2 else "test")
    return made.write()


def run(folder: Folder) -> dict:
    return audit_dataset("toy", params(max_failed=1.0), folder.paths)


def arguments(folder: Folder) -> tuple:
    manifest = read_manifest(folder.paths.manifest("toy"))
    return manifest, folder.paths.data("toy"), folder.paths.thumbnails("toy")


def outputs(folder: Folder) -> list[bytes]:
    names = (folder.paths.audit, folder.paths.audit_pairs, folder.paths.audit_summary)
    return [name("toy").read_bytes() for name in names]


CACHE = "The audit reads only images that are new or whose cached thumbnail is damaged."


@pytest.mark.promise(CACHE)
def test_run_again_add_two_take_one_away_reads_six_none_two_none(folder):
    assert run(folder)["thumbnails_read"] == 6
    assert run(folder)["thumbnails_read"] == 0
    for seed in (7, 8):
        folder.save(f"{seed}.png", texture(seed, 64))
    assert run(folder.write())["thumbnails_read"] == 2
    folder.rows["toy"].pop(0)
    assert run(folder.write())["thumbnails_read"] == 0
    assert len(folder.table()) == 7


def test_the_same_input_gives_the_same_bytes(folder):
    run(folder)
    first = outputs(folder)
    folder.paths.thumbnails("toy").unlink()
    run(folder)
    assert outputs(folder) == first


def _counts(folder: Folder) -> tuple[int, int, int]:
    record = json.loads(folder.paths.record("toy", "audit").read_text())
    return record["done"], record["copied"], record["skipped"]


def flipped(whole: bytes) -> bytes:
    damaged = bytearray(whole)
    damaged[-100] ^= 255
    return bytes(damaged)


@pytest.mark.promise(CACHE)
@pytest.mark.parametrize(
    ("damage", "again"),
    [
        (lambda whole: b"", 6),
        (lambda whole: b"not a cache", 6),
        (lambda whole: whole[:-3000], 1),
        (flipped, 1),
    ],
    ids=["empty", "text", "cut", "flipped"],
)
def test_what_the_cache_lacks_or_has_damaged_is_read_again(folder, damage, again):
    run(folder)
    first = outputs(folder)
    cache = folder.paths.thumbnails("toy")
    cache.write_bytes(damage(cache.read_bytes()))
    assert [run(folder)["thumbnails_read"] for _ in range(2)] == [again, 0]
    assert outputs(folder) == first


def test_a_second_audit_at_the_same_time_is_refused(folder):
    cache = folder.paths.thumbnails("toy")
    with ProcessLock(cache.with_name(f"{cache.name}.lock")), pytest.raises(StoreError) as caught:
        run(folder)
    assert str(os.getpid()) in str(caught.value)


@pytest.mark.promise(CACHE)
def test_what_was_read_before_an_interruption_is_kept(folder, monkeypatch):
    read, seen = thumbnails_module.make_thumbnails, []

    def interrupted(image):
        seen.append(image)
        if len(seen) > 4:
            raise KeyboardInterrupt
        return read(image)

    monkeypatch.setattr(thumbnails_module, "READ_BATCH", 2)
    monkeypatch.setattr(thumbnails_module, "make_thumbnails", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_thumbnails(*arguments(folder), workers=1)
    monkeypatch.undo()
    assert run(folder)["thumbnails_read"] == 5  # a batch, but for its last image


def test_unreadable_images_are_named_with_the_reason_and_tried_again(folder):
    folder.save("page.png", b"<html>no image</html>", split="test")
    folder.save("page too.png", b"<html>no image</html>", split="train")
    folder.save("cut.png", folder.paths.data("toy").joinpath("0.png").read_bytes()[:300])
    folder.save("gone.png", texture(9, 64))
    gone, other, changed = (folder.paths.data("toy") / f"{n}.png" for n in ("gone", "2", "3"))
    content = gone.read_bytes()
    gone.unlink()
    changed.write_bytes(other.read_bytes())
    unreadable = run(folder.write())["unreadable"]
    assert set(unreadable) == {"page.png", "page too.png", "cut.png", "gone.png", "3.png"}
    assert "does not exist" in unreadable["gone.png"] and "data refresh" in unreadable["3.png"]
    saved = json.loads(folder.paths.audit_summary("toy").read_text())
    assert saved["unreadable"] == unreadable
    assert len(folder.table()) == 10
    assert folder.table().loc["page.png", "copy_in_train"]  # the same bytes all the same
    assert not folder.table().loc["2.png", "copy_in_train"]  # of which "3.png" has a copy now
    gone.write_bytes(content)
    summary = run(folder)
    assert summary["thumbnails_read"] == 1 and "gone.png" not in summary["unreadable"]


@pytest.mark.promise(
    "Of files with the same bytes, one that breaks later is named alone: its twin is not accused, "
    "and copies of it are still found."
)
def test_a_broken_file_accuses_no_twin_and_hides_no_copy_until_it_is_restored(folder):
    folder.save("broken.png", texture(20, 64), split="train")
    file = folder.paths.data("toy") / "broken.png"
    content = file.read_bytes()
    folder.save("twin.png", content, split="train")
    folder.save("twin too.png", content, split="train")
    folder.save("resaved.jpg", texture(20, 64), split="test", quality=90)
    for path in ("broken.png", "twin too.png"):
        folder.paths.data("toy").joinpath(path).write_bytes(b"<html>no image</html>")
    folder.write()
    for _ in range(2):  # also when all else is in the cache
        summary = run(folder)
        assert set(summary["unreadable"]) == {"broken.png", "twin too.png"}
        assert all("bytes changed" in why for why in summary["unreadable"].values())
        assert folder.table().loc["resaved.jpg", "copy_in_train"]
        assert sum(_counts(folder)[::2]) == len(folder.table()) - 2  # done and there already
    for path in ("broken.png", "twin too.png"):
        folder.paths.data("toy").joinpath(path).write_bytes(content)
    assert [run(folder)["thumbnails_read"] for _ in range(2)] == [1, 0]
    assert run(folder)["unreadable"] == {}


@pytest.mark.parametrize("image", [b"<html>no image</html>", np.full((9, 9), 7, np.uint8)])
def test_a_set_of_which_nothing_can_be_compared_has_its_files_and_says_so(tmp_path, image):
    made = Folder(tmp_path)
    for name in ("one", "two"):
        for at in range(3):
            made.save(f"{at}.png", image, split=("train", "test")[at % 2], dataset=name)
    made.save("texture.png", texture(1), dataset="three")
    made.write()
    named = [f"{at}.png" for at in range(3)]
    read = not isinstance(image, bytes)
    if read:
        summary = audit_dataset("one", params(), made.paths)
    else:
        with pytest.raises(StageFailed, match="3 of 3 images failed"):
            audit_dataset("one", params(), made.paths)
        summary = json.loads(made.paths.audit_summary("one").read_text())
    assert summary["blank"] == (named if read else [])
    assert list(summary["unreadable"]) == ([] if read else named)
    assert summary["pairs"] == {"byte": 3, "near": 0, "mirror": 0, "turn": 0}
    assert len(made.table("one")) == 3 and len(made.pairs("one")) == 3
    for a, b in (("one", "two"), ("one", "three"), ("three", "one")):
        pairs = compare_datasets(a, b, params(), made.paths)
        assert set(pairs["kind"]) == ({"byte"} if b == "two" else set())
        assert list(pairs.attrs["unreadable"]["one"]) == list(summary["unreadable"])


def test_blank_images_are_listed_and_no_copies_of_each_other(folder):
    folder.save("black.png", np.zeros((64, 64), np.uint8), split="train")
    folder.save("grey.png", np.full((64, 64), 99, np.uint8), split="test")
    assert run(folder.write())["blank"] == ["black.png", "grey.png"]
    assert not folder.table().loc["grey.png", "copy_in_train_any"]


def test_frames_of_one_file_are_images_of_their_own(folder):
    pages = [Image.fromarray(texture(seed, 64)) for seed in (20, 21)]
    file = folder.paths.data("toy") / "pages.tif"
    pages[0].save(file, save_all=True, append_images=pages[1:])
    folder.save("first.png", texture(20, 64), split="train")
    row = folder.rows["toy"][-1]
    folder.save("pages.tif", file.read_bytes(), split="test")
    folder.rows["toy"][-1]["frame"] = 0
    folder.rows["toy"].append(
        folder.rows["toy"][-1] | {"image_id": "pages.tif#1", "frame": 1, "path": "pages.tif"}
    )
    run(folder.write())
    table = folder.table()
    assert table.loc["pages.tif", "near_group"] == row["image_id"]
    assert table.loc["pages.tif", "copy_in_train"]
    assert not table.loc["pages.tif#1", "copy_in_train_any"]
    assert table.loc["pages.tif#1", "exact_group"] == "pages.tif#1"
