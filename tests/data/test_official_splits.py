"""What the manifest and the leak audit decide: the publisher's parts and folds, copies, masks."""

from __future__ import annotations

import pytest

from pipeline.config import SplitsParams
from pipeline.errors import ManifestError
from pipeline.splits import plan_splits
from tests.data.split_tables import audit_of, table, units_of


def test_the_publishers_folds_are_the_folds():
    folds = [str(1 + i % 3) for i in range(30)]
    frame = table(["a", "b"] * 15, folds=folds)
    plan = plan_splits(frame, SplitsParams())
    test = plan.get("grouped", 1, 1.0).test
    assert set(frame.set_index("image_id").loc[test, "fold"]) == {"2"}
    assert any("3 folds of the publisher" in note for note in plan.notes)


def test_copies_in_other_folds_move_with_the_majority_and_are_noted():
    frame = table(["a", "b"] * 10, folds=[str(1 + i // 10) for i in range(20)])
    copies = [""] * 20
    copies[0] = copies[1] = copies[15] = "same"
    plan = plan_splits(frame, SplitsParams(), audit_of(frame, copies))
    assert "015" in plan.get("grouped", 0, 1.0).test
    assert any("1 images leave the publisher's fold" in note for note in plan.notes)


def test_ground_truth_takes_images_with_a_mask_that_is_not_empty():
    frame = table(
        ["sick", "ill", "well"] * 20,
        splits=["train"] * 45 + ["test"] * 15,
        areas=["9", "12", "0"] * 20,
    )
    plan = plan_splits(frame, SplitsParams())
    split = plan.get("ground_truth", 0, 1.0)
    used = frame.set_index("image_id").loc[[*split.train, *split.val, *split.test], "mask_area"]
    assert set(used) == {"9", "12"}
    assert len(split.test) == 10


def test_grouped_truth_tests_every_image_with_a_mask_once_and_uses_no_other():
    frame = table(
        ["sick", "ill", "well"] * 20,
        groups=[str(i // 2) for i in range(60)],
        areas=["9", "12", "0"] * 20,
    )
    plan = plan_splits(frame, SplitsParams())
    marked = set(frame.loc[frame["mask_area"] != "0", "image_id"])
    group = frame.set_index("image_id")["group"]
    tested = []
    for seed in range(5):
        split, whole = plan.get("grouped_truth", seed, 1.0), plan.get("grouped", seed, 1.0)
        learned = {*split.train, *split.val}
        assert set(split.test) == set(whole.test) & marked
        assert learned == {*whole.train, *whole.val} & marked
        assert not set(group[split.test]) & set(group[list(learned)])
        tested += list(split.test)
    assert sorted(tested) == sorted(marked)


@pytest.mark.parametrize(
    ("areas", "says"),
    [
        (["9", "", ""] * 20, "masks of fewer than two classes"),
        (["9", "9", ""] * 2 + [""] * 54, "or none in a fold"),
    ],
    ids=["one class", "too few"],
)
def test_grouped_truth_is_left_out_aloud_where_the_masks_do_not_suffice(areas, says):
    plan = plan_splits(table(["sick", "ill", "well"] * 20, areas=areas), SplitsParams())
    assert "grouped_truth" not in plan.protocols and "grouped" in plan.protocols
    assert any(note.startswith("grouped_truth") and says in note for note in plan.notes)


def test_grouped_truth_lacks_a_class_whose_masks_lie_in_one_fold():
    folds = [str(1 + i % 5) for i in range(60)]
    labels = ["a", "b", "c"] * 20
    lone = [label == "c" and fold != "2" for label, fold in zip(labels, folds, strict=True)]
    frame = table(labels, folds=folds, areas=["" if gone else "9" for gone in lone])
    plan = plan_splits(frame, SplitsParams())
    of = frame.set_index("image_id")["label"]
    for seed in range(5):
        split = plan.get("grouped_truth", seed, 1.0)
        assert set(of[[*split.train, *split.val, *split.test]]) == {"a", "b"}
    assert "grouped_truth: without 'c'" in plan.notes


def test_without_masks_there_is_no_ground_truth_protocol_and_asking_says_why():
    plan = plan_splits(table(["a", "b"] * 10), SplitsParams())
    assert plan.protocols == ("official", "grouped")
    with pytest.raises(ManifestError, match="no protocol 'ground_truth' here"):
        plan.get("ground_truth", 0, 1.0)


LEAKY = table(["a", "b"] * 10, splits=["train"] * 14 + ["test"] * 6)


COPIES = ["x", "y", *[""] * 13, "x", "y", "", "", ""]  # 000 = 015, 001 = 016


@pytest.mark.promise("splits.on_leak decides which side of a leak is left out of training or test.")
@pytest.mark.parametrize(
    ("on_leak", "gone_from_train", "gone_from_test"),
    [
        ("warn", set(), set()),
        ("drop-test", set(), {"015", "016"}),
        ("drop-train", {"000", "001"}, set()),
    ],
)
def test_on_leak_drops_copies_from_the_side_it_names(on_leak, gone_from_train, gone_from_test):
    plan = plan_splits(LEAKY, SplitsParams(on_leak=on_leak), audit_of(LEAKY, COPIES))
    split = plan.get("official", 0, 1.0)
    ids = LEAKY["image_id"]
    assert set(split.train) | set(split.val) == set(ids[:14]) - gone_from_train
    assert set(split.test) == set(ids[14:]) - gone_from_test


@pytest.mark.parametrize("on_leak", ["warn", "drop-test", "drop-train"])
@pytest.mark.promise(
    "A patient in the publisher's train and val parts is noted, and left out of val unless "
    "splits.on_leak is warn."
)
def test_val_images_of_a_unit_in_train_are_noted_and_dropped_on_request(on_leak):
    patients = [f"P{i}" for i in range(36)]
    patients[20] = patients[0]  # a val image of a patient in train
    frame = table(
        ["a", "b"] * 18,
        patients=patients,
        splits=["train"] * 20 + ["val"] * 8 + ["test"] * 8,
    )
    plan = plan_splits(frame, SplitsParams(on_leak=on_leak), audit_of(frame, [""] * 36))
    split = plan.get("official", 0, 1.0)
    assert any("1 val images that belong with one in train" in note for note in plan.notes)
    assert ("020" in split.val) == (on_leak == "warn")
    assert set(split.val) - {"020"} == {f"{i:03d}" for i in range(21, 28)}


@pytest.mark.promise(
    "No patient, group, file or copy is on both sides of a validation or test part made here."
)
def test_regroup_makes_a_test_part_without_any_copy_in_train():
    plan = plan_splits(LEAKY, SplitsParams(on_leak="regroup"), audit_of(LEAKY, COPIES))
    split = plan.get("official", 0, 1.0)
    assert not set(units_of(plan, split.test)) & set(units_of(plan, [*split.train, *split.val]))
    assert len(split.test) + len(split.train) + len(split.val) == 20


@pytest.mark.promise("splits.on_leak decides which side of a leak is left out of training or test.")
@pytest.mark.parametrize(
    ("on_leak", "side", "gone"),
    [("drop-test", "test", {"017", "018", "019"}), ("drop-train", "train", {"000", "001", "002"})],
)
@pytest.mark.parametrize("tie", ["patients", "groups", "copies", "files", "chain"])
def test_on_leak_drops_what_is_on_both_sides_from_the_side_it_names(tie, on_leak, side, gone):
    """Images 0 to 2 belong with 17 to 19; image 3 is of the same unit as 4, both in train."""
    names = ["p", "q", "r", "s", "s", *[""] * 12, "p", "q", "r"]
    ties = {"patients": names, "groups": names}
    if tie == "chain":  # 0 and 19 share neither patient nor group, but each with another
        ties = {"patients": ["p", "p", *[""] * 16, "z", "z"], "groups": ["", "x", "x", *[""] * 17]}
        ties["groups"][17] = ties["groups"][18] = "x"
    frame = table(
        ["a", "b"] * 10,
        splits=["train"] * 14 + ["test"] * 6,
        **(ties if tie == "chain" else {tie: ties[tie]} if tie in ties else {}),
    )
    if tie == "files":
        frame["path"] = [n or f"{i}.png" for i, n in enumerate(names)]
        frame["frame"] = [str(i) for i in range(20)]
    audit = audit_of(frame, names if tie == "copies" else [""] * 20)
    plan = plan_splits(frame, SplitsParams(on_leak=on_leak), audit)
    split = plan.get("official", 0, 1.0)
    ids = frame["image_id"]
    whole = {"train": set(ids[:14]), "test": set(ids[14:])}
    assert set(split.test) == whole["test"] - gone
    assert {*split.train, *split.val} == whole["train"] - gone
    note = f"3 {side} images that belong with one in {'train' if side == 'test' else 'test'} "
    assert sum(note in n and n.endswith("are left out") for n in plan.notes) == 1


def test_on_leak_without_an_audit_says_what_to_run():
    with pytest.raises(ManifestError, match="pipeline data check"):
        plan_splits(LEAKY, SplitsParams(on_leak="drop-test"))


@pytest.mark.promise("A leak audit of other images or other bytes is refused.")
def test_an_audit_of_other_images_is_refused():
    audit = audit_of(LEAKY, COPIES)
    with pytest.raises(ManifestError, match="does not know 1 images"):
        plan_splits(LEAKY, SplitsParams(), audit.iloc[1:])
    audit.loc[3, "sha256"] = "f" * 64
    with pytest.raises(ManifestError, match="other bytes"):
        plan_splits(LEAKY, SplitsParams(), audit)


def test_a_class_that_test_lacks_is_noted_and_one_that_train_lacks_is_an_error():
    splits = ["test" if i in (0, 2, 4) else "train" for i in range(20)]
    plan = plan_splits(table(["a", "b"] * 10, splits=splits), SplitsParams())
    assert "official: class 'b' has no test image" in plan.notes
    splits = ["test" if i % 2 else "train" for i in range(20)]
    with pytest.raises(ManifestError, match="no training image of class 'b'"):
        plan_splits(table(["a", "b"] * 10, splits=splits), SplitsParams())


def test_images_without_a_split_take_no_part_where_others_have_one():
    splits = ["train"] * 12 + ["test"] * 6 + [""] * 2
    plan = plan_splits(table(["a", "b"] * 10, splits=splits), SplitsParams())
    split = plan.get("official", 0, 1.0)
    assert not {"018", "019"} & {*split.train, *split.val, *split.test}


def test_a_val_part_of_the_manifest_stays_the_val_part():
    splits = ["train"] * 12 + ["val"] * 4 + ["test"] * 4
    frame = table(["a", "b"] * 10, splits=splits)
    split = plan_splits(frame, SplitsParams()).get("official", 0, 1.0)
    assert set(split.val) == set(frame["image_id"][12:16])
    assert set(split.train) == set(frame["image_id"][:12])


@pytest.mark.promise(
    "Few-shot draws are whole patients, groups and copies, as near to their share as possible."
)
def test_copies_with_other_labels_are_drawn_together():
    frame = table(["a", "b"] * 40, splits=["train"] * 78 + ["test"] * 2)
    copies = [f"pair {i // 2}" if i < 78 else "" for i in range(80)]
    plan = plan_splits(frame, SplitsParams(), audit_of(frame, copies))
    split = plan.get("official", 0, 0.1)
    drawn = {*split.train, *split.val}
    assert len(drawn) < 20
    assert all(
        ({f"{i:03d}", f"{i + 1:03d}"} <= drawn) or f"{i:03d}" not in drawn for i in range(0, 78, 2)
    )


@pytest.mark.promise("Images that say train are never tested.")
def test_images_that_say_train_are_never_tested_where_no_image_says_test():
    frame = table(["a", "b"] * 10, splits=["train"] * 20)
    plan = plan_splits(frame, SplitsParams())
    split = plan.get("official", 0, 1.0)
    assert len(split.test) == 0
    assert {*split.train, *split.val} == set(frame["image_id"])
    assert any("no image says test" in note for note in plan.notes)
    some = plan_splits(frame, SplitsParams(on_leak="regroup"), audit_of(frame, [""] * 20))
    assert len(some.get("official", 0, 1.0).test) == 4


@pytest.mark.promise(
    "No patient, group, file or copy is on both sides of a validation or test part made here."
)
@pytest.mark.parametrize("tie", ("patients", "groups", "copies", "files"))
def test_images_of_one_patient_group_picture_or_file_are_never_in_two_parts(tie):
    names = [f"unit {i // 3}" for i in range(90)]
    labels = ["ab"[i // 3 % 2] for i in range(90)]
    frame = table(labels, **({tie: names} if tie in ("patients", "groups") else {}))
    if tie == "files":  # the slices of 30 volumes
        frame["path"] = [f"{name}.nii" for name in names]
        frame["frame"] = [str(i % 3) for i in range(90)]
    audit = audit_of(frame, names if tie == "copies" else [""] * 90)
    unit = dict(zip(frame["image_id"], names, strict=True))
    for on_leak in ("warn", "regroup"):
        plan = plan_splits(frame, SplitsParams(on_leak=on_leak), audit)
        for protocol in ("official", "grouped"):
            for fraction in (0.2, 1.0):
                split = plan.get(protocol, 0, fraction)
                parts = [{unit[i] for i in ids} for ids in (split.train, split.val, split.test)]
                assert all(parts)
                assert sum(map(len, parts)) == len(set.union(*parts))
