"""Rows computed by the workers of an engine are those of one process, whatever dies."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from benchmarks.cheap_stage import CheapMapper, make_items, make_writer, manifest_of, run_cheap
from benchmarks.store_stage import content
from pipeline.audit import audit_dataset
from pipeline.audit.search import find_copies
from pipeline.audit.thumbnails import Thumbnails
from pipeline.engine import cluster
from pipeline.engine.cluster import connected
from pipeline.engine.options import RunOptions
from pipeline.engine.record import RunRecord
from pipeline.engine.run import run_items
from pipeline.errors import ConfigError, DiskError, PipelineError
from pipeline.io import FileHashes
from pipeline.learners.fitting import FitTask
from pipeline.paths import Paths
from pipeline.store import open_features, open_masks, verify_store
from tests.audit.folder import REPO, Folder, mirror, params, texture
from tests.learners.projects import small_params
from tests.learners.test_train import digests, make_project, train
from tests.project import DATASET, Project, in_process
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


def work(address, folder, ahead):
    """A Dask worker in a process of its own, whose clock is some seconds ahead."""
    now, now_ns = time.time, time.time_ns
    time.time, time.time_ns = lambda: now() + ahead, lambda: now_ns() + int(1e9 * ahead)

    async def run():
        options = {"nthreads": 1, "dashboard": False, "local_directory": folder}
        await (await distributed.Worker(address, **options)).finished()

    asyncio.run(run())


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    """A scheduler in this process and two workers, processes of a server that has loaded torch."""
    context = multiprocessing.get_context("forkserver")
    used = ["pipeline.audit", "pipeline.encode.encode", "pipeline.learners.train"]
    context.set_forkserver_preload(["distributed", *used])
    local = {"n_workers": 0, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(**local) as here:
        address, folder = here.scheduler_address, str(tmp_path_factory.mktemp("dask"))
        here.make = lambda ahead: context.Process(target=work, args=(address, folder, ahead))
        here.processes = {}  # by address
        with distributed.Client(address, set_as_default=False) as here.client:
            yield two_workers(here)
        for worker in here.processes.values():
            worker.kill()
            worker.join()


def two_workers(dask):
    """Start what two workers lack; the clock of the second is an hour ahead."""
    alive = [process for process in dask.processes.values() if process.is_alive()]
    new = [dask.make(3600.0 * (k % 2)) for k in range(len(alive), 2)]
    for process in new:
        process.start()
    while len(dask.scheduler.workers) < 2:
        time.sleep(0.01)
    by_pid = {process.pid: process for process in [*alive, *new]}
    pids = dask.client.run(os.getpid)
    dask.processes = {name: by_pid[pid] for name, pid in pids.items()}
    return dask


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("toy"))
    for i in range(12):
        made.add(f"{i}.png", *scene(i, 40 + 3 * i, 70 - 2 * i), label="cat" if i % 2 else "dog")
    made.add("copy.png", scene(3, 49, 64)[0])
    return made


def kill_one(dask):
    """Kill the worker that first has something to do, while it does it."""
    workers = dask.scheduler.workers
    while not (busy := [n for n in dask.processes if workers[n].processing]):
        time.sleep(0.001)
    dask.processes[busy[0]].kill()


@contextmanager
def one_killed(dask):
    """While the block works on two workers, kill one of them."""
    killer = threading.Thread(target=kill_one, args=(two_workers(dask),), daemon=True)
    killer.start()
    yield
    killer.join(timeout=1)
    assert not killer.is_alive() and len(dask.scheduler.workers) == 1


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
    there = engine(dask, **own)
    with one_killed(dask):
        record = segment_dataset(DATASET, params, paths, there, **sam2)
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


def cheap(options, folder, items, mapper, batch_size=1):
    """Run the stage without a model by the workers that options name."""
    with (
        make_writer("masks", folder, mapper().identity) as writer,
        closing(cluster.open_pool(options)) as pool,
    ):
        writer.sync_manifest(manifest_of(items))
        executor = cluster.ClusterExecutor(pool, batch_size, 1, FileHashes())
        how = {"max_failed": 0, "executor": executor}
        record, path = RunRecord("masks"), folder / "masks.json"
        return run_items(record, path, items, mapper, writer, RunOptions(progress=False), **how)


def engine(dask, **own):
    """Options that name the cluster."""
    return RunOptions(engine="dask", scheduler=dask.scheduler_address, **own)


@pytest.mark.promise(
    "With `--engine dask` the audit finds what one process finds, and fits are the same bits, also "
    "when a worker is killed in the middle."
)
def test_an_audit_by_two_workers_one_of_them_killed_is_that_of_one_process(dask, tmp_path):
    there, here = (Folder(tmp_path / name) for name in ("there", "here"))
    for one in (there, here):
        for i in range(75):  # in three parts
            image = texture(i if i < 70 else i - 70, side=48)
            one.save(f"{i}.png", image if i < 70 else mirror(image), split="train")
        one.save("no.png", b"no image")
        one.write()
    limit = params(max_failed=1)
    with one_killed(dask):
        summary = audit_dataset("toy", limit, there.paths, engine(dask))
    assert summary["thumbnails_read"] == 75 and list(summary["unreadable"]) == ["no.png"]
    assert summary["pairs"]["mirror"] == 5
    alone = audit_dataset("toy", limit, here.paths)
    assert alone | {"unreadable": summary["unreadable"]} == summary  # which names its folder
    for path in (Paths.audit, Paths.audit_pairs, Paths.thumbnails):
        assert path(there.paths, "toy").read_bytes() == path(here.paths, "toy").read_bytes()
    again = audit_dataset("toy", limit, there.paths, engine(dask))
    assert again == summary | {"thumbnails_read": 0}
    assert not list(there.paths.cache("toy").glob(".*"))


def test_copies_in_blocks_that_workers_compare_are_those_of_one_process(dask, tmp_path):
    random = np.random.default_rng(0)
    plain, detail = (random.integers(0, 256, (200, s, s), np.uint8) for s in (32, 64))
    plain[170:], detail[170:] = plain[:30], detail[:30]
    made = Thumbnails(plain, detail, np.ones(200, bool), np.arange(200), {})
    chosen = params(mirrored=False).audit
    two_workers(dask)
    with connected(engine(dask)) as pool:
        found, _ = find_copies(made, None, chosen, pool, tmp_path / "thumbnails.npz")
    assert found["left"].tolist() == list(range(30))
    assert found["right"].tolist() == list(range(170, 200))
    pd.testing.assert_frame_equal(found, find_copies(made, None, chosen)[0], rtol=0, atol=1e-5)


@pytest.fixture
def study():
    """Parameters of learners in NumPy, torch, scikit-learn and a file, two with a joint view."""
    file = str(Path(__file__).parents[2] / "examples" / "prototype_learner.py")
    views = {"official": ["masked", "whole+masked"]}
    chosen = small_params(
        *("linear-probe", "medfocus", "medfocus-probe"),
        train__views=views,
        splits__fractions=[1.0],
        learners__prototype={"file": file, "views": {"official": ["masked"]}},
    )
    return chosen


def test_fits_of_two_workers_one_of_them_killed_are_the_bits_of_one_process(dask, tmp_path, study):
    there, here = make_project(tmp_path / "there"), make_project(tmp_path / "here")
    with one_killed(dask):
        counts = train(there, study, options=engine(dask))
    assert counts == {"done": 14, "skipped": 0, "failed": 0, "total": 14}
    assert train(here, study) == counts
    assert digests(there) == digests(here)
    assert train(there, study, options=engine(dask)) == counts | {"done": 0, "skipped": 14}
    seconds = there.seconds("toy", "x").parent
    assert {path.stem for path in seconds.iterdir()} == set(study.learners)


def limit_files(size):
    """In a worker: limit the bytes of a file it writes, as a full disk does; None: no more."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most if size is None else size, most))


