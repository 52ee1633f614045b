"""The thumbnail cache reads what is new and nothing else, and an unreadable image is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pipeline.audit import audit_dataset, compare_datasets, thumbnails
from pipeline.errors import StageFailed
from tests.audit.folder import Folder, params, texture

CACHE = "The audit reads only images that are new; a damaged cache is made again."


@pytest.fixture
def folder(tmp_path) -> Folder:
    made = Folder(tmp_path)
    for seed in range(6):
        made.save(f"{seed}.png", texture(seed, 64), split="train" if seed % 2 else "test")
    return made.write()


def run(folder: Folder) -> dict:
    return audit_dataset("toy", params(max_failed=1.0), folder.paths)


@pytest.mark.promise(CACHE)
def test_only_new_images_are_read(folder):
    assert [run(folder)["thumbnails_read"] for _ in range(2)] == [6, 0]
    for seed in (7, 8):
        folder.save(f"{seed}.png", texture(seed, 64))
    assert run(folder.write())["thumbnails_read"] == 2
    folder.rows["toy"].pop(0)
    assert run(folder.write())["thumbnails_read"] == 0
    assert len(folder.table()) == 7


def flipped(whole: bytes) -> bytes:
    return whole[:2000] + bytes([whole[2000] ^ 255]) + whole[2001:]


@pytest.mark.promise(CACHE)
@pytest.mark.parametrize(
    "damage", [lambda whole: b"", lambda whole: b"no cache", lambda whole: whole[:-3000], flipped]
)
def test_a_damaged_cache_is_made_again_and_changes_no_result(folder, damage):
    def outputs() -> list[bytes]:
        files = (folder.paths.audit, folder.paths.audit_pairs, folder.paths.audit_summary)
        return [file("toy").read_bytes() for file in files]

    run(folder)
    first, cache = outputs(), folder.paths.thumbnails("toy")
    cache.write_bytes(damage(cache.read_bytes()))
    assert [run(folder)["thumbnails_read"] for _ in range(2)] == [6, 0]
    assert outputs() == first


@pytest.mark.promise(CACHE)
def test_what_was_read_before_an_interruption_is_kept(folder, monkeypatch):
    class Interrupted(thumbnails.ThumbnailMapper):
        def map(self, items, loaded):
            if items[0].image_id == "4.png":
                raise KeyboardInterrupt
            return loaded

    monkeypatch.setattr(thumbnails, "READ_BATCH", 2)
    monkeypatch.setattr(thumbnails, "ThumbnailMapper", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(folder)
    monkeypatch.undo()
    assert run(folder)["thumbnails_read"] == 2


def test_unreadable_images_are_named_with_the_reason_and_tried_again(folder):
    folder.save("page.png", b"<html>no image</html>", split="test")
    folder.save("page too.png", b"<html>no image</html>", split="train")
    folder.save("gone.png", texture(9, 64))
    folder.save("twin.png", texture(3, 64), split="test")  # of 3.png, which changes
    gone, other, changed = (folder.paths.data("toy") / f"{n}.png" for n in ("gone", "2", "3"))
    content = gone.read_bytes()
    gone.unlink()
    changed.write_bytes(other.read_bytes())
    unreadable = run(folder.write())["unreadable"]
    assert set(unreadable) == {"page.png", "page too.png", "gone.png", "3.png"}
    assert "does not exist" in unreadable["gone.png"] and "data refresh" in unreadable["3.png"]
    saved = json.loads(folder.paths.audit_summary("toy").read_text())
    assert saved["unreadable"] == unreadable
    assert folder.table().loc["page.png", "copy_in_train"]  # the same bytes all the same
    assert not folder.table().loc["2.png", "copy_in_train"]  # of which "3.png" has a copy now
    record = json.loads(folder.paths.record("toy", "audit").read_text())
    assert (record["done"], record["skipped"], len(record["failed"])) == (6, 0, 4)
    gone.write_bytes(content)
    summary = run(folder)
    assert summary["thumbnails_read"] == 1 and "gone.png" not in summary["unreadable"]


@pytest.mark.parametrize("image", [b"<html>no image</html>", np.full((9, 9), 7, np.uint8)])
def test_a_set_of_which_nothing_can_be_compared_has_its_files_and_says_so(tmp_path, image):
    made = Folder(tmp_path)
    for name in ("one", "two"):
        for at in range(3):
            made.save(f"{at}.png", image, split=("train", "test")[at % 2], dataset=name)
    made.save("texture.png", texture(1), dataset="three")
    made.write()
    named, read = [f"{at}.png" for at in range(3)], not isinstance(image, bytes)
    if read:
        audit_dataset("one", params(), made.paths)
    else:
        with pytest.raises(StageFailed, match="3 of 3 images failed"):
            audit_dataset("one", params(), made.paths)
    summary = json.loads(made.paths.audit_summary("one").read_text())
    assert summary["blank"] == (named if read else [])
    assert list(summary["unreadable"]) == ([] if read else named)
    assert summary["pairs"] == {"byte": 3, "near": 0, "mirror": 0, "turn": 0}
    for a, b in (("one", "two"), ("one", "three"), ("three", "one")):
        pairs = compare_datasets(a, b, params(), made.paths)
        assert set(pairs["kind"]) == ({"byte"} if b == "two" else set())
        assert list(pairs.attrs["unreadable"]["one"]) == list(summary["unreadable"])


def test_frames_of_one_file_are_images_of_their_own(folder):
    pages = [Image.fromarray(texture(seed, 64)) for seed in (20, 21)]
    file = folder.paths.data("toy") / "pages.tif"
    pages[0].save(file, save_all=True, append_images=pages[1:])
    folder.save("first.png", texture(20, 64), split="train")
    folder.save("pages.tif", file.read_bytes(), split="test")
    second = folder.rows["toy"][-1] | {"image_id": "pages.tif#1", "frame": 1}
    folder.rows["toy"].append(second)
    run(folder.write())
    table = folder.table()
    assert table.loc["pages.tif", "near_group"] == "first.png"
    assert table.loc["pages.tif", "copy_in_train"]
    assert not table.loc["pages.tif#1", "copy_in_train_any"]
    assert table.loc["pages.tif#1", "exact_group"] == "pages.tif#1"
