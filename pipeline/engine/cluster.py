"""Work done by other processes: workers of a Dask or Ray cluster, or one for each GPU here.

The driver cuts the work into parts (images, fits, comparisons), hands out a few more than there are
workers, and writes what comes back. The engine gives the part of a worker that died to another one.
Of a store a part is a range of at most a shard of rows: a worker computes it with a `LocalExecutor`
of its own, writes a shard into the staging folder of the store, and returns what the index lists of
it; the driver commits the index.

Workers need the driver's environment and see the project folder at the driver's path; the images
may be read where they are. Images and stores at a URL need no shared file system.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import joblib

from pipeline import remote
from pipeline.engine import process
from pipeline.engine.options import RunOptions
from pipeline.engine.record import LIBRARIES, library_versions
from pipeline.engine.run import LocalExecutor, Mapper, prepared
from pipeline.errors import ConfigError, PipelineError, RemoteError, reason_of
from pipeline.io import (
    FileHashes,
    partial_path,
    remove_leftovers,
    sha256_file,
    sha256_json,
    writing,
)
from pipeline.store import layout
from pipeline.store.items import WorkItem, identity_diff

if TYPE_CHECKING:
    from pipeline.store.writer import Prepared, StoreWriter, WrittenShard

RUNNING = "running"
"""File of the staging folder without which workers end with the batches that they have begun."""
POLL_SECONDS = 5.0  # at a URL a worker asks for it this often
DIED = "the workers that computed it, and what was queued with it, died (memory?)"


class Pool(Protocol):
    """The workers of an engine.

    `size` is how many there are now, 0 while a cluster starts them; `died` has the errors of a task
    whose workers died more often than the engine tries again.
    """

    died: tuple[type[Exception], ...]

    def size(self) -> int: ...

    def submit(self, *arguments: bytes) -> Future: ...  # runs `run_part`

    def close(self) -> None: ...


class DaskPool:
    """The workers of a running Dask scheduler, such as tcp://host:8786."""

    def __init__(self, address: str):
        from distributed import Client, KilledWorker

        self.client = Client(address, timeout=30, set_as_default=False)
        self.died = (KilledWorker,)
        tasks = self.client.get_executor(pure=False)  # else two equal tasks would be one
        self.submit = partial(tasks.submit, run_part)

    def ask_all(self) -> dict[str, Any]:
        return self.client.run(version_error, code_version(), on_error="return")

    def size(self) -> int:
        try:
            return len(self.client.nthreads())
        except (OSError, RuntimeError) as error:
            remedy = "start it and its workers, and run again; finished rows are kept"
            raise PipelineError(f"the scheduler is gone ({error})", remedy=remedy) from error

    def close(self) -> None:
        self.client.close()


class RayPool:
    """The processes of a running Ray cluster, such as auto, host:6379 or ray://host:10001.

    Each takes a core, or where the cluster has GPUs one of these.
    """

    def __init__(self, address: str):
        import ray

        ray.init(address, log_to_driver=False, logging_level="ERROR")
        gone = ("WorkerCrashedError", "NodeDiedError", "OutOfMemoryError")
        self.died = tuple(getattr(ray.exceptions, name) for name in gone)
        self.ray, self.unit = ray, "GPU" if ray.cluster_resources().get("GPU") else "CPU"
        needs = {"num_cpus": 1, "num_gpus": int(self.unit == "GPU"), "max_retries": 3}
        self.task = ray.remote(**needs)(run_part)

    def ask_all(self) -> dict[str, Any]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        probe, found = self.ray.remote(num_cpus=0)(version_error), {}
        for node in self.ray.nodes():
            if node["Alive"] and node["Resources"].get(self.unit):
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                asked = probe.options(scheduling_strategy=there).remote(code_version())
                found[node["NodeManagerHostname"]] = asked
        for name, asked in found.items():
            try:
                found[name] = self.ray.get(asked)
            except Exception as error:
                found[name] = error
        return found

    def size(self) -> int:
        return int(self.ray.cluster_resources().get(self.unit, 0))

    def submit(self, *arguments: bytes) -> Future:
        return self.task.remote(*arguments).future()

    def close(self) -> None:
        self.ray.shutdown()