@pytest.mark.promise(
    "A full disk of one worker ends a run in one line that names it; what others did is kept."
)
def test_a_full_disk_on_one_worker_is_named_and_what_was_finished_is_kept(dask, tmp_path, study):
    full = list(two_workers(dask).processes)[1:]
    items, paths = make_items(tmp_path, 12), make_project(tmp_path / "project")

    run = partial(cheap, engine(dask), tmp_path, mapper=partial(CheapMapper, "masks"))
    assert run(items[:4]).done == 4
    dask.client.run(limit_files, 10, workers=full)
    said = r"cannot write: File too large \(on worker .*\) - free some space"
    try:
        with pytest.raises(DiskError, match=said):
            run(items)
        with pytest.raises(DiskError, match=said):
            train(paths, study, learners=["linear-probe"], options=engine(dask))
    finally:
        dask.client.run(limit_files, None, workers=full)
    kept, record = len(open_masks(tmp_path / "masks.zarr")), run(items)
    assert 4 <= kept < 12 and (record.done, record.skipped) == (12 - kept, kept)
    assert not list(tmp_path.rglob(".partial-*"))
    finished = len(list(paths.run("toy", "linear-probe").glob("partial-*")))
    counts = train(paths, study, learners=["linear-probe"], options=engine(dask))
    assert finished <= counts["skipped"] < 4 == counts["total"] and not counts["failed"]


