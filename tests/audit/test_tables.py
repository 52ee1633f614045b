"""What audit.parquet, audit_pairs.parquet and audit.json say about small known datasets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.audit import audit_dataset, audit_text, search
from pipeline.audit.table import COLUMNS, connect, joined_to, name_groups
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
    made.save("elsewhere/four.png", texture(4), label="a")
    made.save("test/four.png", texture(4), split="test", label="a")
    made.save("test/alone, mirrored.png", mirror(texture(5)), split="test", label="a")
    made.save("train/alone.png", texture(5), split="train", label="b")
    made.summary = audit_dataset("toy", params(), made.write().paths)
    return made


@pytest.mark.promise("A test image counts as leaked by copies of training and validation images.")
def test_leaks_are_copies_of_training_and_validation_images_only(folder):
    table = folder.table()
    leaks = {"test/one.png", "test/one, gamma.png", "test/two.png"}
    assert set(table.index[table["copy_in_train"]]) == leaks
    leaks |= {"test/one, mirrored.png", "test/alone, mirrored.png"}
    assert set(table.index[table["copy_in_train_any"]]) == leaks
    named = folder.summary["leaks"]
    assert [leak["kind"] for leak in named[:3]] == ["byte", "near", "mirror"]  # of each the best
    assert sorted(leak["test"] for leak in named) == sorted(leaks)
    assert all(leak["train"].startswith(("train", "val")) for leak in named)


@pytest.mark.promise("Copies with different labels are named.")
def test_groups_with_several_labels_are_named(folder):
    table = folder.table()
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
        listed = rows.loc[pairs[f"image_id_{side}"]]
        assert list(listed["split"]) == list(pairs[f"split_{side}"])
        assert list(listed["label"]) == list(pairs[f"label_{side}"])
    splits = [set(pair) for pair in zip(pairs["split_a"], pairs["split_b"], strict=True)]
    assert list(pairs["leak"]) == [s in ({"train", "test"}, {"val", "test"}) for s in splits]
    alone = Folder(tmp_path)  # without pairs the columns have the same types
    alone.save("train/one.png", texture(1), split="train", label="a")
    audit_dataset("toy", params(), alone.write().paths)
    none, some = (pq.read_schema(of.paths.audit_pairs("toy")) for of in (alone, folder))
    assert alone.pairs("toy").empty and none.types == some.types and none.names == some.names


def test_without_a_test_part_groups_are_given_and_nothing_is_said_to_be_clean(tmp_path):
    folder = Folder(tmp_path)
    for name, image in (("a", texture(1)), ("b", texture(1)), ("c", gamma(texture(1)))):
        folder.save(f"{name}.png", image)
    summary = audit_dataset("toy", params(), folder.write().paths)
    text = audit_text(summary, "pairs.parquet")
    table = folder.table()
    assert table["near_group"].eq("a.png").all() and summary["leaks"] == []
    assert not table[["copy_in_train", "copy_in_train_any"]].any(axis=None)
    assert "1 same bytes" in text and "no test part yet" in text and "pairs.parquet" in text
    assert "copy in train" not in text


def test_the_order_of_the_manifest_changes_nothing(folder, tmp_path):
    other = Folder(tmp_path)
    other.rows["toy"] = [folder.rows["toy"][at] for at in np.random.default_rng(0).permutation(13)]
    other.paths.data("toy").parent.mkdir(parents=True)
    other.paths.data("toy").symlink_to(folder.paths.data("toy"))
    audit_dataset("toy", params(), other.write().paths)
    pd.testing.assert_frame_equal(other.pairs(), folder.pairs())
    pd.testing.assert_frame_equal(other.table().sort_index(), folder.table().sort_index())


BURST = (
    "However many near-equal frames there are, no test image among them is called clean when one "
    "of them is in train."
)
FRAMES, PARTNERS = 30, 4  # of one burst, and how many of them are paired with one of it


@pytest.mark.promise(BURST)
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
    assert table.filter(like="test/1", axis=0)[["copy_in_train", "copy_in_train_any"]].all(
        axis=None
    )
    mirrored = table.filter(like="test/2", axis=0)
    assert mirrored["copy_in_train_any"].all() and not mirrored["copy_in_train"].any()
    for name in ("test/3", "test/alone", "train/"):
        assert not table.filter(like=name, axis=0)["copy_in_train_any"].any()
    counts, pairs = summary["test_images_with_copy_in_train"], made.pairs()
    assert (counts["near"], counts["any"]) == (FRAMES, 2 * FRAMES)
    paired = pd.concat([pairs["image_id_a"], pairs["image_id_b"]])[pd.concat([pairs["leak"]] * 2)]
    shown = paired[paired.str.startswith("test")].nunique()
    assert 0 < summary["joined_by_chain"] == 2 * FRAMES - shown
    assert f"{summary['joined_by_chain']} of them" in audit_text(summary, "pairs")


@pytest.mark.promise(BURST)
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
    assert list(name_groups(pd.Series(["e", "b", "x", "y", "a"]), part)) == [
        "a",
        "a",
        "x",
        "y",
        "a",
    ]
