"""Map items to results: loader threads read ahead, a mapper works on batches, order is kept.

A `Mapper` is the model as the engine sees it; the executor decides where it runs. The caller (the
driver) receives the results in order and is the only one that writes.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as NotReady
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any, Protocol

from pipeline.engine.devices import keep_freed_memory, model_cores, set_torch_threads
from pipeline.errors import ConfigError, ModelError, StoreError
from pipeline.images.read import bytes_changed, unreadable
from pipeline.io import sha256_file
from pipeline.store.items import WorkItem

NOT_THE_ITEM = (ModelError, ConfigError, StoreError)
"""Errors that would meet every item: they end the run instead of failing one item."""


class Mapper(Protocol):
    """Turns items into rows. SAM2, CLIP and the prompt benchmark are mappers."""

    device: str
    """Where the model computes, such as "cpu" or "cuda"; "" if there is no model."""

    def load(self, item: WorkItem) -> Any:
        """Read and preprocess one item. Called in loader threads; an `Exception` fails the item."""
        ...

    def map(self, items: Sequence[WorkItem], loaded: Sequence[Any]) -> Sequence[Any]:
        """Return one row per item, in order.

        May be called from several threads at the same time. A row depends on its own item only,
        never on the rest of the batch. If it raises, the batch is repeated item by item, so that
        an image that the model cannot process fails alone.
        """
        ...


MapperFactory = Callable[[], Mapper]


@dataclass(frozen=True)
class Result:
    """The outcome of one item: its row, or the error that it failed with."""

    item: WorkItem
    row: Any = None
    error: Exception | None = None


class LocalExecutor:
    """Runs the mapper in this process, with threads that read ahead. Results do not depend on it.

    Args:
        batch_size: items mapped together.
        workers: loader threads; None uses one per core, at most 8; 0 loads in the calling thread.
        cores: slices of a batch that are mapped at the same time; None chooses by the device.

    Attributes:
        seconds: time spent so far: "load_wait" (the model waited for images) and "model".
    """

    def __init__(self, batch_size: int, workers: int | None = None, cores: int | None = None):
        keep_freed_memory()
        self.batch_size, self.cores = batch_size, cores
        self.workers = default_workers() if workers is None else workers
        self.seconds = {"load_wait": 0.0, "model": 0.0}

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments as used, for the run record; `cores` is None until the mapper is known."""
        return {"batch_size": self.batch_size, "workers": self.workers, "cores": self.cores}

    def imap(
        self,
        factory: MapperFactory,
        items: Iterable[WorkItem],
        *,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[Result]:
        """Yield the result of every item, in order.

        At most `2 * batch_size` items are in memory ahead of the model.

        Args:
            factory: builds the mapper, in the process that runs it.
            items: what to map.
            stopped: checked while waiting; once it returns True the iteration ends early.

        Raises:
            ModelError, ConfigError, StoreError: the error is not that of a single item.
        """
        mapper = factory()
        self.cores = self.cores or model_cores(mapper.device)
        slices = max(1, min(self.cores, self.batch_size))
        loaded = load_in_order(
            items, mapper.load, workers=self.workers, ahead=2 * self.batch_size, stopped=stopped
        )
        pool = ThreadPoolExecutor(
            slices, "model", initializer=set_torch_threads, initargs=(self.cores // slices,)
        )
        with pool, closing(loaded):
            while True:
                with self._clock("load_wait"):
                    batch = list(islice(loaded, self.batch_size))
                if not batch or stopped():
                    return
                yield from self._map(mapper, pool, slices, batch, stopped)

    def _map(
        self,
        mapper: Mapper,
        pool: ThreadPoolExecutor,
        slices: int,
        batch: Sequence[Result],
        stopped: Callable[[], bool],
    ) -> Iterator[Result]:
        """Map a batch of loaded items; if that fails, repeat it item by item."""
        ready = [one for one in batch if one.error is None]
        try:
            with self._clock("model"):
                rows = iter(map_slices(mapper, ready, pool, slices))
        except NOT_THE_ITEM:
            raise
        except Exception as error:
            if len(batch) == 1:
                yield Result(batch[0].item, error=error)
                return
            for one in batch:
                if stopped():
                    return
                yield from self._map(mapper, pool, slices, [one], stopped)
            return
        for one in batch:
            yield one if one.error is not None else Result(one.item, next(rows))

    @contextmanager
    def _clock(self, part: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] += time.monotonic() - start


def map_slices(
    mapper: Mapper, ready: Sequence[Result], pool: ThreadPoolExecutor, slices: int
) -> list[Any]:
    """Map equal slices of a batch at the same time, one per CPU core; return one row per item.

    A forward pass on all cores waits at every layer for the slowest core, and the loader threads
    keep slowing one down. Slices are only joined at the end of the batch. A single slice (a GPU)
    is mapped in the calling thread.

    Raises:
        ValueError: the mapper returned another number of rows than it was given items.
        Exception: whatever the mapper raised, after all slices have ended.
    """

    def part(some: Sequence[Result]) -> list[Any]:
        rows = list(mapper.map([one.item for one in some], [one.row for one in some]))
        if len(rows) != len(some):
            raise ValueError(f"the mapper returned {len(rows)} rows for {len(some)} items")
        return rows

    n = min(slices, len(ready))
    if n < 2:
        return part(ready) if ready else []
    ends = [len(ready) * i // n for i in range(n + 1)]
    calls = [pool.submit(part, ready[a:b]) for a, b in pairwise(ends)]
    wait(calls)
    return [row for call in calls for row in call.result()]


def default_workers() -> int:
    """Return the number of cores that this process may use, at most 8."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(8, cores))


def load_in_order(
    items: Iterable[WorkItem],
    load: Callable[[WorkItem], Any],
    *,
    workers: int,
    ahead: int,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Result]:
    """Yield a `Result` for every item, in order, whose `row` is what `load` returned.

    Args:
        items: what to load.
        load: called in a thread; an `Exception` becomes the error of the item.
        workers: threads; 0 loads in the calling thread.
        ahead: bound on the items that are loaded but not yet yielded.
        stopped: checked while waiting; once it returns True the iteration ends.
    """

    def attempt(item: WorkItem) -> Result:
        try:
            check_bytes(item)
            return Result(item, load(item))
        except Exception as error:
            return Result(item, error=error)

    if workers == 0:
        for item in items:
            if stopped():
                return
            yield attempt(item)
        return
    pool = ThreadPoolExecutor(
        workers, thread_name_prefix="load", initializer=set_torch_threads, initargs=(1,)
    )
    waiting: deque[Future[Result]] = deque()
    source = iter(items)
    try:
        while True:
            for item in islice(source, max(ahead, workers) - len(waiting)):
                waiting.append(pool.submit(attempt, item))
            if not waiting:
                return
            first, result = waiting.popleft(), None
            while result is None:
                if stopped():
                    return
                try:
                    # A short wait, so that Ctrl-C is answered while a slow file is read.
                    result = first.result(timeout=0.2)
                except NotReady:
                    continue
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def check_bytes(item: WorkItem) -> None:
    """Compare the bytes of an item's file with the sha256 of the manifest, where it has one.

    Raises:
        ImageError: the file cannot be read, or its bytes changed, so that the key of the row would
            be wrong.
        PipelineError: it is not a file but a pipe, socket or device.
    """
    expected = str(item.row.get("sha256") or "")
    if not expected:
        return
    try:
        stat = os.stat(item.path)
        digest = _digest(str(item.path), stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise unreadable(item.path, error) from None
    if digest != expected:
        raise bytes_changed(item.path)


@lru_cache(maxsize=64)
def _digest(path: str, size: int, modified_ns: int) -> str:
    # Cached because a volume of 100 frames is one file of 100 items.
    return sha256_file(path)
