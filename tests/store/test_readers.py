"""Reading during a write, from other processes and with other programs; linked files."""

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading

import pytest

from benchmarks.cheap_stage import make_items, run_cheap, store_path
from benchmarks.store_stage import content
from pipeline.errors import StoreError
from pipeline.store import open_features, open_masks, verify_store
from tests.store.conftest import DATA, ROWS, opened, reads, shards


@pytest.mark.promise("xarray opens both stores without a warning.")
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
    paths = [store_path(tmp_path, kind) for kind in ("masks", "features")]
    command = [sys.executable, "-W", "error", "-c", code, *paths]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repo)
    assert done.returncode == 0 and done.stderr == "" and done.stdout == "cheap\n", done.stderr


@pytest.mark.promise("A store of the other kind is named as that, not as damaged.")
def test_a_store_of_the_other_kind_is_called_that_and_not_damaged(store):
    kind, _, _, path = store
    wrong = open_features if kind == "masks" else open_masks
    with pytest.raises(StoreError, match=f"is a store of {kind}, not of .*open_{kind}"):
        wrong(path)


def _bytes_of(store, kind, image_id):
    """What each way of reading gives, by its name."""
    found = {name: read(store) for name, read in reads(kind, image_id).items()}
    return {name: pickle.dumps(values) for name, values in found.items()}


def _read_in_child(store, kind, image_id, queue):
    queue.put(_bytes_of(store, kind, image_id))


@pytest.mark.promise("A store can be read in worker processes, forked ones too.")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_store_that_was_read_is_read_in_worker_processes_too(store, method):
    kind, _, items, path = store
    reader = opened(path)
    expected = _bytes_of(reader, kind, items[1].image_id)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(
        target=_read_in_child, args=(reader, kind, items[1].image_id, queue), daemon=True
    )
    child.start()
    found = queue.get(timeout=240)
    child.join()
    assert found == expected


@pytest.mark.promise("Files linked into a DVC cache are never changed.")
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


@pytest.mark.promise("A row is never called damaged because a writer adds to its shard.")
@pytest.mark.promise("A reader sees the state of one commit.")
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


@pytest.mark.promise("A store of thousands of images is a few dozen files.")
def test_both_stores_of_600_images_are_few_files(tmp_path):
    for kind in ("masks", "features"):
        run_cheap(kind, tmp_path, make_items(tmp_path, 600, size=8), batch_size=300)
        path = store_path(tmp_path, kind)
        assert len(shards(path)) == 3
        assert sum(1 for f in path.rglob("*") if f.is_file()) < 35


def _times(path):
    return sorted((str(f), f.stat().st_mtime_ns) for f in path.rglob("*"))


@pytest.mark.promise("Reading a store writes nothing.")
@pytest.mark.promise("Stray files in a store do no harm.")
def test_stray_files_do_no_harm(store):
    kind, folder, _, path = store
    before, written = content(kind, folder), _times(path)
    assert verify_store(path).ok and _times(path) == written  # reading writes nothing
    for place in (path, path / DATA[kind], path / DATA[kind] / "c", path / "label" / "c"):
        place.mkdir(parents=True, exist_ok=True)
        (place / ".DS_Store").write_bytes(b"\0Bud1")
        (place / "._0").write_bytes(b"x")
    (path / ".partial-left").mkdir()
    (path / ".partial-left/0").write_bytes(b"half")
    assert content(kind, folder) == before and verify_store(path).ok
    assert run_cheap(kind, folder, make_items(folder, ROWS + 1)).done == 1
    assert not (path / ".partial-left").exists()
