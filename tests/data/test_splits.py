"""Properties that every split of every manifest has, and what manifest and leak audit decide."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from pipeline.config import SplitsParams
from pipeline.errors import ManifestError
from pipeline.splits import SplitPlan
from tests.data.split_tables import audit_of, table

QUICK = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
STABLE = "Draws are nested over fractions; splits depend on ids, labels, groups and seed only."
APART = "No patient, group, file or copy is on both sides of a validation or test part made here."
WHOLE = "Few-shot draws are whole patients, groups and copies, as near to their share as possible."
ON_LEAK = "splits.on_leak decides which side of a leak is left out of training or test."


@st.composite
def manifests(draw):
    n = draw(st.integers(8, 40))
    classes = draw(st.sampled_from([["a", "b"], ["NA", "007", "True"], ["x", "y", "z", "w"]]))
    labels = [draw(st.sampled_from(classes)) for _ in range(n)]
    groups = [draw(st.sampled_from(["", *map(str, range(n // 2))])) for _ in range(n)]
    patients = [
        draw(st.sampled_from(["", "", *(f"p{i}" for i in range(n // 3))])) for _ in range(n)
    ]
    given_ = draw(st.booleans())
    splits = [draw(st.sampled_from(["train", "train", "test"])) if given_ else "" for _ in range(n)]
    return table(labels, groups=groups, patients=patients, splits=splits)


def plan_of(frame, **params):
    try:
        return SplitPlan(frame, SplitsParams(**params))
    except ManifestError as error:
        assert "no training image of class" in str(error)
        reject()


@pytest.mark.promise(STABLE)
@pytest.mark.promise(APART)
@pytest.mark.promise(WHOLE)
@QUICK
@given(manifests(), st.integers(0, 3))
def test_parts_are_disjoint_nested_whole_and_as_near_to_their_share_as_units_allow(frame, seed):
    plan = plan_of(frame)
    unit, label = plan.units, dict(zip(frame["image_id"], frame["label"], strict=True))
    for protocol in plan.protocols:
        whole = plan.get(protocol, seed, 1.0)
        pool, smaller = [*whole.train, *whole.val], None
        for fraction in plan.fractions:
            split = plan.get(protocol, seed, fraction)
            train, val, test = map(set, (split.train, split.val, split.test))
            assert len(train) + len(val) + len(test) == len(train | val | test)
            if smaller is not None:
                assert smaller[0] <= train and smaller[1] <= val and smaller[2] == test
            smaller = train, val, test
            taken = {unit[i] for i in train | val}
            assert not {unit[i] for i in train} & {unit[i] for i in val}
            if protocol == "grouped" or not (frame["split"] == "test").any():
                assert not taken & {unit[i] for i in test}
            assert train | val == {i for i in pool if unit[i] in taken}
            assert {label[i] for i in train} == {label[i] for i in pool}
            if any(len({label[i] for i in pool if unit[i] == u}) > 1 for u in unit.values()):
                continue  # units of several classes come along with another class
            for name in {label[i] for i in pool}:
                mine = [i for i in pool if label[i] == name]
                sizes = pd.Series([unit[i] for i in mine]).value_counts()
                wanted = max(1, int(fraction * len(mine) + 0.5))
                drawn = [unit[i] for i in train | val if label[i] == name]
                assert min(wanted, 2, len(sizes)) <= len(set(drawn))
                # Half a unit off at most, or the two units that train and val need.
                off = abs(len(drawn) - wanted)
                assert off <= max(sizes.max() / 2, sizes.max() * 2 - wanted)
                assert off == 0 or sizes.max() > 1


SHOTS = {"balanced": (1, 2, 6), "realistic": (1, 2, 6)}


@pytest.mark.promise(
    "K shots are K images of each class, or of each class in its share; draws are nested, of as "
    "many patients as there are, and no patient is in two parts."
)
@QUICK
@given(manifests(), st.integers(0, 3))
def test_shots_are_nested_apart_of_distinct_units_and_as_many_as_asked(frame, seed):
    plan = plan_of(frame, shots=SHOTS)
    unit, label = plan.units, dict(zip(frame["image_id"], frame["label"], strict=True))

    def of_class(ids, name):
        return [i for i in ids if label[i] == name]

    for protocol in {"official", "grouped"} & {*plan.protocols}:
        whole = plan.get(protocol, seed, 1.0)
        classes = {label[i] for i in whole.train}
        names = plan.few_shot(protocol)
        assert names[::5] == [f"{protocol}-1-shot", f"{protocol}-6-shot-realistic"]
        for realistic, mine in ((False, names[:3]), (True, names[3:])):
            smaller = set(), set()
            for k, name in zip((1, 2, 6), mine, strict=True):
                split = plan.get(name, seed)
                train, val = set(split.train), set(split.val)
                assert smaller[0] <= train <= {*whole.train} and smaller[1] <= val <= {*whole.val}
                assert split.test.tolist() == whole.test.tolist()
                assert not {unit[i] for i in train} & {unit[i] for i in val}
                smaller = train, val
                for one in classes:
                    there = of_class(whole.train, one)
                    share = len(there) / len(whole.train) * len(classes)
                    wanted = min(max(1, int(k * share + 0.5)) if realistic else k, len(there))
                    drawn = of_class(train, one)
                    assert len(drawn) == wanted
                    units = {unit[i] for i in there}
                    assert len({unit[i] for i in drawn}) == min(wanted, len(units))
                    limit = 0 if realistic else min(k, 4)
                    assert len(of_class(val, one)) == min(limit, len(of_class(whole.val, one)))


def test_large_patients_are_drawn_no_sooner_than_small_ones():
    # 40 patients of one image, 10 of eight: if images were shuffled, the large would come first.
    patients = [f"s{i}" for i in range(40)] + [f"l{i // 8}" for i in range(80)]
    frame = table(["a"] * 120 + ["b"] * 2, patients=[*patients, "x", "y"])
    frame["split"] = ["train"] * 121 + ["test"]
    plan = SplitPlan(frame, SplitsParams())
    first, units = 0, plan.units
    for seed in range(100):
        split = plan.get("official", seed, 0.2)
        drawn = {*split.train, *split.val} & set(frame["image_id"][:120])
        first += len({units[i] for i in drawn if units[i] >= "040"})
    # 24 images of 120 in units of 2.4 on average: 10 units, of which a fifth are large.
    assert 1.0 < first / 100 < 3.0


@pytest.mark.promise(STABLE)
@QUICK
@given(manifests(), st.randoms(use_true_random=False))
def test_splits_do_not_depend_on_row_order_or_on_what_groups_are_called(frame, random):
    plan = plan_of(frame)
    order = list(range(len(frame)))
    random.shuffle(order)
    other = frame.iloc[order].reset_index(drop=True)
    other["group"] = [f"renamed {g}" if g else "" for g in other["group"]]
    again = SplitPlan(other, SplitsParams())
    assert again.protocols == plan.protocols
    for protocol in plan.protocols:
        a, b = plan.get(protocol, 1, 0.1), again.get(protocol, 1, 0.1)
        for part in ("train", "val", "test"):
            assert getattr(a, part).tolist() == getattr(b, part).tolist()
            assert getattr(a, part).tolist() == sorted(getattr(a, part))


def test_seeds_differ_in_the_draw_but_not_in_the_official_test_part():
    plan = SplitPlan(table(["common"] * 80 + ["rare"] * 20), SplitsParams(test=0.25))
    one, two = plan.get("official", 0, 0.1), plan.get("official", 1, 0.1)
    assert one.test.tolist() == two.test.tolist()
    assert set(one.train) != set(two.train)
    assert (sum(one.test < "080"), sum(one.test >= "080")) == (20, 5)


def test_small_and_large_patients_are_parted_alike_between_train_and_val():
    # Half the images are of 200 patients with one, half of 20 patients with ten.
    patients = [f"s{i}" for i in range(200)] + [f"l{i // 10}" for i in range(200)]
    frame = table(["a"] * 400 + ["b"] * 10, patients=[*patients, *map(str, range(10))])
    frame["split"] = ["train"] * 409 + ["test"]
    plan = SplitPlan(frame, SplitsParams(val=0.2))
    shares = []
    for seed in range(20):
        val = np.array(plan.get("official", seed, 1.0).val, dtype=str)
        val = val[val < "400"]
        assert len(val) == pytest.approx(80, abs=10)
        shares.append((val < "200").mean())
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)


@pytest.mark.promise("Grouped cross-validation tests every image once.")
def test_the_grouped_folds_cover_every_image_once_and_truth_every_one_with_a_mask():
    groups, areas = [str(i // 2) for i in range(60)], ["9", "12", "0"] * 20
    frame = table(["sick", "ill", "well"] * 20, groups=groups, areas=areas)
    plan = SplitPlan(frame, SplitsParams())
    marked = set(frame.loc[frame["mask_area"] != "0", "image_id"])
    group = frame.set_index("image_id")["group"]
    tested = {"grouped": [], "grouped_truth": []}
    for seed in range(5):
        split, whole = plan.get("grouped_truth", seed, 1.0), plan.get("grouped", seed, 1.0)
        learned = {*split.train, *split.val}
        assert learned == {*whole.train, *whole.val} & marked
        assert not set(group[split.test]) & set(group[list(learned)])
        tested["grouped"] += list(whole.test)
        tested["grouped_truth"] += list(split.test)
    assert sorted(tested["grouped"]) == sorted(frame["image_id"])
    assert sorted(tested["grouped_truth"]) == sorted(marked)


def test_a_class_of_one_patient_is_trained_on_and_never_tested():
    frame = table(["a"] * 20 + ["b"] * 6, patients=[f"p{i}" for i in range(20)] + ["q"] * 6)
    plan = SplitPlan(frame, SplitsParams())
    for seed in range(5):
        assert {"020", "025"} <= set(plan.get("grouped", seed, 1.0).train)
    assert any("class 'b' is never tested" in note for note in plan.notes)


def test_export_lists_every_part_and_its_hash_changes_with_the_bytes_of_one_image(tmp_path):
    frame = table(["a", "b"] * 20)
    plan = SplitPlan(frame, SplitsParams(), seeds=(0, 1))
    plan.export(tmp_path / "splits.csv")
    rows = pd.read_csv(tmp_path / "splits.csv", dtype=str)
    sums = pd.read_csv(tmp_path / "splits.sha256.csv", dtype=str)
    chosen = rows[(rows["protocol"] == "official") & (rows["seed"] == "1")]
    small = chosen[(chosen["part"] != "test") & (chosen["from_fraction"].astype(float) <= 0.2)]
    split = plan.get("official", 1, 0.2)
    assert set(small["image_id"]) == {*split.train, *split.val}
    frame.loc[frame["image_id"] == split.train[0], "sha256"] = "e" * 64
    SplitPlan(frame, SplitsParams(), seeds=(0, 1)).export(tmp_path / "other.csv")
    other = pd.read_csv(tmp_path / "other.sha256.csv", dtype=str)
    same = sums["sha256"] == other["sha256"]
    where = (sums["protocol"] == "official") & (sums["seed"] == "1") & (sums["fraction"] == "0.2")
    assert same[where & (sums["part"] == "test")].all()
    assert not same[where & (sums["part"] == "train")].any()


# -- what the publisher and the leak audit decide --------------------------------------------------


def test_the_publishers_folds_are_the_folds_and_copies_move_to_that_of_the_majority():
    frame = table(["a", "b"] * 15, folds=[str(1 + i % 3) for i in range(30)])
    copies = [""] * 30
    copies[0] = copies[3] = copies[1] = "same"
    plan = SplitPlan(frame, SplitsParams(), audit_of(frame, copies))
    test = plan.get("grouped", 0, 1.0).test
    assert set(test) == {*frame.loc[frame["fold"] == "1", "image_id"], "001"}
    assert any("3 folds of the publisher" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("areas", "left"),
    [
        (["9", "", ""] * 20, ("official", "grouped")),
        (["9", "9", ""] * 2 + [""] * 54, ("official", "grouped")),
        (["9", "12", "0"] * 20, ("official", "grouped", "ground_truth", "grouped_truth")),
        (None, ("official", "grouped")),
    ],
    ids=["one class", "too few", "enough", "none"],
)
def test_protocols_of_ground_truth_are_left_out_aloud_where_the_masks_do_not_suffice(areas, left):
    splits = ["train"] * 45 + ["test"] * 15
    frame = table(["sick", "ill", "well"] * 20, areas=areas, splits=splits)
    plan = SplitPlan(frame, SplitsParams())
    assert plan.protocols == left
    if "ground_truth" in left:
        split = plan.get("ground_truth", 0, 1.0)
        used = frame.set_index("image_id").loc[[*split.train, *split.val, *split.test]]
        assert set(used["mask_area"]) == {"9", "12"} and len(split.test) == 10
        return
    with pytest.raises(ManifestError, match="no protocol 'ground_truth' here"):
        plan.get("ground_truth", 0, 1.0)
    said = any("grouped_truth: masks of fewer than two classes" in note for note in plan.notes)
    assert said == (areas is not None)


def test_grouped_truth_lacks_a_class_whose_masks_lie_in_one_fold():
    folds = [str(1 + i % 5) for i in range(60)]
    labels = ["a", "b", "c"] * 20
    lone = [label == "c" and fold != "2" for label, fold in zip(labels, folds, strict=True)]
    frame = table(labels, folds=folds, areas=["" if gone else "9" for gone in lone])
    plan = SplitPlan(frame, SplitsParams())
    of = frame.set_index("image_id")["label"]
    for seed in range(5):
        split = plan.get("grouped_truth", seed, 1.0)
        assert set(of[[*split.train, *split.val, *split.test]]) == {"a", "b"}
    assert "grouped_truth: without 'c'" in plan.notes


LEAKY = table(["a", "b"] * 10, splits=["train"] * 14 + ["test"] * 6)
TIES = ("patients", "groups", "copies", "files")


def tied(tie: str, names: list[str], labels, **columns):
    """Return a manifest and an audit in which equal names are images of one unit."""
    frame = table(labels, **columns, **({tie: names} if tie in ("patients", "groups") else {}))
    if tie == "files":  # the slices of volumes
        frame["path"] = [n or f"{i}.png" for i, n in enumerate(names)]
        frame["frame"] = [str(i) for i in range(len(names))]
    return frame, audit_of(frame, names if tie == "copies" else [""] * len(names))


@pytest.mark.promise(ON_LEAK)
@pytest.mark.parametrize(
    ("on_leak", "gone"),
    [("warn", set()), ("drop-test", {"017", "018", "019"}), ("drop-train", {"000", "001", "002"})],
)
@pytest.mark.parametrize("tie", [*TIES, "chain"])
def test_on_leak_drops_what_is_on_both_sides_from_the_side_it_names(tie, on_leak, gone):
    """Images 0 to 2 belong with 17 to 19; image 3 is of the same unit as 4, both in train."""
    splits = list(LEAKY["split"])
    names = ["p", "q", "r", "s", "s", *[""] * 12, "p", "q", "r"]
    if tie == "chain":  # 0 and 19 share neither patient nor group, but each with another
        groups = ["", "x", "x", *[""] * 14, "x", "x", ""]
        patients = ["p", "p", *[""] * 16, "z", "z"]
        frame = table(["a", "b"] * 10, splits=splits, patients=patients, groups=groups)
        audit = audit_of(frame, [""] * 20)
    else:
        frame, audit = tied(tie, names, ["a", "b"] * 10, splits=splits)
    plan = SplitPlan(frame, SplitsParams(on_leak=on_leak), audit)
    split = plan.get("official", 0, 1.0)
    assert set(split.test) == set(frame["image_id"][14:]) - gone
    assert {*split.train, *split.val} == set(frame["image_id"][:14]) - gone
    side, other = ("test", "train") if on_leak == "drop-test" else ("train", "test")
    note = f"official: 3 {side} images that belong with one in {other} "
    told = [n for n in plan.notes if n.startswith(note) and n.endswith("are left out")]
    assert len(told) == (on_leak != "warn")


@pytest.mark.promise(
    "A patient in the publisher's train and val parts is noted, and left out of val unless "
    "splits.on_leak is warn."
)
@pytest.mark.parametrize("on_leak", ["warn", "drop-test", "drop-train"])
def test_val_images_of_a_unit_in_train_are_noted_and_dropped_on_request(on_leak):
    patients = [f"P{i}" for i in range(36)]
    patients[20] = patients[0]  # a val image of a patient in train
    splits = ["train"] * 20 + ["val"] * 8 + ["test"] * 8
    frame = table(["a", "b"] * 18, patients=patients, splits=splits)
    plan = SplitPlan(frame, SplitsParams(on_leak=on_leak), audit_of(frame, [""] * 36))
    split = plan.get("official", 0, 1.0)
    assert any("1 val images that belong with one in train" in note for note in plan.notes)
    assert ("020" in split.val) == (on_leak == "warn")
    assert set(split.val) - {"020"} == {f"{i:03d}" for i in range(21, 28)}
    assert set(split.train) == {f"{i:03d}" for i in range(20)}


@pytest.mark.promise("A leak audit of other images or other bytes is refused.")
def test_an_audit_of_other_images_is_refused_and_one_that_is_needed_asked_for():
    audit = audit_of(LEAKY, [""] * 20)
    with pytest.raises(ManifestError, match=r"of other images: 1 .*'000'"):
        SplitPlan(LEAKY, SplitsParams(), audit.iloc[1:])
    audit.loc[3, "sha256"] = "f" * 64
    with pytest.raises(ManifestError, match=r"of other images: 1 .*'003'"):
        SplitPlan(LEAKY, SplitsParams(), audit)
    with pytest.raises(ManifestError, match="pipeline audit"):
        SplitPlan(LEAKY, SplitsParams(on_leak="drop-test"))


def test_a_class_that_test_lacks_is_noted_and_one_that_train_lacks_is_an_error():
    splits = ["test" if i in (0, 2, 4) else "train" for i in range(18)] + ["", ""]
    plan = SplitPlan(table(["a", "b"] * 10, splits=splits), SplitsParams())
    assert "official: class 'b' has no test image" in plan.notes
    split = plan.get("official", 0, 1.0)  # images without a split take no part
    assert not {"018", "019"} & {*split.train, *split.val, *split.test}
    splits = ["test" if i % 2 else "train" for i in range(20)]
    with pytest.raises(ManifestError, match="no training image of class 'b'"):
        SplitPlan(table(["a", "b"] * 10, splits=splits), SplitsParams())


@pytest.mark.promise("Images that say train are never tested.")
def test_images_that_say_train_are_never_tested_where_no_image_says_test():
    frame = table(["a", "b"] * 10, splits=["train"] * 20)
    plan = SplitPlan(frame, SplitsParams())
    split = plan.get("official", 0, 1.0)
    assert len(split.test) == 0
    assert {*split.train, *split.val} == set(frame["image_id"])
    assert any("no image says test" in note for note in plan.notes)
    some = SplitPlan(frame, SplitsParams(on_leak="regroup"), audit_of(frame, [""] * 20))
    assert len(some.get("official", 0, 1.0).test) == 4


@pytest.mark.promise(APART)
@pytest.mark.parametrize("tie", TIES)
def test_images_of_one_patient_group_picture_or_file_are_never_in_two_parts(tie):
    names = [f"unit {i // 3}" for i in range(90)]
    frame, audit = tied(tie, names, ["ab"[i // 3 % 2] for i in range(90)])
    unit = dict(zip(frame["image_id"], names, strict=True))
    for on_leak in ("warn", "regroup"):
        plan = SplitPlan(frame, SplitsParams(on_leak=on_leak), audit)
        for protocol in ("official", "grouped"):
            for fraction in (0.2, 1.0):
                split = plan.get(protocol, 0, fraction)
                parts = [{unit[i] for i in ids} for ids in (split.train, split.val, split.test)]
                assert all(parts)
                assert sum(map(len, parts)) == len(set.union(*parts))
