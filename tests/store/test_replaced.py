"""Rebuilt and compacted stores: complete, in one step, and readers of the old one read on."""

import json
import os
import pickle
import shutil

import pytest

from benchmarks.cheap_stage import CheapMapper, make_items, run_cheap, store_path
from benchmarks.store_stage import content
from pipeline.errors import StoreError
from pipeline.store import open_features, verify_store
from tests.store.conftest import DATA, KINDS, opened, shards

ROWS = 10

pytestmark = pytest.mark.usefixtures("small_shards")


def folders_of(path):
    return sorted(p.name for p in path.parent.iterdir() if path.name in p.name)


@pytest.mark.promise("Who has a store open reads it to the end, whatever a writer does meanwhile.")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["append", "redo", "force", "rebuild"])
def test_a_reader_keeps_its_rows_whatever_a_writer_does(tmp_path, kind, how):
    items = make_items(tmp_path, ROWS)
    run_cheap(kind, tmp_path, items[:7])
    path = store_path(tmp_path, kind)
    before = content(kind, tmp_path)
    early = opened(path)
    carried = pickle.dumps(early)
    if how == "append":
        run_cheap(kind, tmp_path, items, batch_size=1, commit_seconds=0.0)
    elif how == "redo":
        run_cheap(kind, tmp_path, items[:7], force=True)
    elif how == "force":  # twice: the store is replaced while it is read, and again
        for _ in range(2):
            run_cheap(kind, tmp_path, items[:7], force=True, on_mismatch="force")
    else:
        other = CheapMapper(kind, tag="b")
        run_cheap(kind, tmp_path, items[::-1], mapper=other, on_mismatch="rebuild")
    assert list(early) == sorted(i.image_id for i in items[:7])
    for image_id in early:
        data = early.read(image_id)
        arrays = tuple((n, a.dtype.str, a.shape, a.tobytes()) for n, a in sorted(data.items()))
        assert arrays == before[image_id][0]
    if kind == "features":
        assert early.text_features.values.tobytes() == before["text"][0]
    now = opened(path)
    assert now.identity["model"]["tag"] == ("b" if how == "rebuild" else "a")
    assert verify_store(path).ok
    if how == "rebuild":
        with pytest.raises(StoreError, match="was replaced"):
            pickle.loads(carried)
    # The replaced store goes with its last reader, at the latest when the next writer opens.
    del early, now
    run_cheap(kind, tmp_path, items, mapper=CheapMapper(kind, tag="b" if how == "rebuild" else "a"))
    assert folders_of(path) == [path.name]


def test_the_digest_is_of_the_content_and_not_of_its_order_or_labels(tmp_path):
    items = make_items(tmp_path, ROWS)
    run_cheap("features", tmp_path / "a", items)
    run_cheap("features", tmp_path / "b", items[::-1])
    run_cheap("features", tmp_path / "c", items[:-1])
    a, b, c = (open_features(tmp_path / n / "features.zarr").digest for n in "abc")
    assert a == b != c
    other = CheapMapper("features", tag="b")
    run_cheap("features", tmp_path / "a", items, mapper=other, on_mismatch="rebuild")
    assert open_features(tmp_path / "a/features.zarr").digest != a


def tag_of(path):
    return json.loads((path / "zarr.json").read_text())["attributes"]["identity"]["model"]["tag"]


@pytest.mark.promise("Copies of a store next to it are not touched.")
@pytest.mark.parametrize("kind", KINDS)
def test_copies_next_to_a_store_are_not_touched_and_a_store_moved_away_stays_away(tmp_path, kind):
    items, path = make_items(tmp_path, 3), store_path(tmp_path, kind)
    run_cheap(kind, tmp_path, items)
    copies = [path.with_name(path.name + end) for end in (".old", ".new", ".bak", "~", "2")]
    for copy in copies:
        shutil.copytree(path, copy)
    reader = opened(path)  # so that the replaced store stays for a while
    other = CheapMapper(kind, tag="b")
    run_cheap(kind, tmp_path, items, mapper=other, on_mismatch="rebuild")
    assert all(verify_store(copy).ok for copy in copies)
    shutil.rmtree(copies[0])
    path.rename(copies[0])
    record = run_cheap(kind, tmp_path, items)
    assert record.done == 3 and len(reader) == 3
    assert (tag_of(copies[0]), tag_of(path)) == ("b", "a")