class DevicePool:
    """Processes of this machine, each of which sees one of its GPUs. If one dies, the run ends."""

    died: ClassVar = ()

    def __init__(self, devices: Sequence[str]):
        # Not forked from here: CUDA and threads do not survive that.
        context, self.count = get_context("forkserver"), len(devices)
        free = context.SimpleQueue()
        for device in devices:
            free.put(device)
        start = {"initializer": _start_on_device, "initargs": (free,)}
        self.processes = ProcessPoolExecutor(self.count, context, **start)
        self.submit = partial(self.processes.submit, run_part)

    def size(self) -> int:
        return self.count

    def close(self) -> None:
        self.processes.shutdown(cancel_futures=True)


def _start_on_device(free: Any) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = free.get()  # read when torch looks for GPUs
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the driver answers it
    process.end_with_parent()


def _check_all(found: dict[str, Any]) -> None:
    """Raise ConfigError for the first worker with a `version_error`, or without that function."""
    for name, error in found.items():
        if isinstance(error, OSError):  # it is gone: the engine will notice
            continue
        if isinstance(error, Exception):
            error = f"cannot load this package ({reason_of(error)[:200]})"
        if error:
            raise _other_code(name, error)


def _other_code(worker: str, error: str) -> ConfigError:
    remedy = "install the driver's version there and start it again"
    return ConfigError(f"worker {worker} {error}", remedy=remedy)


@contextlib.contextmanager
def connected(options: RunOptions) -> Iterator[Pool | None]:
    """Yield the workers that the options name; None: the work is done in this process. Enter it
    before a model is loaded, so that a wrong address ends a run at once."""
    if options.in_this_process:
        yield None
        return
    with contextlib.closing(open_pool(options)) as pool:
        yield pool


def open_pool(options: RunOptions) -> Pool:
    """Return the workers that the options name.

    Raises:
        ConfigError: nobody answers at the address, a worker has other code, or the package of the
            engine is not installed.
    """
    if options.devices is not None:
        return DevicePool([name.strip() for name in options.devices.split(",")])
    options.knock()
    try:
        pool = (DaskPool if options.engine == "dask" else RayPool)(options.scheduler)
    except ImportError as error:
        remedy = f"pip install 'medfocusclip[{options.engine}]', here and where the workers run"
        message = f"--engine {options.engine} needs the package {error.name}"
        raise ConfigError(message, remedy=remedy) from None
    except Exception as error:  # Ray's are of no kind of their own
        raise options.nobody(error) from None
    with contextlib.ExitStack() as on_error:
        on_error.callback(pool.close)
        _check_all(pool.ask_all())
        on_error.pop_all()
    return pool


class Task(Protocol):
    """What all parts of some work have in common; it is pickled.

    `begin` returns what a worker keeps for all parts, such as a model. `run` does one part with it.
    """

    def begin(self) -> Any: ...

    def run(self, kept: Any, part: Any) -> Any: ...


def in_workers(
    pool: Pool, task: Task, parts: Iterable[Any], stopped: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Any, Any]]:
    """Yield each part of some work with its result, in any order; None if its workers died of it.

    Once `stopped` returns True no further part is handed out.

    Raises:
        PipelineError: what a worker raised (another version of the code, a model that cannot be
            loaded, a full disk); or the connection to the workers is lost.
    """
    about, common = pickle.dumps((code_version(), Path.cwd())), pickle.dumps(task)
    parts, running = iter(parts), {}
    while True:
        stop = stopped()
        room = 0 if stop else 2 * max(1, pool.size()) - len(running)
        for _, part in zip(range(room), parts, strict=False):
            # Bytes both ways: Dask tries what it cannot unpickle again for ever
            # (dask/distributed#3558), and no other version of the code is unpickled.
            running[pool.submit(about, common, pickle.dumps(part))] = part
        if not running or (stop and not pool.size()):
            return
        for future in wait(running, 0.5, FIRST_COMPLETED).done:
            yield running.pop(future), _result(future, pool)


