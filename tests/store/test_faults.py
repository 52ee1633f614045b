"""Lost, damaged, half-written: an error, or exactly those rows are computed again."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from pipeline.store.kinds import KINDS

from benchmarks.cheap_stage import CheapMapper, make_items, make_writer, run_cheap, store_path
from benchmarks.store_stage import content
from pipeline.errors import DiskError, StoreError
from pipeline.store import index as idx
from pipeline.store import open_masks, verify_store
from pipeline.store.layout import TrackedStore, moved
from tests.store.conftest import DATA, ROWS, opened, reads, shards


def read_by_each_way(kind, path, items):
    """A reader for each way of reading, which has read that way once: (read, opened store)."""
    ways = reads(kind, items[0].image_id)
    readers = [(read, opened(path)) for read in ways.values()]
    for read, reader in readers:
        read(reader)
    return readers


def check_that_all_raise(readers, path, match):
    """Each way of reading is an error, to the reader that read before and to a new one."""
    for read, reader in readers:
        for store in (reader, opened(path)):
            with pytest.raises(StoreError, match=match):
                read(store)


def test_a_deleted_shard_is_an_error_on_read_and_its_rows_are_computed_again(store):
    kind, folder, items, path = store
    before = content(kind, folder)
    readers = read_by_each_way(kind, path, items)
    for file in shards(path):
        file.unlink()
    check_that_all_raise(readers, path, "lost data")
    assert sorted(verify_store(path).lost) == sorted(i.image_id for i in items)
    record = run_cheap(kind, folder, items)
    assert record.redone == {"lost from the store": ROWS}
    assert content(kind, folder) == before and verify_store(path).ok


@pytest.mark.parametrize("kind", ["masks", "features"])
def test_a_dataset_of_a_store_that_lost_a_shard_is_an_error_with_the_ids_and_the_remedy(
    tmp_path, monkeypatch, kind
):
    monkeypatch.setattr("pipeline.store.masks.SHARD_ROWS", 4)
    monkeypatch.setattr("pipeline.store.feature_writer.CHUNK_ROWS", 4)
    monkeypatch.setattr("pipeline.store.feature_writer._shard_rows", lambda *_: 4)
    items = make_items(tmp_path, ROWS)
    items[4].path.write_bytes(b"no picture")  # a failed row has no data that could be lost
    run_cheap(kind, tmp_path, items, max_failed=0.5)
    path = store_path(tmp_path, kind)
    early = opened(path)
    assert early.dataset()[DATA[kind]].shape[0] == ROWS
    with pytest.raises(StoreError) as failed:
        early.read(items[4].image_id)
    assert failed.value.remedy.startswith("mend the image, then run: pipeline")
    (second,) = [f for f in shards(path) if f.relative_to(path / DATA[kind] / "c").parts[0] == "1"]
    second.unlink()
    for store in (early, opened(path)):
        with pytest.raises(StoreError, match="lost data of") as raised:
            store.dataset()
        named = {i.image_id for i in items if repr(i.image_id) in raised.value.message}
        assert named == {i.image_id for i in items[5:8]}
        if kind == "features":
            with pytest.raises(StoreError) as bulk:
                store.image_features("whole")
            assert bulk.value.message == raised.value.message
        stage = {"masks": "segment", "features": "encode"}[kind]
        assert f"pipeline {stage} --dataset" in raised.value.remedy
    items[4].path.write_bytes(b"image 4")
    run_cheap(kind, tmp_path, items)
    assert (early.dataset().status == "ok").all()


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "others"])
def test_a_damaged_shard_is_an_error_and_the_next_run_mends_it(store, damage):
    kind, folder, items, path = store
    before = content(kind, folder)
    readers = read_by_each_way(kind, path, items)
    (shard,) = shards(path)
    data = shard.read_bytes()
    if damage == "others":  # a file that every codec takes, of other rows
        array = zarr.open_array(path / DATA[kind], mode="r+")
        array[:] = np.roll(array[:], 1, axis=0)
    else:
        half, noise = data[: len(data) // 2], os.urandom(len(data))
        shard.write_bytes({"cut": half, "empty": b"", "noise": noise}[damage])
    check_that_all_raise(readers, path, "damaged data")
    assert len(verify_store(path).damaged) == ROWS
    record = run_cheap(kind, folder, items)
    assert record.redone == {"damaged in the store": ROWS}
    assert content(kind, folder) == before and verify_store(path).ok


def test_only_the_rows_whose_bytes_changed_are_computed_again(tmp_path):
    items = make_items(tmp_path, ROWS)
    run_cheap("masks", tmp_path, items)
    before = content("masks", tmp_path)
    path = store_path(tmp_path, "masks")
    (shard,) = shards(path)
    data = bytearray(shard.read_bytes())
    data[40] ^= 0xFF  # inside the first row's chunk
    shard.write_bytes(data)
    assert verify_store(path).damaged == [items[0].image_id]
    mapper = CheapMapper("masks")
    record = run_cheap("masks", tmp_path, items, mapper=mapper)
    assert mapper.mapped == [items[0].image_id]
    assert record.redone_rows == {items[0].image_id: "damaged in the store"}
    assert content("masks", tmp_path) == before


def test_a_shard_of_an_older_moment_put_back_is_noticed(store):
    # As after two writers, or a file restored alone.
    kind, folder, _, path = store
    (shard,) = shards(path)
    older = shard.read_bytes()
    more = make_items(folder, ROWS + 4)
    run_cheap(kind, folder, more)
    shard.write_bytes(older)
    bad = verify_store(path)
    assert set(bad.damaged) == {i.image_id for i in more[ROWS:]}
    assert run_cheap(kind, folder, more).done == 4 and verify_store(path).ok


@pytest.mark.parametrize("column", ["crc", "image_id", "status"])
@pytest.mark.parametrize("how", ["deleted", "noise"])
def test_a_damaged_index_is_an_error_until_force_builds_the_store_again(tmp_path, column, how):
    items = make_items(tmp_path, 4)
    run_cheap("masks", tmp_path, items)
    before = content("masks", tmp_path)
    path = store_path(tmp_path, "masks")
    file = path / column / "c" / "0"
    file.unlink() if how == "deleted" else file.write_bytes(b"noise")
    with pytest.raises(StoreError, match="row index"):
        idx.load(path, KINDS["masks"].columns, patience=0.1)
    with pytest.raises(StoreError, match="--force"):
        run_cheap("masks", tmp_path, items)
    record = run_cheap("masks", tmp_path, items, on_mismatch="rebuild", force=True)
    assert record.redone == {"the store could not be read": 4}
    assert content("masks", tmp_path) == before


@pytest.mark.parametrize("text", [None, "", "{}", "null"])
def test_a_lost_or_damaged_root_is_an_error_and_nothing_is_deleted(tmp_path, text):
    items = make_items(tmp_path, 3)
    run_cheap("masks", tmp_path, items)
    path = store_path(tmp_path, "masks")
    (path / "zarr.json").unlink()
    if text is not None:
        (path / "zarr.json").write_text(text)
    with pytest.raises(StoreError):
        open_masks(path)
    with pytest.raises(StoreError):
        run_cheap("masks", tmp_path, items)
    assert shards(path) and not verify_store(path).ok


def test_a_writer_killed_while_rows_change_leaves_the_old_index_to_every_reader(store):
    kind, folder, items, path = store
    before = content(kind, folder)
    labels = xr.open_zarr(path).label.values.tolist()
    # The state just before the root is replaced: all columns of the next moment are on disk.
    committed = idx.load(path, KINDS[kind].columns)
    metadata = committed.root["consolidated_metadata"]["metadata"]
    for i in range(len(committed.index)):
        committed.index.set(i, {"label": "new"})
    beside = {name: moved(metadata[name]) for name in committed.index.columns}
    idx.write_columns(TrackedStore(path), beside, committed.index, 0)
    assert content(kind, folder) == before and verify_store(path).ok
    assert xr.open_zarr(path).label.values.tolist() == labels  # a plain reader, nothing checked
    assert run_cheap(kind, folder, items).done == 0
    assert content(kind, folder) == before


def test_a_write_that_fails_lists_no_new_row_and_forgets_no_row_that_it_was_redoing(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("pipeline.store.masks.SHARD_ROWS", 4)
    items = make_items(tmp_path, 12)
    run_cheap("masks", tmp_path, items[:8])
    before = content("masks", tmp_path)
    path = store_path(tmp_path, "masks")
    barrier = path / "mask/c/2"
    barrier.write_bytes(b"a file where the third shard's folder belongs")
    rows = CheapMapper("masks").map(items, range(12))
    with (
        pytest.raises(DiskError),
        make_writer("masks", tmp_path, CheapMapper("masks").identity) as writer,
    ):
        writer.plan(items)
        writer.write([items[0], *items[8:]], [rows[0], *rows[8:]])  # other bits for the first
        writer.commit()
    assert list(open_masks(path)) == [item.image_id for item in items[:8]]
    with pytest.raises(StoreError, match="pending") as raised:
        open_masks(path)[items[0].image_id]
    assert raised.value.remedy.startswith("run: pipeline segment")  # the image is well
    barrier.unlink()
    run_cheap("masks", tmp_path, items[:8])
    assert verify_store(path).ok and content("masks", tmp_path) == before


def test_columns_that_cannot_be_written_leave_the_store_as_it_was(store):
    kind, folder, items, path = store
    before = content(kind, folder)
    barrier = path / "label/c.0"
    barrier.mkdir()
    changed = [replace(item, row={**item.row, "label": "cow"}) for item in items]
    with pytest.raises(DiskError):
        run_cheap(kind, folder, changed)
    assert content(kind, folder) == before and verify_store(path).ok
    barrier.rmdir()
    assert run_cheap(kind, folder, items).done == 0
    assert content(kind, folder) == before


def test_changed_rows_are_seen_at_once_and_the_files_of_the_last_moment_stay(store):
    kind, folder, items, path = store
    labels = xr.open_zarr(path).label.values.tolist()
    earlier = xr.open_zarr(path)  # lazy: its columns are read after the change
    changed = [replace(item, row={**item.row, "label": "cow"}) for item in items]
    assert run_cheap(kind, folder, changed).done == 0
    assert set(opened(path).table().label) == {"cow"} == set(xr.open_zarr(path).label.values)
    assert earlier.label.values.tolist() == labels


def test_stray_and_half_written_files_do_no_harm(store):
    kind, folder, _, path = store
    before = content(kind, folder)
    for place in (path, path / DATA[kind], path / DATA[kind] / "c", path / "label" / "c"):
        (place / ".DS_Store").write_bytes(b"\0Bud1")
        (place / "._0").write_bytes(b"x")
        (place / "0.5f2b.partial").write_bytes(b"half")
    assert content(kind, folder) == before and verify_store(path).ok
    more = make_items(folder, ROWS + 1)
    assert run_cheap(kind, folder, more).done == 1
    assert not list(path.rglob("*.partial"))


def test_verify_of_what_is_no_store_is_a_report(tmp_path):
    report = verify_store(tmp_path / "nothing.zarr")
    assert not report.ok and report.problems and "NOT OK" in report.summary()
    assert json.dumps(report.to_json())
    assert Path(report.path).name == "nothing.zarr"