@pytest.mark.promise("A run killed at any moment loses nothing that was committed.")
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_replacement_that_a_kill_interrupted_is_completed(tmp_path, cut, monkeypatch):
    kind = "masks"
    items, path = make_items(tmp_path, 3), store_path(tmp_path, kind)
    run_cheap(kind, tmp_path, items)

    done, rename = [], os.rename

    def killed(*names):
        if len(done) < cut:
            rename(*names)
            done.append(names)
        if len(done) == cut:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "rename", killed)
        other = CheapMapper(kind, tag="b")
        run_cheap(kind, tmp_path, items, mapper=other, on_mismatch="rebuild")
    assert path.exists() == (cut != 1)
    again = CheapMapper(kind, tag="b")
    record = run_cheap(kind, tmp_path, items, mapper=again, on_mismatch="rebuild")
    assert record.done == 0 and tag_of(path) == "b" and folders_of(path) == [path.name]


@pytest.mark.promise("A lost shard is an error that names its images; never zeros.")
@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_shard_is_an_error_with_the_ids_and_its_rows_are_computed_again(tmp_path, kind):
    items = make_items(tmp_path, ROWS)
    items[4].path.write_bytes(b"not a picture")  # a failed row has no data that could be lost
    run_cheap(kind, tmp_path, items, max_failed=0.5)
    path, before = store_path(tmp_path, kind), None
    early = opened(path)
    before = {i: early.read(i)[DATA[kind]].tobytes() for i in early if i != items[4].image_id}
    shards(path)[1].unlink()
    wanted = {i.image_id for i in items[5:8]}
    ways = [lambda s: s.read(items[5].image_id)]
    if kind == "features":
        ways += [lambda s: s.image_features("whole"), lambda s: s.xy("whole", missing="drop")]
    for store in (early, opened(path)):
        for k, read in enumerate(ways):
            with pytest.raises(StoreError, match="lost data of") as raised:
                read(store)
            named = {i.image_id for i in items if repr(i.image_id) in raised.value.message}
            assert named == (wanted if k else {items[5].image_id})
            assert "--dataset" in raised.value.remedy
    assert set(verify_store(path).lost) == wanted
    items[4].path.write_bytes(b"image 4")
    mapper = CheapMapper(kind)
    run_cheap(kind, tmp_path, items, mapper=mapper)
    assert set(mapper.mapped) == wanted | {items[4].image_id} and verify_store(path).ok
    now = opened(path)
    assert {i: now.read(i)[DATA[kind]].tobytes() for i in before} == before


@pytest.mark.promise("A damaged shard is an error, and exactly its rows are computed again.")
@pytest.mark.parametrize("damage", ["cut", "empty", "other rows", "earlier"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_shard_is_an_error_and_its_rows_are_computed_again(tmp_path, kind, damage):
    items = make_items(tmp_path, ROWS)
    run_cheap(kind, tmp_path, items[:9])
    path = store_path(tmp_path, kind)
    earlier = shards(path)[-1].read_bytes()
    run_cheap(kind, tmp_path, items)
    before = content(kind, tmp_path)
    early = opened(path)
    *_, one, last = shards(path)
    bad = items[8:]
    if damage == "other rows":
        last.write_bytes(one.read_bytes())
    elif damage == "earlier":  # as after two writers, or when a single file is restored
        last.write_bytes(earlier)
        bad = items[9:]
    else:
        data = last.read_bytes()
        new = {"cut": data[: len(data) // 2], "empty": b""}
        last.write_bytes(new[damage])
    for store in (early, opened(path)):
        with pytest.raises(StoreError, match="damaged data"):
            store.read(bad[0].image_id)
    assert set(verify_store(path).damaged) == {i.image_id for i in bad}
    record = run_cheap(kind, tmp_path, items)
    assert record.redone == {"damaged in the store": len(bad)}
    assert content(kind, tmp_path) == before and verify_store(path).ok
