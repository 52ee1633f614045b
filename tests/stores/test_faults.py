"""Lost, damaged, half-written: an error, or exactly those rows are computed again."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cheap_stage import CheapMapper, make_items, make_writer, run_cheap, store_path
from benchmarks.random_kill import content
from pipeline.errors import StoreError
from pipeline.stores import index as idx
from pipeline.stores import open_features, open_masks, verify_store
from pipeline.stores.kinds import KINDS

ROWS = 9
DATA = {"masks": "mask", "features": "image_features"}


def opened(path):
    return open_masks(path) if path.name == "masks.zarr" else open_features(path)


def shards(path):
    folder = path / DATA[path.stem] / "c"
    return [f for f in folder.rglob("*") if f.is_file()]


@pytest.fixture(params=["masks", "features"])
def store(request, tmp_path):
    """(kind, folder, items, path) of a finished store."""
    items = make_items(tmp_path, ROWS)
    run_cheap(request.param, tmp_path, items)
    return request.param, tmp_path, items, store_path(tmp_path, request.param)


def test_a_deleted_shard_is_an_error_on_read_and_its_rows_are_computed_again(store):
    kind, folder, items, path = store
    before = content(kind, folder)
    for file in shards(path):
        file.unlink()
    with pytest.raises(StoreError, match="lost data"):
        opened(path).read(items[0].image_id)
    assert sorted(verify_store(path).lost) == sorted(i.image_id for i in items)
    record = run_cheap(kind, folder, items)
    assert record.redone == {"lost from the store": ROWS}
    assert content(kind, folder) == before and verify_store(path).ok


@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_a_damaged_shard_is_an_error_and_the_next_run_mends_it(store, damage):
    kind, folder, items, path = store
    before = content(kind, folder)
    (shard,) = shards(path)
    data = shard.read_bytes()
    shard.write_bytes(
        {"cut": data[: len(data) // 2], "empty": b"", "noise": os.urandom(len(data))}[damage]
    )
    with pytest.raises(StoreError, match="damaged data"):
        opened(path).read(items[0].image_id)
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
    run_cheap("masks", tmp_path, items, on_mismatch="rebuild", force=True)
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


def test_a_writer_killed_while_replacing_columns_leaves_the_new_index_to_readers(store):
    kind, folder, items, path = store
    before = content(kind, folder)
    # The state between the journal and the root: columns half replaced.
    columns = KINDS[kind].columns
    committed = idx.load(path, columns)
    root, index = committed.root, committed.index
    for i in range(len(index)):
        index.set(i, {"label": "new"})
    newer = {**root, "attributes": {**root["attributes"]}}
    newer["attributes"]["index_crc"] = idx.checksum(index.arrays())
    idx.write_journal(path, newer, index, root["attributes"]["index_crc"])
    (path / "label" / "c" / "0").write_bytes(b"half")
    assert set(opened(path).table().label) == {"new"}
    for item in items:
        opened(path).read(item.image_id)
    assert run_cheap(kind, folder, items).done == 0  # the writer finishes what was begun
    assert not (path / idx.JOURNAL).exists()
    assert content(kind, folder) == before


def test_a_journal_of_another_moment_is_ignored(tmp_path):
    items = make_items(tmp_path, 3)
    run_cheap("masks", tmp_path, items)
    path = store_path(tmp_path, "masks")
    committed = idx.load(path, KINDS["masks"].columns)
    committed.index.set(0, {"label": "stale"})
    stale = {**committed.root, "attributes": {**committed.root["attributes"]}}
    stale["attributes"]["index_crc"] = idx.checksum(committed.index.arrays())
    idx.write_journal(path, stale, committed.index, base_crc=12345)
    assert "stale" not in set(open_masks(path).table().label)


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


def test_xarray_opens_both_stores_without_a_warning(tmp_path, repo):
    items = make_items(tmp_path, 4)
    for kind in ("masks", "features"):
        run_cheap(kind, tmp_path, items)
        (store_path(tmp_path, kind) / ".DS_Store").write_bytes(b"x")
    code = """