@pytest.mark.promise(REFUSED)
def test_a_worker_that_does_not_see_the_project_or_has_joined_with_other_code_says_so(tmp_path):
    def answer(about, task=None):
        found = pickle.loads(cluster.run_part(pickle.dumps(about), pickle.dumps(task), b""))
        assert isinstance(found, PipelineError) and socket.gethostname() in str(found)
        return str(found)

    ours, gone = cluster.code_version(), tmp_path / "gone"
    assert re.search(r"torch \S+ instead of 1\.0", answer(({"torch": "1.0"}, tmp_path)))
    assert f"{gone}: cannot be used: No such file" in answer((ours, gone))
    # The folder is there, but not the one of the driver.
    for task in (FitTask(gone, None, ""), cluster.RangeTask(None, None, gone, 1, 1)):
        assert "mount it there" in answer((ours, tmp_path), task)
    with pytest.raises(ConfigError, match=r"worker b cannot load this package \(AttributeError"):
        cluster._check_all({"a": OSError("just died"), "b": AttributeError("no version_error")})


@pytest.mark.promise(REFUSED)
def test_an_address_where_nobody_answers_ends_a_command_before_it_loads_a_model(project):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shutil.copy(REPO / "params.yaml", project.paths.root)
    lost = "profiles.embedded.sam2.checkpoint=gone.pt"
    for command in ("segment", "audit", "train"):
        for name in ("dask", "ray"):
            where = "--engine", name, "--scheduler", address
            start = time.monotonic()
            code, said = in_process(
                project.paths.root, command, "--dataset", DATASET, *where, "--set", lost
            )
            said = said.splitlines()[-1]  # Dask says how busy this machine is
            assert code == 2 and time.monotonic() - start < 20
            assert f"no {name.capitalize()} " in said and f"at {address}" in said


@pytest.mark.promise(REFUSED)
def test_a_worker_with_other_code_or_weights_is_refused(dask, tmp_path, monkeypatch):
    run = partial(cheap, engine(dask), tmp_path, make_items(tmp_path, 6))
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
        closing(cluster.open_pool(engine(dask))) as pool,
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
    for engine, package in (("dask", "distributed"), ("ray", "ray")):
        monkeypatch.setitem(sys.modules, package, None)
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
    items, run = make_items(tmp_path, 24), partial(cheap, RunOptions(devices="0, 1"), tmp_path)
    record = run(items[:16], partial(CheapMapper, "masks"), 4)
    assert record.done == 16 and record.parameters["ranges"] == 4
    run_cheap("masks", tmp_path / "one", items[:16])
    assert content("masks", tmp_path) == content("masks", tmp_path / "one")
    with pytest.raises(PipelineError, match="the workers are lost") as caught:
        run(items, partial(Deadly, "masks"), 4)
    assert "run again" in caught.value.remedy
    assert len(open_masks(tmp_path / "masks.zarr")) >= 16
    assert run_cheap("masks", tmp_path, items).done + 16 <= 24


@pytest.fixture
def ray_head():
    """A Ray cluster of this machine with two workers: its process and its address."""
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray-")  # short, since paths of sockets are
    options = ["--head", "--block", "--num-cpus=2", f"--port={port}", f"--temp-dir={folder}"]
    options += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", "--disable-usage-stats"]
    options += ["--no-monitor", "--include-log-monitor=false"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options]
    # No token, since only this machine can connect; and time to start beside other tests.
    own = {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "300"}
    head = subprocess.Popen(command, env=os.environ | own, stdout=subprocess.PIPE, text=True)
    assert any("runtime started" in line for line in head.stdout)
    yield psutil.Process(head.pid), f"127.0.0.1:{port}"
    head.terminate()
    head.wait()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.promise(
    "With `--engine ray` rows and fits are those of one process, also when a worker is killed."
)
def test_rows_and_fits_of_ray_workers_one_of_them_killed_are_those_of_one_process(
    ray_head, tmp_path
):
    head, address = ray_head

    def busy():
        mine = {one.pid for one in head.children(recursive=True)}
        named = [one for one in psutil.process_iter(["name"]) if one.pid in mine]
        return [one for one in named if one.info["name"] == "ray::run_part"]

    def kill():
        while not (found := busy()):
            time.sleep(0.05)
        found[0].kill()

    items, killer = make_items(tmp_path, 24), threading.Thread(target=kill, daemon=True)
    options, slow = RunOptions(engine="ray", scheduler=address), partial(CheapMapper, seconds=0.2)
    killer.start()
    assert cheap(options, tmp_path, items, partial(slow, "masks"), 3).done == 24
    killer.join(timeout=1)
    run_cheap("masks", tmp_path / "one", items)
    rows, alone = content("masks", tmp_path), content("masks", tmp_path / "one")
    assert not killer.is_alive() and rows == alone
    there, here = make_project(tmp_path / "there"), make_project(tmp_path / "here")
    fits = small_params("linear-probe", train__views={"official": ["masked"]})
    counts = train(there, fits, options=options)
    assert counts == train(here, fits) and digests(there) == digests(here)
