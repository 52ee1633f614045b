"""Properties that every split of every manifest has."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import SplitsParams
from pipeline.errors import ManifestError
from pipeline.manifest import read_manifest
from pipeline.splits import plan_splits
from tests.data.split_tables import table, units_of

QUICK = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))


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


def plan_or_none(frame, params=None):
    params = params or SplitsParams()
    try:
        return plan_splits(frame, params)
    except ManifestError as error:
        assert "no training image of class" in str(error)
        return None


@pytest.mark.promise(
    "Draws are nested over fractions; splits depend on ids, labels, groups and seed only."
)
@QUICK
@given(manifests(), st.integers(0, 3))
def test_train_val_and_test_are_disjoint_and_nested_over_fractions(frame, seed):
    plan = plan_or_none(frame)
    if plan is None:
        return
    for protocol in plan.protocols:
        smaller = None
        for fraction in plan.fractions:
            split = plan.get(protocol, seed, fraction)
            parts = [set(split.train), set(split.val), set(split.test)]
            assert sum(map(len, parts)) == len(set().union(*parts))
            if smaller is not None:
                assert set(smaller.train) <= parts[0]
                assert set(smaller.val) <= parts[1]
                assert set(smaller.test) == parts[2]
            smaller = split


@pytest.mark.promise(
    "No patient, group, file or copy is on both sides of a validation or test part made here."
)
@QUICK
@given(manifests(), st.integers(0, 3), st.sampled_from([0.05, 0.3, 1.0]))
def test_no_unit_is_in_both_train_and_val_nor_in_a_test_part_that_is_ours(frame, seed, fraction):
    plan = plan_or_none(frame)
    if plan is None:
        return
    official = (frame["split"] == "test").any()
    for protocol in plan.protocols:
        split = plan.get(protocol, seed, fraction)
        train, val, test = (
            set(units_of(plan, ids)) for ids in (split.train, split.val, split.test)
        )
        assert not train & val
        if protocol == "grouped" or not official:
            assert not (train | val) & test


@pytest.mark.promise(
    "Few-shot draws are whole patients, groups and copies, as near to their share as possible."
)
@QUICK
@given(manifests(), st.integers(0, 3), st.sampled_from([0.05, 0.2, 0.5, 1.0]))
def test_shots_are_whole_units_of_every_class_as_near_to_its_share_as_units_allow(
    frame, seed, fraction
):
    plan = plan_or_none(frame)
    if plan is None:
        return
    label = dict(zip(frame["image_id"], frame["label"], strict=True))
    for protocol in plan.protocols:
        whole = plan.get(protocol, seed, 1.0)
        pool = [*whole.train, *whole.val]
        split = plan.get(protocol, seed, fraction)
        drawn = [*split.train, *split.val]
        unit = dict(zip(pool, units_of(plan, pool), strict=True))
        taken = {unit[i] for i in drawn}
        assert set(drawn) == {i for i in pool if unit[i] in taken}
        assert {label[i] for i in split.train} == {label[i] for i in pool}
        mixed = {u for u in unit.values() if len({label[i] for i in pool if unit[i] == u}) > 1}
        if mixed:  # these come along with another class
            continue
        for name in {label[i] for i in pool}:
            mine = [i for i in pool if label[i] == name]
            sizes = pd.Series([unit[i] for i in mine]).value_counts()
            wanted = max(1, int(fraction * len(mine) + 0.5))
            have = sum(label[i] == name for i in drawn)
            assert min(wanted, 2, len(sizes)) <= len({unit[i] for i in drawn if label[i] == name})
            # Half a unit off at most, or the two units that train and val need.
            assert abs(have - wanted) <= max(sizes.max() / 2, sizes.max() * 2 - wanted)
            if sizes.max() == 1:
                assert have == wanted


@pytest.mark.promise(
    "Few-shot draws are whole patients, groups and copies, as near to their share as possible."
)
def test_a_fraction_takes_all_images_of_a_patient_or_none():
    patients = [f"p{i // 6}" for i in range(240)]
    frame = table(["a"] * 120 + ["b"] * 120, patients=patients)
    plan = plan_splits(frame, SplitsParams())
    for fraction in (0.05, 0.1, 0.2, 0.5):
        split = plan.get("official", 0, fraction)
        counts = pd.Series(units_of(plan, [*split.train, *split.val])).value_counts()
        assert set(counts) == {6}


def test_large_patients_are_drawn_no_sooner_than_small_ones():
    # 40 patients of one image, 10 of eight: if images were shuffled, the large would come first.
    patients = [f"s{i}" for i in range(40)] + [f"l{i // 8}" for i in range(80)]
    frame = table(["a"] * 120 + ["b"] * 2, patients=[*patients, "x", "y"])
    frame["split"] = ["train"] * 121 + ["test"]
    plan = plan_splits(frame, SplitsParams())
    first = 0
    for seed in range(200):
        split = plan.get("official", seed, 0.2)
        drawn = {*split.train, *split.val} & set(frame["image_id"][:120])
        first += len({u for u in units_of(plan, sorted(drawn)) if u >= "040"})
    # 24 images of 120 in units of 2.4 on average: 10 units, of which a fifth are large.
    assert 1.0 < first / 200 < 3.0


@pytest.mark.promise(
    "Draws are nested over fractions; splits depend on ids, labels, groups and seed only."
)
@QUICK
@given(manifests(), st.randoms(use_true_random=False))
def test_splits_do_not_depend_on_row_order_or_on_what_groups_are_called(frame, random):
    plan = plan_or_none(frame)
    if plan is None:
        return
    order = list(range(len(frame)))
    random.shuffle(order)
    other = frame.iloc[order].reset_index(drop=True)
    other["group"] = [f"renamed {g}" if g else "" for g in other["group"]]
    again = plan_splits(other, SplitsParams())
    assert again.protocols == plan.protocols
    for protocol in plan.protocols:
        for fraction in (0.1, 1.0):
            a, b = plan.get(protocol, 1, fraction), again.get(protocol, 1, fraction)
            for part in ("train", "val", "test"):
                assert getattr(a, part).tolist() == getattr(b, part).tolist()
                assert getattr(a, part).tolist() == sorted(getattr(a, part))


def test_seeds_differ_in_the_draw_but_not_in_the_official_test_part():
    frame = table(["a", "b"] * 50)
    plan = plan_splits(frame, SplitsParams())
    one, two = plan.get("official", 0, 0.1), plan.get("official", 1, 0.1)
    assert one.test.tolist() == two.test.tolist()
    assert set(one.train) != set(two.train)


def test_small_and_large_patients_are_parted_alike_between_train_and_val():
    # Half the images are of 200 patients with one, half of 20 patients with ten.
    patients = [f"s{i}" for i in range(200)] + [f"l{i // 10}" for i in range(200)]
    frame = table(["a"] * 400 + ["b"] * 10, patients=[*patients, *map(str, range(10))])
    frame["split"] = ["train"] * 409 + ["test"]
    plan = plan_splits(frame, SplitsParams(val=0.2))
    shares = []
    for seed in range(20):
        val = np.array(plan.get("official", seed, 1.0).val, dtype=str)
        val = val[val < "400"]
        assert len(val) == pytest.approx(80, abs=10)
        shares.append((val < "200").mean())
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)


@pytest.mark.promise("Grouped cross-validation tests every image once.")
def test_the_grouped_folds_cover_every_image_once_as_test():
    frame = table(["a", "b", "c"] * 20, groups=[str(i // 4) for i in range(60)])
    plan = plan_splits(frame, SplitsParams())
    tested = [i for seed in range(5) for i in plan.get("grouped", seed, 1.0).test]
    assert sorted(tested) == sorted(frame["image_id"])


def test_a_taken_test_part_has_its_share_of_every_class():
    frame = table(["common"] * 80 + ["rare"] * 20)
    plan = plan_splits(frame, SplitsParams(test=0.25))
    labels = pd.Series(plan.get("official", 0, 1.0).test).map(
        dict(zip(frame["image_id"], frame["label"], strict=True))
    )
    assert labels.value_counts().to_dict() == {"common": 20, "rare": 5}


def test_val_has_about_its_share_and_every_class_with_two_shots():
    frame = table(["a"] * 100 + ["b"] * 40, splits=["train"] * 139 + ["test"])
    plan = plan_splits(frame, SplitsParams(val=0.2))
    for fraction in (0.05, 0.1, 0.5, 1.0):
        split = plan.get("official", 3, fraction)
        share = len(split.val) / (len(split.val) + len(split.train))
        assert abs(share - 0.2) <= 0.2 if fraction < 0.1 else abs(share - 0.2) < 0.06
        assert {"a", "b"} == set(frame.set_index("image_id").loc[split.val, "label"])


def test_a_class_of_one_patient_is_trained_on_and_never_tested():
    frame = table(["a"] * 20 + ["b"] * 6, patients=[f"p{i}" for i in range(20)] + ["q"] * 6)
    plan = plan_splits(frame, SplitsParams())
    for seed in range(5):
        split = plan.get("grouped", seed, 1.0)
        assert {"020", "025"} <= set(split.train)
    assert any("class 'b' is never tested" in note for note in plan.notes)
    assert any("class 'b' has no val image" in note for note in plan.notes)


def test_export_lists_every_part_and_its_hash_changes_with_the_bytes_of_one_image(tmp_path):
    frame = table(["a", "b"] * 20)
    plan = plan_splits(frame, SplitsParams(), seeds=(0, 1))
    plan.export(tmp_path / "splits.csv")
    rows = pd.read_csv(tmp_path / "splits.csv", dtype=str)
    sums = pd.read_csv(tmp_path / "splits.sha256.csv", dtype=str)
    chosen = rows[(rows["protocol"] == "official") & (rows["seed"] == "1")]
    small = chosen[(chosen["part"] != "test") & (chosen["from_fraction"].astype(float) <= 0.2)]
    split = plan.get("official", 1, 0.2)
    assert set(small["image_id"]) == {*split.train, *split.val}
    frame.loc[frame["image_id"] == split.train[0], "sha256"] = "e" * 64
    plan_splits(frame, SplitsParams(), seeds=(0, 1)).export(tmp_path / "other.csv")
    other = pd.read_csv(tmp_path / "other.sha256.csv", dtype=str)
    same = sums["sha256"] == other["sha256"]
    where = (sums["protocol"] == "official") & (sums["seed"] == "1") & (sums["fraction"] == "0.2")
    assert same[where & (sums["part"] == "test")].all()
    assert not same[where & (sums["part"] == "train")].any()


def test_the_brains_grouped_protocol_tests_whole_patients(brain):
    frame = read_manifest(brain[0].manifest("brain")).set_index("image_id")
    plan = plan_splits(frame.reset_index(), SplitsParams())
    split = plan.get("grouped", 2, 0.05)
    known = frame.loc[split.test, "fold"]
    assert set(known[known != ""]) == {"3"}
    assert not set(frame.loc[split.test, "group"]) & set(frame.loc[split.train, "group"]) - {""}
    assert len(split.test) == pytest.approx(len(frame) / 5, rel=0.15)
    assert np.isin(sorted(set(frame["label"])), frame.loc[split.train, "label"]).all()
