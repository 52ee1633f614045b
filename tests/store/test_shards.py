"""The shard format: what Zarr reads is what was written, and rows do not depend on each other."""

import json
import multiprocessing
import zlib

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from benchmarks.cheap_stage import CheapMapper, make_items, run_cheap, store_path
from benchmarks.store_stage import content
from pipeline.errors import StoreError
from pipeline.store import FeatureRow, FeatureStoreWriter, WorkItem, verify_store
from pipeline.store.layout import ENTRY, SHARD_ROWS, extended, index_to_bytes
from tests.store.conftest import DATA, ROWS, flip, opened, reads, shards


def test_zarr_reads_the_rows_that_the_reader_reads(store):
    kind, _, _, path = store
    array = zarr.open_array(path / DATA[kind], mode="r")
    for i, image_id in enumerate(xr.open_zarr(path).image_id.values):
        data = opened(path).read(image_id)[DATA[kind]]
        stored = array[i]
        np.testing.assert_array_equal(stored[tuple(map(slice, data.shape))], data)
        assert kind == "features" or not stored[data.shape[0] :, data.shape[1] :].any()


@pytest.mark.promise("One damaged byte in a shard costs exactly the row it belongs to.")
def test_any_flipped_byte_spoils_exactly_one_row(store):
    kind, folder, items, path = store
    before = content(kind, folder)
    (shard,) = shards(path)
    intact = shard.read_bytes()
    table = len(intact) - SHARD_ROWS * ENTRY.size
    spoiled = set()
    for at in [*range(3, table, max(1, table // 40)), *range(table, table + ROWS * ENTRY.size, 5)]:
        flip(shard, at)
        report = verify_store(path)
        assert len(report.damaged) <= 1 and not report.lost, at
        if not report.damaged:  # a bit that the codec does not use
            assert content(kind, folder) == before
        spoiled |= set(report.damaged)
        shard.write_bytes(intact)
    assert spoiled == {item.image_id for item in items}
    flip(shard, 40)
    mapper = CheapMapper(kind)
    bad = verify_store(path).damaged
    for read in reads(kind, bad[0]).values():
        with pytest.raises(StoreError, match="damaged data"):
            read(opened(path))
    record = run_cheap(kind, folder, items, mapper=mapper)
    assert mapper.mapped == bad and record.redone_rows == {bad[0]: "damaged in the store"}
    assert content(kind, folder) == before and verify_store(path).ok


def test_a_longer_shard_keeps_the_bytes_of_its_first_rows_where_they_were():
    one = extended(b"", 4, 0, {0: b"aa", 1: b"bbb"})
    two = extended(one, 4, 2, {2: b"cc", 3: b"d"})
    assert two.startswith(b"aabbbccd") and one.startswith(b"aabbb")
    assert two[-64:-32] == one[-64:-32]  # entries of the first two rows
    # What a killed writer left behind the committed rows is dropped, so that the result is the
    # same as without the kill.
    left = extended(one, 4, 2, {2: b"x" * 50})
    assert extended(left, 4, 2, {2: b"cc", 3: b"d"}) == two
    for cut in (b"", one[:3], one[:-1]):  # a damaged file is no reason to stop
        assert len(extended(cut, 4, 2, {2: b"cc"})) >= 64


@pytest.mark.parametrize("rows_per_commit", [1, 3, 20])
def test_files_do_not_depend_on_how_often_they_were_committed(tmp_path, rows_per_commit):
    items = make_items(tmp_path, 20)
    files = []
    for folder, seconds, batch in (("a", 0.0, rows_per_commit), ("b", 100.0, 4)):
        run_cheap("features", tmp_path / folder, items, commit_seconds=seconds, batch_size=batch)
        files.append([f.read_bytes() for f in shards(store_path(tmp_path / folder, "features"))])
    assert files[0] == files[1]


IDENTITY, VIEWS, DIM = {"model": 1}, ("whole", "masked"), 24


def _work(writer, staging, names, queue):
    """A worker process: compute rows and write a shard, without the lock."""
    items = [WorkItem(name, name, writer.path) for name in names]
    rows = (writer.prepare(item, FeatureRow(item.key, _features(item.key))) for item in items)
    queue.put(writer.write_shard(rows, staging))


def _features(name):
    return np.full((2, DIM), float(name), dtype=np.float32)


@pytest.mark.parametrize("commit", [True, False])
def test_workers_write_whole_shards_and_the_driver_commits_them(tmp_path, small_shards, commit):
    path = tmp_path / "features.zarr"
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with FeatureStoreWriter(path, IDENTITY, views=VIEWS, dim=DIM) as writer:
        writer.plan([])
        writer.write([WorkItem("0", "0", path)], [FeatureRow("0", _features("0"))])
        shares = [["1", "2", "3", "4"], ["5", "6"]]
        work = writer, writer.staging()
        workers = [context.Process(target=_work, args=(*work, names, queue)) for names in shares]
        for worker in workers:
            worker.start()
        found = [queue.get(timeout=200) for _ in workers]
        for worker in workers:
            worker.join()
        _work(*work, ["1", "2"], queue)  # one that was thought dead; nobody adopts its shard
        for shard in found if commit else ():
            writer.adopt(shard)
        writer.write([WorkItem("7", "7", path)], [FeatureRow("7", _features("7"))])
    store = opened(path)
    assert set(store) == (set("01234567") if commit else {"0", "7"})
    for name in store:
        np.testing.assert_array_equal(store.read(name)["image_features"], _features(name))
    assert verify_store(path).ok
    plain = zarr.open_group(path, mode="r")
    assert set(plain["image_id"][...]) - {""} == set(store)


def test_an_adopted_shard_of_large_tokens_is_several_files(tmp_path, small_shards, monkeypatch):
    monkeypatch.setattr("pipeline.store.layout.SHARD_BYTES", 2 * 2 * 4 * DIM * 4)  # two rows
    path, known = tmp_path / "features.zarr", {}
    tokens = np.random.default_rng(0).random((12, 2, 4, DIM), dtype=np.float32)
    with FeatureStoreWriter(path, IDENTITY, views=VIEWS, dim=DIM, tokens=4) as writer:
        writer.plan([])
        assert writer.shard_rows == 4
        for names in (range(4), range(4, 7), range(7, 10)):
            rows = [FeatureRow(str(k), _features(str(k)), tokens=tokens[k]) for k in names]
            items = [WorkItem(row.image_id, row.image_id, path) for row in rows]
            prepared = map(writer.prepare, items, rows)
            writer.adopt(writer.write_shard(prepared, writer.staging()))
            known |= {str(k): tokens[k] for k in names}
        item = WorkItem("10", "10", path)  # continues the last shard
        writer.write([item], [FeatureRow("10", _features("10"), tokens=tokens[10])])
    store = opened(path)
    assert len(store) == 11 and verify_store(path).ok
    for name, values in (known | {"10": tokens[10]}).items():
        np.testing.assert_array_equal(store.read(name)["tokens"], values)
    assert len(list((path / "tokens/c").iterdir())) == 6
    assert xr.open_zarr(path)["tokens"].dims == ("image", "view", "token", "feature")


def test_a_large_store_has_longer_shards_which_take_several_ranges(
    tmp_path, small_shards, monkeypatch
):
    for name, value in {"SHARDS": 2, "COLUMN_ROWS": 4, "COLUMN_CHUNKS": 2}.items():
        monkeypatch.setattr(f"pipeline.store.layout.{name}", value)
    path, names = tmp_path / "features.zarr", [str(k) for k in range(30)]
    manifest = pd.DataFrame({"image_id": names, "label": "a", "split": "train"})
    items = {name: WorkItem(name, name, path) for name in names}
    for part, read in ((names[:9], 0), (names[9:], 9)):  # the second run goes on in the same shard
        with FeatureStoreWriter(path, IDENTITY, views=VIEWS, dim=DIM) as writer:
            writer.sync_manifest(manifest)
            assert len(writer.plan(list(items.values())).reused) == read
            assert writer.shard_rows == 4  # of a range; a shard has 16
            first, *rest = (part[at : at + 4] for at in range(0, len(part), 4))
            writer.write([items[n] for n in first], [FeatureRow(n, _features(n)) for n in first])
            for few in rest:  # whole ranges, and one of fewer rows
                rows = (writer.prepare(items[n], FeatureRow(n, _features(n))) for n in few)
                writer.adopt(writer.write_shard(rows, writer.staging()))
        assert verify_store(path).ok
    store = opened(path)
    assert len(shards(path)) == 3 and store.arrays["image_features"].rows == 16
    for name in names:
        np.testing.assert_array_equal(store.read(name)["image_features"], _features(name))
    assert {f.name for f in (path / "label").rglob("*") if "zarr" not in f.name} <= {
        *("c", "0", "1", "c.0", "c.1")  # of either name
    }


@pytest.mark.promise("The order in which an index lists its rows makes no difference.")
def test_an_index_of_an_early_version_that_is_not_sorted_reads_as_a_sorted_one(store):
    kind, folder, _, path = store
    before, digest = content(kind, folder), opened(path).digest
    root = json.loads((path / "zarr.json").read_bytes())
    index = opened(path).index
    data = index_to_bytes(index.take(np.random.default_rng(0).permutation(len(index))))
    root["attributes"]["index_crc"] = zlib.crc32(data)
    (path / root["attributes"]["index"]).write_bytes(data)
    (path / "zarr.json").write_text(json.dumps(root))
    assert content(kind, folder) == before and opened(path).digest == digest


def test_ids_are_found_one_by_one_as_in_a_table_of_many(store):
    _, _, items, path = store
    found, wanted = opened(path), [*(item.image_id for item in items), "", "zz", "test/"]
    few, many = found.positions(wanted), found.positions(wanted * 20)
    assert many.tolist() == few.tolist() * 20 and few[-3:].tolist() == [-1] * 3
    assert few[:-3].tolist() == [list(found).index(name) for name in wanted[:-3]]
