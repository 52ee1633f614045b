"""Rows computed by the workers of an engine are those of one process, whatever dies."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import threading
import time
from contextlib import closing
from functools import partial

import numpy as np
import pandas as pd
import psutil
import pytest

from benchmarks.cheap_stage import CheapMapper, make_items, make_writer, manifest_of, run_cheap
from benchmarks.store_stage import content
from pipeline.engine import cluster
from pipeline.engine.options import RunOptions
from pipeline.engine.record import RunRecord
from pipeline.engine.run import run_items
from pipeline.errors import ConfigError, PipelineError
from pipeline.io import FileHashes
from pipeline.store import open_features, open_masks, verify_store
from tests.project import DATASET, Project
from tests.segment.small_sam2 import scene

distributed = pytest.importorskip("distributed")

EQUAL = (
    "With `--engine dask` masks equal those of one process to the bit and features to 1e-5, also "
    "when a worker is killed in the middle."
)
REFUSED = (
    "A worker with other code, a scheduler that is not there and a package that is missing end a "
    "run in one line with a remedy."
)


def work(address, folder):
    """A Dask worker in a process of its own."""

    async def run():
        options = {"nthreads": 1, "dashboard": False, "local_directory": folder}
        await (await distributed.Worker(address, **options)).finished()

    asyncio.run(run())


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    """A scheduler in this process and two workers, processes of a server that has loaded torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["distributed", "pipeline.encode.encode"])
    local = {"n_workers": 0, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(**local) as here:
        address, folder = here.scheduler_address, str(tmp_path_factory.mktemp("dask"))
        workers = [
            context.Process(target=work, args=(address, folder), daemon=True) for _ in range(2)
        ]
        for worker in workers:
            worker.start()
        here.processes = workers
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=600)
            pids = client.run(os.getpid)
        here.pids = {pid: name for name, pid in pids.items()}
        yield here
        for worker in workers:
            worker.kill()
            worker.join()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("toy"))
    for i in range(12):
        image, region = scene(i, 40 + 3 * i, 70 - 2 * i)
        made.add(f"{i}.png", image, region, label="cat" if i % 2 else "dog")
    made.add("copy.png", scene(3, 49, 64)[0])
    return made


def kill_one(dask):
    """Kill the worker that first has something to do, while it does it."""
    workers = {dask.pids[process.pid]: process for process in dask.processes}
    while not (busy := [n for n in workers if dask.scheduler.workers[n].processing]):
        time.sleep(0.001)
    workers[busy[0]].kill()


@pytest.mark.promise(EQUAL)
def test_rows_of_two_workers_one_of_them_killed_are_those_of_one_process(dask, project):
    from pipeline.encode.encode import encode_dataset
    from pipeline.segment.segment import segment_dataset
    from tests.encode.conftest import small_clip
    from tests.segment.small_sam2 import untrained

    sam2, clip = {"predictor": untrained()}, {"clip": small_clip()}
    params = project.params(segment__prompt="salient", encode__views=["whole", "masked"])
    paths = project.paths
    store, features = paths.masks(DATASET), paths.features(DATASET)
    own = {"batch_size": 2, "workers": 1, "progress": False}
    alone = RunOptions(force=True, **own)
    there = RunOptions(engine="dask", scheduler=dask.scheduler_address, **own)
    killer = threading.Thread(target=kill_one, args=(dask,), daemon=True)
    killer.start()
    record = segment_dataset(DATASET, params, paths, there, **sam2)
    killer.join(timeout=1)
    assert not killer.is_alive() and len(dask.scheduler.workers) == 1
    assert record.status == "ok" and record.done == 13 and record.copied == 1
    assert record.parameters["ranges"] == 3 and not list(store.glob(".partial-*"))
    assert encode_dataset(DATASET, params, paths, there, **clip).done == 13
    assert verify_store(store).ok and verify_store(features).ok
    before = [read(store) for store in (open_masks(store), open_features(features))]
    segment_dataset(DATASET, params, paths, alone, **sam2)
    encode_dataset(DATASET, params, paths, alone, **clip)
    masks, table = read(open_masks(store))
    pd.testing.assert_frame_equal(before[0][1], table, rtol=0, atol=1e-5)  # scores, prompts
    assert all(np.array_equal(before[0][0][name], mask) for name, mask in masks.items())
    for name, values in read(open_features(features))[0].items():
        np.testing.assert_allclose(before[1][0][name], values, atol=1e-5)


def read(store):
    """Return the data of a store by image, and its index without the order of the rows."""
    data = {name: next(iter(store.read(name).values())) for name in store}
    return data, store.table().drop(columns="row", errors="ignore")


def cheap(executor, folder, items, mapper):
    """Run the stage without a model by an executor."""
    with make_writer("masks", folder, mapper().identity) as writer:
        writer.sync_manifest(manifest_of(items))
        record, path = RunRecord("masks"), folder / "masks.json"
        options = RunOptions(progress=False)
        return run_items(
            record, path, items, mapper, writer, options, max_failed=0, executor=executor
        )


