"""What the audit's files say about small known datasets, and which images it reads."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.audit import audit_dataset, audit_text, compare_datasets, search
from pipeline.audit.table import COLUMNS, connect, joined_to, name_groups
from pipeline.errors import StageFailed, StoreError
from pipeline.paths import Paths
from tests.audit.folder import Folder, gamma, mirror, params, texture


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Folder:
    made = Folder(tmp_path_factory.mktemp("groups"))
    made.save("train/one.png", texture(1), split="train", label="a")
    made.save("train/one again.png", texture(1), split="train", label="a")
    made.save("test/one.png", texture(1), split="test", label="b")
    made.save("test/one, gamma.png", gamma(texture(1)), split="test", label="a")
    made.save("test/one, mirrored.png", mirror(texture(1)), split="test", label="a")
    made.save("val/two.png", texture(2), split="val", label="a")
    made.save("test/two.png", gamma(texture(2)), split="test", label="a")
    made.save("test/three.png", texture(3), split="test", label="a")
    made.save("test/three, gamma.png", gamma(texture(3)), split="test", label="a")
    made.save("test/alone, mirrored.png", mirror(texture(5)), split="test", label="a")
    made.save("train/alone.png", texture(5), split="train", label="b")
    made.summary = audit_dataset("toy", params(), made.write().paths)
    return made


@pytest.mark.promise("Copies with different labels are named.")
@pytest.mark.promise("A test image counts as leaked by copies of training and validation images.")
def test_leaks_are_copies_of_training_and_validation_images_only(folder):
    table = folder.table()
    leaks = {"test/one.png", "test/one, gamma.png", "test/two.png"}
    assert set(table.index[table["copy_in_train"]]) == leaks
    leaks |= {"test/one, mirrored.png", "test/alone, mirrored.png"}
    assert set(table.index[table["copy_in_train_any"]]) == leaks
    named = folder.summary["leaks"]
    assert {of[f"image_id_{side}"] for of in named for side in "ab"} > leaks
    assert len(named) == len(leaks) and all(leak["leak"] for leak in named)
    assert table.loc["test/one, gamma.png", "label_conflict"]
    assert not table.loc["test/three.png", "label_conflict"]
    conflicts = folder.summary["label_conflicts"]
    assert folder.summary["label_conflict_groups"] == len(conflicts) == 2
    two = {"images": ["test/alone, mirrored.png", "train/alone.png"], "labels": ["a", "b"]}
    assert two in conflicts


def test_pairs_name_both_images_their_labels_and_splits(folder, tmp_path):
    pairs = folder.pairs()
    assert list(pairs.columns) == list(COLUMNS)
    assert (pairs["image_id_a"] < pairs["image_id_b"]).all()
    assert not pairs.duplicated(["image_id_a", "image_id_b"]).any()
    rows = pd.DataFrame(folder.rows["toy"]).set_index("image_id")
    for side in "ab":
        listed = rows.loc[pairs[f"image_id_{side}"], ["split", "label"]].to_numpy()
        assert (listed == pairs[[f"split_{side}", f"label_{side}"]].to_numpy()).all()
    splits = [set(pair) for pair in zip(pairs["split_a"], pairs["split_b"], strict=True)]
    assert list(pairs["leak"]) == [s in ({"train", "test"}, {"val", "test"}) for s in splits]
    alone = Folder(tmp_path)  # without pairs and a test part
    alone.save("train/one.png", texture(1), split="train", label="a")
    text = audit_text(audit_dataset("toy", params(), alone.write().paths), "pairs.parquet")
    assert "no test part yet" in text and "copy in train" not in text
    none, some = (pq.read_schema(of.paths.audit_pairs("toy")) for of in (alone, folder))
    assert alone.pairs("toy").empty and none.types == some.types and none.names == some.names


def test_the_order_of_the_manifest_changes_nothing(folder, tmp_path):
    other = Folder(tmp_path)
    other.rows["toy"] = [folder.rows["toy"][at] for at in np.random.default_rng(0).permutation(11)]
    other.paths.data("toy").parent.mkdir(parents=True)
    other.paths.data("toy").symlink_to(folder.paths.data("toy"))
    audit_dataset("toy", params(), other.write().paths)
    pd.testing.assert_frame_equal(other.pairs(), folder.pairs())
    pd.testing.assert_frame_equal(other.table().sort_index(), folder.table().sort_index())


FRAMES, PARTNERS = 30, 4  # of one burst, and how many of them are paired with one of it


@pytest.mark.promise(
    "However many near-equal frames there are, no test image among them is called clean when one "
    "of them is in train."
)
def test_each_test_frame_of_a_burst_too_long_to_pair_is_marked(tmp_path, monkeypatch):
    """Two frames in train, all others in test; two more bursts, one mirrored in train; singles."""
    made = Folder(tmp_path)
    rng = np.random.default_rng(0)

    def frames(seed: int, count: int, where: str, change=lambda x: x) -> None:
        for number in range(count):
            frame = (texture(seed, 64) + rng.integers(-3, 4, (64, 64))).astype(np.uint8)
            made.save(f"{where}/{seed} {number:03}.png", change(frame), split=where)

    frames(1, 2, "train")
    frames(1, FRAMES, "test")
    frames(2, 2, "train", mirror)
    frames(2, FRAMES, "test")
    frames(3, FRAMES, "test")
    made.save("train/alone.png", texture(4, 64), split="train")
    made.save("test/alone.png", texture(5, 64), split="test")
    monkeypatch.setattr(search, "THUMBNAIL_PARTNERS", PARTNERS)
    monkeypatch.setattr(search, "STRUCTURE_PARTNERS", PARTNERS // 2)
    summary = audit_dataset("toy", params(), made.write().paths)
    table = made.table()
    assert table.filter(like="test/1", axis=0)["copy_in_train"].all()
    mirrored = table.filter(like="test/2", axis=0)
    assert mirrored["copy_in_train_any"].all() and not mirrored["copy_in_train"].any()
    for name in ("test/3", "test/alone", "train/"):
        assert not table.filter(like=name, axis=0)["copy_in_train_any"].any()
    counts = summary["test_images_with_copy_in_train"]
    assert (counts["near"], counts["any"]) == (FRAMES, 2 * FRAMES)
    assert 0 < counts["joined_by_chain"] < 2 * FRAMES


def test_a_chain_of_copies_is_followed_only_where_partners_were_left_out():
    # 0 - 1 - 2 and 3 - 4 - 5, 0 and 3 learned; 6 - 7, none learned.
    left, right = np.array([0, 1, 4, 4, 6]), np.array([1, 2, 3, 5, 7])
    learned = np.isin(np.arange(9), [0, 3])

    def joined(*cut: int) -> list[int]:
        return np.flatnonzero(joined_to(learned, left, right, np.array(cut, int))).tolist()

    assert joined() == [0, 1, 3, 4]
    assert joined(1, 7, 8) == [0, 1, 2, 3, 4]
    assert joined(5) == [0, 1, 3, 4, 5]
    part = connect(5, np.array([4, 1]), np.array([1, 0]))
    assert "".join(name_groups(pd.Series(list("ebxya")), part)) == "aaxya"


CACHE = "The audit reads only images that are new; a damaged cache is made again."


@pytest.fixture
def six(tmp_path) -> Folder:
    made = Folder(tmp_path)
    for seed in range(6):
        made.save(f"{seed}.png", texture(seed, 64), split="train" if seed % 2 else "test")
    return made.write()


def run(folder: Folder) -> dict:
    return audit_dataset("toy", params(max_failed=1.0), folder.paths)


@pytest.mark.promise(CACHE)
def test_only_new_images_are_read(six):
    assert [run(six)["thumbnails_read"] for _ in range(2)] == [6, 0]
    six.save("7.png", texture(7, 64))
    six.rows["toy"].pop(0)
    assert run(six.write())["thumbnails_read"] == 1
    assert len(six.table()) == 6


@pytest.mark.promise(CACHE)
@pytest.mark.parametrize(
    "damage", [lambda whole: b"no cache", lambda whole: whole.replace(whole[2000:2008], bytes(8))]
)
def test_a_damaged_cache_is_made_again_and_changes_no_result(six, damage):
    def outputs() -> list[bytes]:
        files = (six.paths.audit, six.paths.audit_pairs, six.paths.audit_summary)
        return [file("toy").read_bytes() for file in files]

    run(six)
    first, cache = outputs(), six.paths.thumbnails("toy")
    cache.write_bytes(damage(cache.read_bytes()))
    assert [run(six)["thumbnails_read"] for _ in range(2)] == [6, 0]
    assert outputs() == first


@pytest.mark.promise("A second audit of a dataset, here or on another host, is refused.")
def test_a_second_audit_at_the_same_time_is_refused_and_writes_nothing(six):
    lock = six.paths.audit("toy").with_name("audit.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(json.dumps({"host": "node-17", "pid": 4, "command": "pipeline audit"}))
    for audit in (run, lambda six: compare_datasets("toy", "toy", params(), six.paths)):
        with pytest.raises(StoreError, match=r"list of copies is being written by .* on node-17"):
            audit(six)
    assert list(lock.parent.iterdir()) == [lock]
    lock.unlink()
    assert run(six)["thumbnails_read"] == 6 and not lock.exists()


def test_unreadable_images_are_named_with_the_reason_and_tried_again(six):
    six.save("page.png", b"<html>no image</html>", split="test")
    six.save("page too.png", b"<html>no image</html>", split="train")
    six.save("gone.png", texture(9, 64))
    six.save("twin.png", texture(3, 64), split="test")  # of 3.png, which changes
    gone, other, changed = (six.paths.data("toy") / f"{n}.png" for n in ("gone", "2", "3"))
    content = gone.read_bytes()
    gone.unlink()
    changed.write_bytes(other.read_bytes())
    unreadable = run(six.write())["unreadable"]
    assert set(unreadable) == {"page.png", "page too.png", "gone.png", "3.png"}
    assert "does not exist" in unreadable["gone.png"] and "data refresh" in unreadable["3.png"]
    saved = json.loads(six.paths.audit_summary("toy").read_text())
    assert saved["unreadable"] == unreadable
    assert six.table().loc["page.png", "copy_in_train"]  # the same bytes all the same
    assert not six.table().loc["2.png", "copy_in_train"]  # of which "3.png" has a copy now
    gone.write_bytes(content)
    summary = run(six)
    assert summary["thumbnails_read"] == 1 and "gone.png" not in summary["unreadable"]


@pytest.mark.parametrize("image", [b"<html>no image</html>", np.full((9, 9), 7, np.uint8)])
def test_a_set_of_which_nothing_can_be_compared_says_so(tmp_path, image):
    made, named, read = Folder(tmp_path), ["0.png", "1.png"], not isinstance(image, bytes)
    for at in range(2):
        made.save(f"{at}.png", image, split=("train", "test")[at])
    made.save("texture.png", texture(1), dataset="other")
    made.write()
    with nullcontext() if read else pytest.raises(StageFailed, match="2 of 2 images failed"):
        audit_dataset("toy", params(), made.paths)
    summary = json.loads(made.paths.audit_summary("toy").read_text())
    assert (summary["blank"], list(summary["unreadable"])) == ((named, []) if read else ([], named))
    assert summary["pairs"] == {"byte": 1, "near": 0, "mirror": 0, "turn": 0}
    assert compare_datasets("other", "toy", params(), made.paths).empty


@pytest.mark.promise("Bytes that change under the same name are noticed by all who read them.")
def test_an_image_of_other_bytes_is_named_though_its_thumbnail_is_cached(six):
    run(six)
    row = six.rows["toy"][0]
    file = six.paths.data("toy") / row["path"]
    good = file.read_bytes()
    file.write_bytes(good + b"x")
    ((image_id, why),) = run(six)["unreadable"].items()
    assert image_id == row["image_id"] and "data refresh" in why
    file.unlink()
    file.write_bytes(good)  # put back, with another inode and time
    summary = run(six)
    assert not summary["unreadable"] and summary["thumbnails_read"] == 0


def test_frames_of_one_file_are_images_of_their_own(six):
    pages = [Image.fromarray(texture(seed, 64)) for seed in (20, 21)]
    file = six.paths.data("toy") / "pages.tif"
    pages[0].save(file, save_all=True, append_images=pages[1:])
    six.save("first.png", texture(20, 64), split="train")
    six.save("pages.tif", file.read_bytes(), split="test")
    six.rows["toy"].append(six.rows["toy"][-1] | {"image_id": "pages.tif#1", "frame": 1})
    run(six.write())
    table = six.table()
    assert table.loc["pages.tif", "near_group"] == "first.png"
    assert table.loc["pages.tif", "copy_in_train"]
    assert not table.loc["pages.tif#1", "copy_in_train_any"]
    assert table.loc["pages.tif#1", "exact_group"] == "pages.tif#1"


def test_thumbnails_in_a_file_and_read_in_parts_give_the_same_tables(folder, tmp_path, monkeypatch):
    shutil.copytree(folder.paths.root, tmp_path, dirs_exist_ok=True)
    paths = Paths(tmp_path)
    files = (paths.audit, paths.audit_pairs, paths.audit_summary, paths.thumbnails)
    before = [file("toy").read_bytes() for file in files]
    for name, value in {"IN_MEMORY": 0, "CHUNK": 3}.items():
        monkeypatch.setattr(f"pipeline.audit.thumbnails.{name}", value)
    for lost in (True, False):  # all are read again, or none
        if lost:
            paths.thumbnails("toy").write_bytes(before[3][:-50])
        found = audit_dataset("toy", params(), paths)
        assert found["thumbnails_read"] == 9 * lost  # three of the 11 have the same bytes
        assert [file("toy").read_bytes() for file in files[:3]] == before[:3]
    with np.load(paths.thumbnails("toy")) as now, np.load(folder.paths.thumbnails("toy")) as then:
        assert all(np.array_equal(now[name], then[name]) for name in then)