def _result(future: Future, pool: Pool) -> Any:
    try:
        found = pickle.loads(future.result())
    except pool.died:
        return None
    except (Exception, CancelledError) as error:
        remedy = "see the log of scheduler and workers, and run again; what is finished is kept"
        lost = isinstance(error, (CancelledError, BrokenProcessPool))
        what = "the workers are lost" if lost else "a worker cannot run this"
        raise PipelineError(f"{what} ({reason_of(error)})", remedy=remedy) from error
    if isinstance(found, PipelineError):
        raise found
    return found


def ranges(items: Sequence[Any], pool: Pool, batch_size: int, most: int) -> Iterator[Sequence[Any]]:
    """Cut items into parts of whole batches, of at most `most` items, so that all workers have some
    to do."""
    batches = -(-len(items) // (2 * batch_size * max(1, pool.size())))
    rows = min(most, min(batches, most // batch_size or 1) * batch_size)
    return (items[at : at + rows] for at in range(0, len(items), rows))


@contextlib.contextmanager
def shared(value: Any, path: Path) -> Iterator[Path]:
    """Write a value beside `path`, where workers read it by `load_shared`, and remove it after the
    block. Raises DiskError where it cannot be written."""
    file = partial_path(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path)
            joblib.dump(value, file)
        yield file
    finally:
        file.unlink(missing_ok=True)


def load_shared(path: Path) -> Any:
    """Read a value of `shared`. Its arrays are mapped: processes of a machine share their pages."""
    return joblib.load(path, mmap_mode="r")


class ClusterExecutor:
    """Computes rows in the workers of a pool; an `Executor`.

    Masks are those of one process to the bit where the machines are alike; scores and features may
    differ in the last digits, where batches or threads are others.

    Args:
        pool: the workers.
        batch_size, workers: as of `LocalExecutor`, in each worker.
        hashes: knows the SHA-256 of files that the driver read before.

    `seconds` are the sums over all workers.
    """

    def __init__(self, pool: Pool, batch_size: int, workers: int | None, hashes: FileHashes):
        self.pool, self.batch_size, self.workers, self.hashes = pool, batch_size, workers, hashes
        self.seconds: dict[str, float] = {}
        self.parameters = {"batch_size": batch_size, "workers": workers, "ranges": 0}

    def compute(
        self,
        factory: Callable[[], Mapper],
        items: Sequence[WorkItem],
        writer: StoreWriter,
        stopped: Callable[[], bool],
    ) -> Iterator[tuple[WorkItem, str]]:
        """Compute rows in ranges; see `Executor`. Yields the items of a range when its shard is in
        its place. An item whose range killed its workers has failed. Raises as `in_workers`."""
        staging = writer.staging()
        task = RangeTask(factory, writer, staging, self.batch_size, self.workers)

        def stop() -> bool:
            if stopped():
                remote.remove(staging / RUNNING)  # ranges handed out end with what they have
            return stopped()

        try:
            layout.write_files(staging, {RUNNING: b""})
            parts = ranges(items, self.pool, self.batch_size, writer.shard_rows)
            for part, found in in_workers(self.pool, task, parts, stop):
                yield from self._finish(part, found, writer)
        finally:
            with contextlib.suppress(RemoteError):  # the next writer does it
                remote.remove_folder(staging)

    def _finish(
        self,
        part: Sequence[WorkItem],
        found: tuple[WrittenShard, dict[str, float]] | None,
        writer: StoreWriter,
    ) -> Iterator[tuple[WorkItem, str]]:
        if found is None:
            for item in part:
                writer.write_failed(item, DIED)
                yield item, DIED
            return
        shard, seconds = found
        writer.adopt(shard)
        self.parameters["ranges"] += 1
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
        by_id = {item.image_id: item for item in part}
        for row in shard.rows:
            yield by_id[row["image_id"]], row["reason"] if row["status"] == "failed" else ""


@dataclass(frozen=True)
class RangeTask:
    """A `Task` that computes items and writes their shard."""

    factory: Callable[[], Mapper]
    writer: StoreWriter
    staging: Path
    batch_size: int
    workers: int | None

    def stopped(self) -> bool:
        """Whether to stop; also where the driver is gone and the next one has cleaned up."""
        now = time.monotonic()
        period = now // POLL_SECONDS if remote.is_url(self.staging) else now
        return not _exists(self.staging / RUNNING, period)

    def begin(self) -> Mapper | None:
        """Return the mapper, None if there is nothing to do any more; ConfigError unless it
        computes the rows of the store."""
        if not remote.is_url(self.staging):
            os.stat(self.staging)  # this folder is the driver's
        if self.stopped():
            return None
        mapper = self.factory()
        own = {name: self.writer.identity.get(name) for name in mapper.identity}
        if differences := identity_diff(own, mapper.identity):
            message = f"a worker would compute other rows: {'; '.join(differences)}"
            remedy = "give driver and workers the same weights and kind of device, or set precision"
            raise ConfigError(message, remedy=remedy)
        return mapper

    def run(self, mapper: Mapper | None, items: Sequence[WorkItem]) -> tuple[WrittenShard, dict]:
        """Compute items (none without a mapper) and write their shard; return it with the seconds
        of its parts."""
        executor = LocalExecutor(self.batch_size, self.workers)

        def rows() -> Iterator[Prepared]:
            results = executor.imap(lambda: mapper, items, stopped=self.stopped)
            for result in results if mapper is not None else ():
                row, reason = prepared(self.writer, result)
                yield self.writer.failed(result.item, reason) if reason else row

        return self.writer.write_shard(rows(), self.staging), executor.seconds


@lru_cache(maxsize=1)
def _exists(file: Path, period: float) -> bool:
    """Return whether there is a file; it is looked for once in a period."""
    return remote.exists(file)


_one_at_a_time = threading.Lock()  # a Dask worker may have several threads
_last: dict[str, tuple[Task, Any]] = {}  # the work that this worker took part in last


def run_part(about: bytes, task: bytes, part: bytes) -> bytes:
    """Do a part of some work in a worker; everything is pickled. Returns the result of `Task.run`,
    or the `PipelineError` that it ended with, which names this machine."""
    with _one_at_a_time:
        version, folder = pickle.loads(about)
        if error := version_error(version):  # it has joined since the driver asked all
            return pickle.dumps(_other_code(socket.gethostname(), error))
        try:
            with contextlib.chdir(folder):  # paths may be relative
                key = sha256(task).hexdigest()
                if key not in _last:
                    _last.clear()
                    work = pickle.loads(task)
                    _last[key] = work, work.begin()
                work, kept = _last[key]
                return pickle.dumps(work.run(kept, pickle.loads(part)))
        except OSError as error:
            message, path = error.strerror or str(error), error.filename
            remedy = "workers read and write the project folder at the driver's path: mount it "
            remedy += "there, on all machines and with the right to write"
            found = PipelineError(f"cannot be used: {message}", path=path, remedy=remedy)
        except PipelineError as error:
            found = error
        found.message += f" (on worker {socket.gethostname()})"
        return pickle.dumps(found)


@cache
def code_version() -> dict[str, str]:
    """Return what workers have in common with the driver: versions of Python and the libraries, and
    a digest of the source of this package."""
    package = Path(__file__).parents[1]
    files = {str(f.relative_to(package)): sha256_file(f) for f in sorted(package.rglob("*.py"))}
    libraries = library_versions([*LIBRARIES, "scikit-learn", "scipy"])
    return {**libraries, "source": sha256_json(files)[:12]}


def version_error(wanted: dict[str, str]) -> str:
    """Return in what this process has other code than the driver, "" if in nothing."""
    own = code_version()
    other = sorted(name for name in wanted | own if wanted.get(name) != own.get(name))
    said = ", ".join(f"{name} {own.get(name)} instead of {wanted.get(name)}" for name in other)
    return f"has another version of the code: {said}" if other else ""
