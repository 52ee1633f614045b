"""Rows computed by other processes: workers of a Dask or Ray cluster, or one for each GPU here.

The driver cuts the items into ranges of at most a shard of rows, hands out a few more than there
are workers, and commits the index. A worker computes a range with a `LocalExecutor` of its own,
writes a shard into the staging folder of the store, and returns what the index lists of it. The
engine gives the range of a worker that died to another one.

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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pipeline import remote
from pipeline.engine import process
from pipeline.engine.options import RunOptions
from pipeline.engine.record import library_versions
from pipeline.engine.run import LocalExecutor, Mapper, prepared
from pipeline.errors import ConfigError, PipelineError, RemoteError, reason_of
from pipeline.io import FileHashes, sha256_file, sha256_json
from pipeline.store.items import WorkItem, identity_diff

if TYPE_CHECKING:
    from pipeline.store.writer import Prepared, StoreWriter, WrittenShard

RUNNING = "running"
"""File of the staging folder without which workers end with the batches that they have begun."""
POLL_SECONDS = 5.0  # at a URL a worker asks for it this often


class Pool(Protocol):
    """The workers of an engine.

    `size` is how many there are now, 0 while a cluster starts them; `died` has the errors of a task
    whose workers died more often than the engine tries again.
    """

    died: tuple[type[Exception], ...]

    def size(self) -> int: ...

    def submit(self, *arguments: bytes) -> Future: ...  # runs `run_range`

    def close(self) -> None: ...


class DaskPool:
    """The workers of a running Dask scheduler, such as tcp://host:8786.

    Raises ConfigError if `distributed` is not installed or nobody answers at the address.
    """

    def __init__(self, address: str, timeout: float = 30.0):
        try:
            from distributed import Client, KilledWorker
        except ImportError:
            raise _absent("distributed", "dask") from None
        try:
            self.client = Client(address, timeout=timeout, set_as_default=False)
        except (OSError, ValueError) as error:
            remedy = "start `dask scheduler` there, and `dask worker` on the machines"
            raise ConfigError(
                f"no Dask scheduler at {address} ({type(error).__name__})", remedy=remedy
            ) from None
        self.died = (KilledWorker,)
        tasks = self.client.get_executor(pure=False)  # else two equal tasks would be one
        self.submit = partial(tasks.submit, run_range)

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

    Each takes a core, or where the cluster has GPUs one of these. Raises ConfigError if `ray` is
    not installed or nobody answers at the address.
    """

    def __init__(self, address: str):
        try:
            import ray
        except ImportError:
            raise _absent("ray", "ray") from None
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # some are of no kind of their own
            remedy = "start `ray start --head` there, and `ray start --address` on the machines"
            raise ConfigError(
                f"no Ray cluster at {address} ({type(error).__name__})", remedy=remedy
            ) from None
        gone = ("WorkerCrashedError", "NodeDiedError", "OutOfMemoryError")
        self.died = tuple(getattr(ray.exceptions, name) for name in gone)
        self.ray, self.unit = ray, "GPU" if ray.cluster_resources().get("GPU") else "CPU"
        needs = {"num_cpus": 1, "num_gpus": int(self.unit == "GPU"), "max_retries": 3}
        self.task = ray.remote(**needs)(run_range)

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
        self.submit = partial(self.processes.submit, run_range)

    def size(self) -> int:
        return self.count

    def close(self) -> None:
        self.processes.shutdown(cancel_futures=True)


def _start_on_device(free: Any) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = free.get()  # read when torch looks for GPUs
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the driver answers it
    process.end_with_parent()


def _absent(package: str, extra: str) -> ConfigError:
    remedy = f"pip install 'medfocusclip[{extra}]', here and where the workers run"
    return ConfigError(f"--engine {extra} needs the package {package}", remedy=remedy)