import sys, xarray
masks, features = (xarray.open_zarr(p) for p in sys.argv[1:])
assert masks["mask"].dims == ("image", "y", "x"), masks
assert {"image_id", "label", "split", "status"} <= set(masks.coords)
assert features["image_features"].dims == ("image", "view", "feature")
assert features["text_features"].dims == ("class", "template", "feature")
assert {"image_id", "label", "split", "view", "class", "template"} <= set(features.coords)
masks.load(); features.load()
whole = features.sel(view="whole")["image_features"]
assert whole.where(whole.label == "cat", drop=True).shape == (2, 24)
print(features.attrs["identity"]["model"]["name"])
"""
    paths = [str(store_path(tmp_path, kind)) for kind in ("masks", "features")]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *paths],
        capture_output=True,
        text=True,
        cwd=repo,
    )
    assert done.returncode == 0 and done.stderr == "" and done.stdout == "cheap\n", done.stderr


def _read_in_child(store, image_id, queue):
    queue.put(store.read(image_id))


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_store_that_was_read_is_read_in_worker_processes_too(tmp_path, method):
    items = make_items(tmp_path, 3)
    run_cheap("features", tmp_path, items)
    store = open_features(store_path(tmp_path, "features"))
    expected = store.read(items[1].image_id)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_read_in_child, args=(store, items[1].image_id, queue))
    child.start()
    found = queue.get(timeout=240)
    child.join()
    np.testing.assert_array_equal(found["image_features"], expected["image_features"])


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_an_append_never_changes_the_files_of_an_older_version(store, link):
    # As DVC keeps them: the store's files are links into its cache.
    kind, folder, _, path = store
    kept = {f.relative_to(path): f.read_bytes() for f in path.rglob("*") if f.is_file()}
    cache = folder / "cache"
    shutil.move(path, cache)
    for name in kept:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        os.chmod(cache / name, 0o444)
        link(cache / name, path / name)
    run_cheap(kind, folder, make_items(folder, ROWS + 3))
    assert {name: (cache / name).read_bytes() for name in kept} == kept
    assert len(opened(path)) == ROWS + 3 and verify_store(path).ok


def test_no_reader_ever_sees_columns_of_different_length_while_a_writer_works(tmp_path):
    run_cheap("features", tmp_path, make_items(tmp_path, 2))
    path = store_path(tmp_path, "features")
    items = make_items(tmp_path, 24)
    finished = threading.Event()

    def write():
        try:
            run_cheap("features", tmp_path, items, commit_seconds=0.0, batch_size=3)
        finally:
            finished.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not finished.is_set() or not seen:
        root = json.loads((path / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
        rows = {m["shape"][0] for m in root.values() if m["dimension_names"][0] == "image"}
        assert len(rows) == 1
        store = open_features(path)
        table = store.table()
        assert len(store.image_features("whole")) == len(table) and (table.status == "ok").all()
        seen.add(len(table))
    writer.join()
    assert len(open_features(path)) == 24


def test_a_row_being_redone_is_never_read_as_its_old_self(tmp_path):
    items = make_items(tmp_path, 3)
    run_cheap("masks", tmp_path, items)
    early = open_masks(store_path(tmp_path, "masks"))
    writer = make_writer("masks", tmp_path, CheapMapper("masks").identity)
    with writer:
        writer.plan(items, force=True)
        old = early[items[0].image_id]
        from pipeline.stores import MaskRow

        writer.write([items[0]], [MaskRow(items[0].image_id, ~old)])
        writer.commit()
    # Opened before, reads after: it notices, and reads the index once more.
    np.testing.assert_array_equal(early[items[0].image_id], ~old)


def test_reading_writes_nothing(store):
    kind, folder, _, path = store
    before = sorted((str(f), f.stat().st_mtime_ns) for f in folder.rglob("*"))
    content(kind, folder)
    verify_store(path)
    opened(path).table()
    assert sorted((str(f), f.stat().st_mtime_ns) for f in folder.rglob("*")) == before


def test_both_stores_of_6600_images_are_few_files(tmp_path):
    for kind in ("masks", "features"):
        run_cheap(kind, tmp_path, make_items(tmp_path, 2))
    files = sum(1 for k in DATA for f in store_path(tmp_path, k).rglob("*") if f.is_file())
    masks = -(-6600 // open_masks(store_path(tmp_path, "masks"))._rows.shard_rows)
    from pipeline.stores.feature_writer import _shard_rows

    features = -(-6600 // _shard_rows(6 * 1280 * 4, 128))
    assert files - 2 + masks + features < 200


def test_verify_of_what_is_no_store_is_a_report(tmp_path):
    report = verify_store(tmp_path / "nothing.zarr")
    assert not report.ok and report.problems and "NOT OK" in report.summary()
    assert json.dumps(report.to_json())
    assert Path(report.path).name == "nothing.zarr"
