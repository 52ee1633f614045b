"""What is there is never computed again; what changed is, and why is written down."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.cheap_stage import CheapMapper, item_of, make_items, run_cheap, store_path
from benchmarks.store_stage import content
from pipeline.errors import StoreError
from pipeline.store import FeatureStoreWriter, open_features, open_masks, verify_store
from pipeline.store.items import canonical, identity_diff
from pipeline.store.layout import FEATURES
from tests.store.conftest import KINDS, ROWS, opened


@pytest.mark.promise("What is stored is not computed again; what changed is.")
@pytest.mark.parametrize("kind", KINDS)
def test_again_add_ten_remove_five_reorder_computes_0_10_0_0(tmp_path, kind):
    items = make_items(tmp_path, 18)
    run_cheap(kind, tmp_path, items[:8])
    computed = []
    for wanted in (items[:8], items, items[5:], items[::-1]):
        mapper = CheapMapper(kind)
        record = run_cheap(kind, tmp_path, wanted, mapper=mapper)
        computed.append(len(mapper.mapped))
        assert record.done == len(mapper.mapped) and record.skipped == len(wanted) - record.done
    assert computed == [0, 10, 0, 0]


@pytest.mark.promise("New labels and splits reach the stores, and nothing is computed again.")
def test_labels_and_splits_are_refreshed_and_nothing_is_computed(store):
    kind, folder, items, path = store
    relabelled = [replace(i, row={**i.row, "label": "new", "split": "val"}) for i in items]
    record = run_cheap(kind, folder, relabelled)
    table = opened(path).table()
    assert record.done == 0 and set(table.label) == {"new"} and set(table.split) == {"val"}
    run_cheap(kind, folder, items[2:])  # rows that left the manifest stay, and are not offered
    now = opened(path)
    assert len(now) == ROWS and set(now.ids()) == {i.image_id for i in items[2:]}
    if kind == "features":
        assert len(now.xy("whole")[0]) == ROWS - 2


@pytest.mark.promise("A reason is recorded for each row that is computed again.")
def test_bytes_changed_under_the_same_name_redo_that_row_and_say_so(store):
    kind, folder, items, _ = store
    before = content(kind, folder)
    items[2].path.write_bytes(b"image two, retouched")
    changed = item_of(items[2].path, 2, b"image two, retouched")
    record = run_cheap(kind, folder, [*items[:2], changed, *items[3:]])
    assert record.done == 1
    assert record.redone_rows == {changed.image_id: "image bytes changed"}
    after = content(kind, folder)
    assert {k for k in before if before[k] != after[k]} == {changed.image_id}
    record = run_cheap(kind, folder, [replace(items[0], key="other box"), *items[1:2]])
    assert record.redone == {"prompt, mask or frame changed": 1}


@pytest.mark.promise("A store made with other choices is refused, with the difference.")
def test_another_identity_is_refused_with_the_difference_and_nothing_is_touched(store):
    kind, folder, items, _ = store
    before = content(kind, folder)
    with pytest.raises(StoreError) as caught:
        run_cheap(kind, folder, items, mapper=CheapMapper(kind, tag="b"))
    assert 'model.tag: "a" in the store, "b" now' in str(caught.value)
    assert "--force" in str(caught.value)
    assert content(kind, folder) == before


@pytest.mark.promise("A rebuilt store replaces the old one only when it is complete.")
def test_a_rebuild_takes_the_old_stores_place_only_when_it_is_complete(store):
    kind, folder, items, path = store
    old = content(kind, folder)

    class Cut(CheapMapper):
        def map(self, items, loaded):
            if len(self.mapped) >= 4:
                raise StoreError("stop here")
            return super().map(items, loaded)

    options = {"on_mismatch": "rebuild", "batch_size": 2}
    with pytest.raises(StoreError, match="stop here"):
        run_cheap(kind, folder, items, mapper=Cut(kind, tag="b"), **options)
    assert content(kind, folder) == old
    # The next run goes on where that one stopped, even when forced again.
    mapper = CheapMapper(kind, tag="b")
    record = run_cheap(kind, folder, items, mapper=mapper, force=True, **options)
    assert record.done == ROWS - 4 and record.skipped == 4
    # Every row done again has its reason: which choice is another one now.
    assert [n for reason, n in record.redone.items() if "model.tag" in reason] == [ROWS - 4]
    assert opened(path).identity["model"]["tag"] == "b"
    assert [p.name for p in folder.iterdir() if ".zarr" in p.name] == [path.name]


@pytest.mark.promise("Byte-identical images are computed once.")
def test_forced_copies_are_of_what_is_computed_now_and_never_of_old_rows(tmp_path):
    items = make_items(tmp_path, 2)
    path = items[0].path.with_name("copy.bin")
    path.write_bytes(items[0].path.read_bytes())
    same = [items[0], *(replace(items[0], image_id=f"copy/{n}", path=path) for n in "abc")]
    wanted = [*same, items[1]]

    class Full(CheapMapper):
        def map(self, items, loaded):
            rows = super().map(items, loaded)
            return [replace(row, mask=np.ones_like(row.mask)) for row in rows]

    run_cheap("masks", tmp_path, wanted)
    mapper = Full("masks")
    record = run_cheap("masks", tmp_path, wanted, mapper=mapper, force=True)
    assert len(mapper.mapped) == 2 and record.copied == 3 and record.redone == {"forced": 5}
    store = open_masks(store_path(tmp_path, "masks"))
    assert all(store[item.image_id].all() for item in wanted)
    # Some of them alone: the others are old, and what is new is not taken from them.
    mapper = CheapMapper("masks")
    record = run_cheap("masks", tmp_path, same[1:3], mapper=mapper, force=True)
    assert len(mapper.mapped) == 1 and record.copied == 1
    store = open_masks(store.path)
    full = {item.image_id: bool(store[item.image_id].all()) for item in same}
    assert list(full.values()) == [True, False, False, True]


def test_a_store_of_an_earlier_version_is_read_and_gains_the_columns_it_lacks(tmp_path):
    items = make_items(tmp_path, 6)
    columns = {n: spec for n, spec in FEATURES.columns.items() if n != "mask_crc"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureStoreWriter, "kind", replace(FEATURES, columns=columns))
        run_cheap("features", tmp_path, items[:4])
    path = store_path(tmp_path, "features")
    before = open_features(path)
    assert set(before.table()["mask_crc"]) == {-1}
    assert run_cheap("features", tmp_path, items).done == 2
    after = open_features(path)
    assert verify_store(path).ok and len(after) == 6
    was, now = (s.table().loc[list(before)].drop(columns="in_manifest") for s in (before, after))
    assert now.equals(was)


def test_a_changed_an_absent_and_a_new_choice_are_each_named_by_their_dotted_key():
    stored = {"encode": {"fill": "black", "views": ("whole",)}, "old": 1}
    wanted = {"encode": {"views": ["whole"], "fill": "mean"}, "clip": {"sha256": {"a": ["b"]}}}
    assert identity_diff(stored, wanted) == [
        'clip.sha256.a: absent in the store, ["b"] now',
        'encode.fill: "black" in the store, "mean" now',
        "old: 1 in the store, absent now",
    ]
    assert identity_diff(stored, canonical(stored)) == []


@pytest.mark.parametrize("value", [float("nan"), np.zeros(2), object()])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(StoreError, match="JSON"):
        canonical({"a": value})