@pytest.mark.promise(REFUSED)
def test_a_worker_with_other_code_or_weights_is_refused(dask, tmp_path, monkeypatch):
    items = make_items(tmp_path, 6)

    def run(mapper):
        with closing(cluster.DaskPool(dask.scheduler_address)) as pool:
            executor = cluster.ClusterExecutor(pool, 2, 1, FileHashes())
            return cheap(executor, tmp_path, items, mapper)

    monkeypatch.setattr(cluster, "code_version", lambda: {"source": "abc", "torch": "1.0"})
    with pytest.raises(ConfigError, match=r"another version of the code.* instead of abc"):
        run(partial(CheapMapper, "masks"))
    monkeypatch.undo()
    # What the worker loads is not what the driver has: a pickled call decides it.
    with pytest.raises(ConfigError, match=r"would compute other rows: model\.tag"):
        run(OtherThere())
    with pytest.raises(PipelineError, match=r"cannot run this .*RuntimeError: no such model"):
        run(OtherThere(fails=True))
    assert not list(tmp_path.rglob(".partial-*"))
    assert run(partial(CheapMapper, "masks")).done == 6


@pytest.mark.promise("Ctrl-C lets the workers of an engine end what they have begun, and keeps it.")
def test_workers_that_are_stopped_write_what_they_have(dask, tmp_path):
    items, marker = make_items(tmp_path, 40), tmp_path / "images" / "mapped"
    with (
        make_writer("masks", tmp_path, CheapMapper("masks").identity) as writer,
        closing(cluster.DaskPool(dask.scheduler_address)) as pool,
    ):
        writer.plan(items)
        executor = cluster.ClusterExecutor(pool, 1, 1, FileHashes())
        slow = partial(Marking, "masks", seconds=0.2)
        results = executor.compute(slow, items, writer, marker.exists)
        kept = [item.image_id for item, _ in results]
    assert 0 < len(kept) < 20 and set(open_masks(tmp_path / "masks.zarr")) == set(kept)


class Marking(CheapMapper):
    """Says when its first batch is done, by a file beside the images."""

    def map(self, items, loaded):
        rows = super().map(items, loaded)
        items[0].path.with_name("mapped").touch()
        return rows


class OtherThere:
    """A recipe that makes another mapper in another process."""

    def __init__(self, fails=False, pid=None):
        self.fails, self.pid = fails, pid or os.getpid()

    def __call__(self):
        if self.fails and os.getpid() != self.pid:
            raise RuntimeError("no such model")
        return CheapMapper("masks", tag="a" if os.getpid() == self.pid else "b")


@pytest.mark.promise(REFUSED)
def test_what_is_not_there_is_said_in_one_line(monkeypatch):
    with pytest.raises(ConfigError, match="no Dask scheduler at tcp"):
        cluster.DaskPool("tcp://127.0.0.1:9", timeout=1)
    for name in ("distributed", "ray"):
        monkeypatch.setitem(sys.modules, name, None)
    for engine in ("dask", "ray"):
        with pytest.raises(ConfigError, match=rf"pip install 'medfocusclip\[{engine}\]'"):
            cluster.open_pool(RunOptions(engine=engine, scheduler="x"))
    wrong = ({"engine": "spark"}, {"engine": "dask"}, {"scheduler": "x"})
    for options in (*wrong, {"engine": "ray", "scheduler": "x", "devices": "0"}):
        with pytest.raises(ConfigError):
            RunOptions(**options)


class Deadly(CheapMapper):
    """Ends its process at one image."""

    def load(self, item):
        if item.image_id.endswith("/20.bin"):
            os._exit(1)
        return super().load(item)


@pytest.mark.promise("`--devices` gives each GPU a worker process of its own.")
def test_processes_with_a_device_each_write_the_rows_and_a_dead_one_ends_the_run(tmp_path):
    items = make_items(tmp_path, 24)
    with closing(cluster.open_pool(RunOptions(devices="0, 1"))) as pool:
        executor = cluster.ClusterExecutor(pool, 4, 1, FileHashes())
        assert cheap(executor, tmp_path, items[:16], partial(CheapMapper, "masks")).done == 16
        assert executor.parameters["ranges"] == 4
        run_cheap("masks", tmp_path / "one", items[:16])
        assert content("masks", tmp_path) == content("masks", tmp_path / "one")
        with pytest.raises(PipelineError, match="the workers are lost") as caught:
            cheap(executor, tmp_path, items, partial(Deadly, "masks"))
        assert "run again" in caught.value.remedy
    assert len(open_masks(tmp_path / "masks.zarr")) >= 16
    assert run_cheap("masks", tmp_path, items).done + 16 <= 24


@pytest.mark.skipif("RAY_ADDRESS" not in os.environ, reason="no Ray here; see docs/scale.md")
def test_rows_of_a_ray_cluster_one_of_whose_workers_is_killed_are_those_of_one_process(tmp_path):
    def kill():
        while not list(tmp_path.glob("*.zarr/.partial-*/*")):
            time.sleep(0.01)
        names = {process: process.name() for process in psutil.process_iter()}
        next(process for process, name in names.items() if name == "ray::run_range").kill()

    items, killer = make_items(tmp_path, 24), threading.Thread(target=kill, daemon=True)
    with closing(cluster.RayPool(os.environ["RAY_ADDRESS"])) as pool:
        executor = cluster.ClusterExecutor(pool, 3, 1, FileHashes())
        killer.start()
        assert (
            cheap(executor, tmp_path, items, partial(CheapMapper, "masks", seconds=0.2)).done == 24
        )
    killer.join(timeout=1)
    run_cheap("masks", tmp_path / "one", items)
    assert not killer.is_alive() and content("masks", tmp_path) == content(
        "masks", tmp_path / "one"
    )