def open_pool(options: RunOptions) -> Pool:
    """Return the workers that the options name; ConfigError if they cannot be reached."""
    if options.devices is not None:
        return DevicePool([name.strip() for name in options.devices.split(",")])
    return (DaskPool if options.engine == "dask" else RayPool)(options.scheduler)


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
        its place. An item whose range killed its workers has failed.

        Raises:
            PipelineError: what a worker raised (another version of the code, a model that cannot
                be loaded, a full disk); or the connection to the workers is lost.
        """
        staging, about = writer.staging(), pickle.dumps((code_version(), Path.cwd()))
        running_file = staging / RUNNING
        remote.write_file(running_file, b"")
        task = pickle.dumps(RangeTask(factory, writer, staging, self.batch_size, self.workers))
        # So that all workers have some to do, in the batches of one process.
        batches = -(-len(items) // (2 * self.batch_size * max(1, self.pool.size())))
        most = writer.shard_rows // self.batch_size or 1
        rows = min(writer.shard_rows, min(batches, most) * self.batch_size)
        ranges = iter([items[at : at + rows] for at in range(0, len(items), rows)])
        running: dict[Future, Sequence[WorkItem]] = {}
        try:
            while True:
                if stopped():
                    remote.remove(running_file)
                    ranges = iter(())  # those handed out end at once, or with what they have
                room = 2 * max(1, self.pool.size()) - len(running)
                for _, part in zip(range(room), ranges, strict=False):
                    # Bytes both ways: Dask tries what it cannot unpickle again for ever
                    # (dask/distributed#3558), and no other version of the code is unpickled.
                    running[self.pool.submit(about, task, pickle.dumps(part))] = part
                if not running or (stopped() and not self.pool.size()):
                    return
                for future in wait(running, 0.5, FIRST_COMPLETED).done:
                    yield from self._finish(future, running.pop(future), writer)
        finally:
            with contextlib.suppress(RemoteError):  # the next writer does it
                remote.remove_folder(staging)

    def _finish(
        self, future: Future, part: Sequence[WorkItem], writer: StoreWriter
    ) -> Iterator[tuple[WorkItem, str]]:
        try:
            found = pickle.loads(future.result())
        except self.pool.died:
            reason = "the workers that computed it and the images next to it died (memory?)"
            for item in part:
                writer.write_failed(item, reason)
                yield item, reason
            return
        except (Exception, CancelledError) as error:
            remedy = "see the log of scheduler and workers, and run again; finished rows are kept"
            lost = isinstance(error, (CancelledError, BrokenProcessPool))
            what = "the workers are lost" if lost else "a worker cannot run this"
            raise PipelineError(f"{what} ({reason_of(error)})", remedy=remedy) from error
        if isinstance(found, PipelineError):
            raise found
        shard, seconds = found
        writer.adopt(shard)
        self.parameters["ranges"] += 1
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
        by_id = {item.image_id: item for item in part}
        for row in shard.rows:
            yield by_id[row["image_id"]], row["reason"] if row["status"] == "failed" else ""


@cache
def code_version() -> dict[str, str]:
    """Return what workers have in common with the driver: versions of Python and the libraries, and
    a digest of the source of this package."""
    package = Path(__file__).parents[1]
    files = {str(f.relative_to(package)): sha256_file(f) for f in sorted(package.rglob("*.py"))}
    return {**library_versions(), "source": sha256_json(files)[:12]}


@dataclass(frozen=True)
class RangeTask:
    """What all ranges of a run have in common."""

    factory: Callable[[], Mapper]
    writer: StoreWriter
    staging: Path
    batch_size: int
    workers: int | None

    def stopped(self) -> bool:
        """Whether to stop; also where the driver is gone and the next one has cleaned up."""
        return not _exists(self.staging / RUNNING)

    def check(self, identity: dict[str, Any]) -> None:
        """Raise ConfigError unless a mapper of this identity computes the rows of the store."""
        own = {name: self.writer.identity.get(name) for name in identity}
        if differences := identity_diff(own, identity):
            message = f"a worker would compute other rows: {'; '.join(differences)}"
            remedy = "give driver and workers the same weights and kind of device, or set precision"
            raise ConfigError(message, remedy=remedy)

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


_asked: dict[str, tuple[float, bool]] = {}  # file at a URL -> when it was asked for, the answer


def _exists(file: Path) -> bool:
    if not remote.is_url(file):
        return file.exists()
    when, answer = _asked.get(str(file), (-POLL_SECONDS, True))
    if time.monotonic() - when > POLL_SECONDS:
        answer = remote.exists(file)
        _asked[str(file)] = time.monotonic(), answer
    return answer


_one_at_a_time = threading.Lock()  # a Dask worker may have several threads
_mapper: dict[str, Mapper] = {}  # of the last run that this worker took part in


def run_range(about: bytes, task: bytes, items: bytes) -> bytes:
    """Run a range in a worker; everything is pickled. Returns what `RangeTask.run` does, or the
    `PipelineError` that it ended with."""
    with _one_at_a_time:
        try:
            version, folder = pickle.loads(about)
            check_version(version)
            if not folder.is_dir():
                message = f"the project folder is not there on worker {socket.gethostname()}"
                remedy = "mount it at the same path on all machines"
                raise ConfigError(message, path=folder, remedy=remedy)
            with contextlib.chdir(folder):  # paths may be relative
                work, key = pickle.loads(task), sha256(task).hexdigest()
                if key not in _mapper and not work.stopped():
                    _mapper.clear()
                    mapper = work.factory()
                    work.check(mapper.identity)
                    _mapper[key] = mapper
                return pickle.dumps(work.run(_mapper.get(key), pickle.loads(items)))
        except PipelineError as error:
            return pickle.dumps(error)


def check_version(wanted: dict[str, str]) -> None:
    """Raise ConfigError if this process has other code than the driver."""
    own = code_version()
    other = sorted(name for name in wanted | own if wanted.get(name) != own.get(name))
    if other:
        said = ", ".join(f"{name} {own.get(name)} instead of {wanted.get(name)}" for name in other)
        message = f"worker {socket.gethostname()} has another version of the code: {said}"
        raise ConfigError(message, remedy="install the driver's version there and start it again")
