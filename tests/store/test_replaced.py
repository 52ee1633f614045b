"""A store that changes under its readers and its writer: refused or followed, never mixed."""

import json
import os
import shutil

import numpy as np
import pytest
from pipeline.store.swap import Workplace

from benchmarks.cheap_stage import (
    CLASSES,
    TEMPLATES,
    CheapMapper,
    make_items,
    make_writer,
    run_cheap,
    store_path,
)
from benchmarks.store_stage import content
from pipeline.errors import DiskError, StoreError
from pipeline.store import open_features, open_masks, verify_store
from tests.store.conftest import DATA, opened, shards

ROWS = 10


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr("pipeline.store.masks.SHARD_ROWS", 4)
    monkeypatch.setattr("pipeline.store.feature_writer.CHUNK_ROWS", 4)
    monkeypatch.setattr("pipeline.store.feature_writer._shard_rows", lambda *_: 4)


def test_rows_of_a_store_that_took_the_place_of_another_are_not_mixed_with_its_own(tmp_path):
    items = make_items(tmp_path, ROWS)
    run_cheap("features", tmp_path, items)
    early = open_features(store_path(tmp_path, "features"))
    first = early.identity_hash
    other = CheapMapper("features", tag="b")
    run_cheap("features", tmp_path, items[::-1], mapper=other, on_mismatch="rebuild")
    with pytest.raises(StoreError, match="replaced") as raised:
        early.image_features("whole")
    assert raised.value.remedy == "open it again" and early.identity_hash == first


def test_a_store_made_again_in_another_order_gives_each_image_its_own_row(tmp_path):
    items = make_items(tmp_path, ROWS)
    run_cheap("features", tmp_path, items)
    path = store_path(tmp_path, "features")
    early = open_features(path)
    ids = list(early)
    expected = early.image_features("whole", ids)
    early = open_features(path)
    path.rename(tmp_path / "older")
    run_cheap("features", tmp_path, items[::-1])
    np.testing.assert_array_equal(early.image_features("whole", ids), expected)


def tag_of(path):
    return json.loads((path / "zarr.json").read_text())["attributes"]["identity"]["model"]["tag"]


@pytest.mark.parametrize("kind", ["masks", "features"])
def test_copies_beside_a_store_are_their_owners_and_a_store_moved_away_stays_away(tmp_path, kind):
    items, path = make_items(tmp_path, 3), store_path(tmp_path, kind)
    run_cheap(kind, tmp_path, items)
    copies = [path.with_name(path.name + end) for end in (".old", ".new", ".bak", "~", "2")]
    for copy in copies:
        shutil.copytree(path, copy)
    run_cheap(kind, tmp_path, items)
    other = CheapMapper(kind, tag="b")
    run_cheap(kind, tmp_path, items, mapper=other, on_mismatch="rebuild")
    assert all(verify_store(copy).ok for copy in copies)
    assert sorted(path.parent.glob(f"*{path.name}*")) == sorted([path, *copies])
    shutil.rmtree(copies[0])
    path.rename(copies[0])
    record = run_cheap(kind, tmp_path, items)
    assert record.done == 3
    assert (tag_of(copies[0]), tag_of(path)) == ("b", "a")


@pytest.mark.parametrize("kind", ["masks", "features"])
@pytest.mark.parametrize("cut", ["before", "between", "after"])
def test_an_exchange_that_a_kill_cut_is_ended_by_the_next_run(tmp_path, kind, cut, monkeypatch):
    items, path = make_items(tmp_path, 3), store_path(tmp_path, kind)
    run_cheap(kind, tmp_path, items)

    def killed(place):
        if cut != "before":
            os.rename(place.path, place.old)
        if cut == "after":
            os.rename(place.new, place.path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Workplace, "finish", killed)
        other = CheapMapper(kind, tag="b")
        run_cheap(kind, tmp_path, items, mapper=other, on_mismatch="rebuild")
    assert path.exists() == (cut != "between")
    again = CheapMapper(kind, tag="b")
    record = run_cheap(kind, tmp_path, items, mapper=again, on_mismatch="rebuild")
    assert record.done == 0 and tag_of(path) == "b"
    assert [p.name for p in path.parent.iterdir() if path.name in p.name] == [path.name]


