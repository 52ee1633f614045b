"""kill -9 at every step of a commit, errors of the disk: what was committed stays."""

import multiprocessing
import os
import resource
import shutil
import signal
from dataclasses import replace

import pytest
import xarray as xr

from benchmarks.cheap_stage import CheapMapper, make_items, make_writer, run_cheap, store_path
from benchmarks.store_stage import content, faults_of
from pipeline.errors import DiskError, StoreError
from pipeline.store import verify_store
from tests.store.conftest import ROWS, opened

STEPS = ("replace", "rename", "unlink", "rmdir")
RUNS = {
    "append": {},
    "redo": {"force": True},
    "force": {"force": True, "on_mismatch": "force"},
}


def _run(kind, folder, how, kill_at, counted):
    """Run the cheap stage; end this process by SIGKILL before step `kill_at` of the file system."""
    for name in STEPS:
        step = getattr(os, name)

        def counting(*args, step=step, **kwargs):
            counted.value += 1
            if counted.value == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*args, **kwargs)

        setattr(os, name, counting)
    options = {"commit_seconds": 0.0, "batch_size": 5, **RUNS[how]}
    run_cheap(kind, folder, make_items(folder, 14), **options)


@pytest.mark.promise("A run killed at any moment loses nothing that was committed.")
@pytest.mark.parametrize(
    ("kind", "how"), [("masks", "append"), ("features", "redo"), ("features", "force")]
)
def test_a_kill_before_any_step_of_the_file_system_loses_nothing(tmp_path, kind, how):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.store.test_commits"])
    start, path = tmp_path / "start", store_path(tmp_path / "start", kind)
    if how != "append":
        run_cheap(kind, start, make_items(start, 14))
    begin = content(kind, start) if path.exists() else {}

    def child(folder, kill_at):
        counted = context.Value("i", 0, lock=False)  # a killed child would hold a lock for ever

        process = context.Process(target=_run, args=(kind, folder, how, kill_at, counted))
        process.start()
        process.join()
        return process.exitcode, counted.value

    start.mkdir(exist_ok=True)
    calm = shutil.copytree(start, tmp_path / "calm")
    code, steps = child(calm, 0)
    assert code == 0 and steps > 20
    expected = content(kind, calm)
    for kill_at in range(1, steps + 1, max(1, steps // 3)):
        folder = shutil.copytree(start, tmp_path / f"kill{kill_at}")
        code, _ = child(folder, kill_at)
        assert code == -signal.SIGKILL, kill_at
        left = store_path(folder, kind)
        if (left / "zarr.json").exists():
            assert faults_of(left) == [], kill_at
            now = content(kind, folder) if begin else {}
            for image_id, row in begin.items():  # the old row or the new one, never none
                assert now[image_id] in (row, expected[image_id]), (kill_at, image_id)
        assert child(folder, 0)[0] == 0, kill_at
        assert content(kind, folder) == expected, kill_at
        assert sorted(p.name for p in folder.iterdir() if ".zarr" in p.name) == [left.name]


@pytest.mark.promise("A full disk loses nothing that was committed.")
@pytest.mark.parametrize("change", ["rows", "labels"])
def test_a_failed_write_keeps_the_old_rows_and_the_next_run_goes_on(store, change):
    kind, folder, items, path = store
    before = content(kind, folder)
    if change == "labels":
        items = [replace(item, row={**item.row, "label": "cow"}) for item in items]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))  # bytes a file: as a full disk
    try:
        with pytest.raises(DiskError):
            run_cheap(kind, folder, items, force=change == "rows")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert content(kind, folder) == before and verify_store(path).ok
    more = make_items(folder, ROWS + 2)
    assert run_cheap(kind, folder, more).done == 2
    now = content(kind, folder)
    assert {k: now[k] for k in before} == before


@pytest.mark.promise("The index lists a row after its data are on disk.")
def test_a_shard_that_cannot_be_written_adds_no_row_to_the_index(tmp_path, small_shards):
    items = make_items(tmp_path, 12)
    run_cheap("masks", tmp_path, items[:8])
    path = store_path(tmp_path, "masks")
    (path / "mask/c/2").write_bytes(b"a file where the folder of the third shard belongs")
    with pytest.raises(DiskError):
        run_cheap("masks", tmp_path, items)
    ids = sorted(item.image_id for item in items[:8])
    assert list(opened(path)) == ids and verify_store(path).ok
    (path / "mask/c/2").unlink()
    assert run_cheap("masks", tmp_path, items).done == 4 and verify_store(path).ok


@pytest.mark.parametrize("column", ["label", "status"])
def test_changed_rows_are_seen_at_once_and_a_plain_reader_keeps_its_moment(store, column):
    kind, folder, items, path = store
    earlier = xr.open_zarr(path)  # lazy: its columns are read after the change
    was = opened(path).frame.sort_values("row")[column].tolist()
    if column == "label":
        items = [replace(item, row={**item.row, "label": "cow"}) for item in items]
        assert run_cheap(kind, folder, items).done == 0
        assert set(opened(path).table().label) == {"cow"} == set(xr.open_zarr(path).label.values)
    else:  # every row superseded by a new one; not compacted while the writer works
        mapper = CheapMapper(kind)
        with make_writer(kind, folder, mapper.identity) as writer:
            writer.plan(items, force=True)
            writer.write(items[:2], mapper.map(items[:2], [mapper.load(i) for i in items[:2]]))
        now = xr.open_zarr(path)
        assert (now.status == "superseded").sum() == 2 and (now.image_id == "").sum() == 2
        assert sorted(set(now.image_id.values) - {""}) == sorted(i.image_id for i in items)
    assert earlier[column].values.tolist() == was


@pytest.mark.promise("A store with a damaged index is refused, and nothing in it is deleted.")
@pytest.mark.parametrize("how", ["deleted", "noise", "cut"])
def test_a_damaged_index_is_an_error_until_force_builds_the_store_again(store, how):
    kind, folder, items, path = store
    before = content(kind, folder)
    file = path / opened(path).attrs["index"]
    data = file.read_bytes()
    file.unlink() if how == "deleted" else file.write_bytes(
        {"noise": os.urandom(len(data)), "cut": data[:-9]}[how]
    )
    with pytest.raises(StoreError, match="row index"):
        opened(path)
    with pytest.raises(StoreError, match="--force"):
        run_cheap(kind, folder, items)
    assert not verify_store(path).ok
    record = run_cheap(kind, folder, items, on_mismatch="rebuild", force=True)
    assert record.redone == {"the row index is lost or damaged": ROWS}
    assert content(kind, folder) == before


@pytest.mark.parametrize("text", [None, "", "{}", "null"])
def test_a_lost_or_damaged_root_is_an_error_and_nothing_is_deleted(store, text):
    kind, folder, items, path = store
    (path / "zarr.json").unlink()
    if text is not None:
        (path / "zarr.json").write_text(text)
    files = sorted(path.rglob("*"))
    for open_it in (opened, lambda _: run_cheap(kind, folder, items)):
        with pytest.raises(StoreError):
            open_it(path)
    assert sorted(path.rglob("*")) == files and not verify_store(path).ok


def test_damaged_columns_of_plain_readers_are_named_and_written_again(store):
    kind, folder, items, path = store
    for name in ("label/c/0", "label/c.0"):
        (path / name).unlink(missing_ok=True)
    assert verify_store(path).problems and not verify_store(path).damaged
    run_cheap(kind, folder, items, force=True)
    assert verify_store(path).ok