@pytest.mark.parametrize("kind", ["masks", "features"])
def test_good_rows_of_a_damaged_shard_stay_when_it_cannot_be_mended(tmp_path, kind):
    items = make_items(tmp_path, ROWS)
    run_cheap(kind, tmp_path, items)
    before, path = content(kind, tmp_path), store_path(tmp_path, kind)
    first = min(shards(path))
    data = bytearray(first.read_bytes())
    data[40] ^= 0xFF
    first.write_bytes(data)
    (path / ".mended").write_bytes(b"a file where a folder belongs, as good as a full disk")
    bad = verify_store(path).damaged
    with pytest.raises(DiskError):
        run_cheap(kind, tmp_path, items)
    assert bad and verify_store(path).damaged == bad and not verify_store(path).lost
    (path / ".mended").unlink()
    run_cheap(kind, tmp_path, items)
    assert content(kind, tmp_path) == before and not (path / ".mended").exists()


def test_a_row_whose_array_lost_its_metadata_is_an_error_with_the_remedy(tmp_path):
    for kind in ("masks", "features"):
        run_cheap(kind, tmp_path, make_items(tmp_path, 3))
        path = store_path(tmp_path, kind)
        (path / DATA[kind] / "zarr.json").unlink()
        with pytest.raises(StoreError, match="metadata") as raised:
            opened(path)
        assert raised.value.remedy.startswith("run: pipeline ")
        run_cheap(kind, tmp_path, make_items(tmp_path, 3))
        assert verify_store(path).ok


def test_a_run_is_not_ok_before_its_store_stands_in_its_place(tmp_path, monkeypatch):
    items = make_items(tmp_path, 3)
    run_cheap("masks", tmp_path, items)

    def fails(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Workplace, "finish", fails)
    other = CheapMapper("masks", tag="b")
    with pytest.raises(DiskError):
        run_cheap("masks", tmp_path, items, mapper=other, on_mismatch="rebuild")
    assert json.loads((tmp_path / "masks.json").read_text())["status"] == "error"


def test_a_writer_that_finished_early_can_go_on(tmp_path):
    items = make_items(tmp_path, ROWS)
    mapper = CheapMapper("masks")
    with make_writer("masks", tmp_path, mapper.identity) as writer:
        writer.plan(items)
        for part in (items[:4], items[4:]):
            rows = mapper.map(part, [mapper.load(item) for item in part])
            writer.write(part, rows)
            writer.finish()
            assert len(open_masks(store_path(tmp_path, "masks"))) == items.index(part[-1]) + 1


@pytest.mark.parametrize("kind", ["masks", "features"])
def test_data_do_not_wait_in_memory_for_the_index_and_count_only_with_it(tmp_path, kind):
    calm, rare = tmp_path / "calm", tmp_path / "rare"
    items = make_items(tmp_path, ROWS)
    run_cheap(kind, calm, items)
    mapper = CheapMapper(kind)
    for force, seen in ((False, 0), (True, ROWS)):
        writer = make_writer(kind, rare, mapper.identity, commit_seconds=1000, commit_bytes=1)
        with writer:
            if kind == "features":
                text = open_features(store_path(calm, kind)).text_features
                identity = {"templates": list(TEMPLATES)}
                writer.set_text(text, classes=CLASSES, templates=TEMPLATES, identity=identity)
            writer.plan(items, force=force)
            for part in (items[:3], items[3:7], items[7:]):
                rows = mapper.map(part, [mapper.load(item) for item in part])
                writer.write(part, rows)
            store = opened(store_path(rare, kind))
            assert len(store) == seen and len(shards(store.path)) == 3
            assert set(store.table()["status"]) <= {"pending"}
        assert content(kind, rare) == content(kind, calm)
