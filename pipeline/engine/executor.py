"""Map items to results: loader threads read ahead, a mapper works on batches, order is kept.

A `Mapper` is the model as the engine sees it; the executor decides where it runs. The caller (the
driver) receives the results in order and is the only one that writes, while the mapper works on
the next batch.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Protocol

from pipeline.engine import options
from pipeline.engine.progress import timed
from pipeline.errors import ConfigError, ModelError, StoreError
from pipeline.images.read import bytes_changed, unreadable
from pipeline.io import sha256_file
from pipeline.store.items import WorkItem

NOT_THE_ITEM = (ModelError, ConfigError, StoreError)
"""Errors of `Mapper.map` that would meet every item: they end the run."""


class Mapper(Protocol):
    """Turns items into rows. SAM2, CLIP, the prompt benchmark and thumbnails are mappers.

    `load` reads and preprocesses one item, in a loader thread; an `Exception` fails the item.

    `map` returns one row per item, in order, and may be called from several threads at the same
    time. A row depends on its own item only, never on the rest of the batch. If it raises, the
    batch is repeated item by item, so that an image that the model cannot process fails alone.
    """

    device: str
    """Where the model computes, such as "cpu" or "cuda"; "" if there is no model."""

    def load(self, item: WorkItem) -> Any: ...

    def map(self, items: Sequence[WorkItem], loaded: Sequence[Any]) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Result:
    """The outcome of one item: its row, or the error that it failed with."""

    item: WorkItem
    row: Any = None
    error: Exception | None = None


class LocalExecutor:
    """Runs the mapper in threads of this process. Results do not depend on its arguments.

    Args:
        batch_size: items mapped together.
        workers: loader threads; None uses one per core, at most 8.
        cores: slices of a batch that are mapped at the same time; None chooses by the device. A
            forward pass on all cores would wait at every layer for the slowest one.

    Attributes:
        seconds: what `imap` waited for so far: "load_wait" (images) and "model".
    """

    def __init__(self, batch_size: int, workers: int | None = None, cores: int | None = None):
        options.keep_freed_memory()
        self.batch_size, self.cores = batch_size, cores
        self.workers = workers or options.default_workers()
        self.seconds = {"load_wait": 0.0, "model": 0.0}

    def imap(
        self,
        factory: Callable[[], Mapper],
        items: Iterable[WorkItem],
        *,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[Result]:
        """Yield the result of every item, in order.

        At most four batches are in memory: two with the model, one ready, one being read.

        Args:
            factory: builds the mapper, where it runs.
            items: what to map.
            stopped: checked while waiting; once it returns True no further batch is begun, and
                the iteration ends with the results of those that were.

        Raises:
            ModelError, ConfigError, StoreError: the error is not that of a single item.
        """
        mapper = factory()
        self.cores = self.cores or options.model_cores(mapper.device)
        slices = max(1, min(self.cores, self.batch_size))
        loaders = ThreadPoolExecutor(self.workers, "load", options.set_torch_threads, (1,))
        threads = (self.cores // slices,)
        models = ThreadPoolExecutor(slices, "model", options.set_torch_threads, threads)
        source = iter(items)
        loading: deque[Future[Result]] = deque()
        mapping: deque[Future[list[Result]]] = deque()

        def next_batch() -> list[Result]:
            """Wait for the next batch of loaded items, while further ones are read."""
            batch: list[Result] = []
            while len(batch) < self.batch_size and not stopped():
                for item in islice(source, max(self.batch_size, self.workers) - len(loading)):
                    loading.append(loaders.submit(load_item, mapper, item))
                if not loading:
                    break
                # A short wait, so that Ctrl-C is answered while a slow file is read.
                if wait([loading[0]], timeout=0.2).done:
                    batch.append(loading.popleft().result())
            return [] if stopped() else batch

        try:
            while True:
                while len(mapping) <= slices:
                    with timed(self.seconds, "load_wait"):
                        batch = next_batch()
                    if not batch:
                        break
                    n = min(slices, len(batch))
                    ends = [len(batch) * i // n for i in range(n + 1)]
                    for a, b in pairwise(ends):
                        mapping.append(models.submit(map_slice, mapper, batch[a:b], stopped))
                if not mapping:
                    return
                with timed(self.seconds, "model"):
                    results = mapping.popleft().result()
                yield from results
        finally:
            loaders.shutdown(wait=False, cancel_futures=True)
            models.shutdown(cancel_futures=True)


def load_item(mapper: Mapper, item: WorkItem) -> Result:
    """Return an item with what the mapper loaded for it as its row, or with its error."""
    try:
        check_bytes(item)
        return Result(item, mapper.load(item))
    except Exception as error:
        return Result(item, error=error)


def map_slice(mapper: Mapper, part: list[Result], stopped: Callable[[], bool]) -> list[Result]:
    """Map loaded items; if that fails, one by one. Nothing once `stopped` returns True."""
    if stopped():
        return []
    ready = [one for one in part if one.error is None]
    try:
        rows = mapper.map([one.item for one in ready], [one.row for one in ready]) if ready else []
        if len(rows) != len(ready):
            raise ValueError(f"the mapper returned {len(rows)} rows for {len(ready)} items")
    except NOT_THE_ITEM:
        raise
    except Exception as error:
        if len(part) == 1:
            return [Result(part[0].item, error=error)]
        return [result for one in part for result in map_slice(mapper, [one], stopped)]
    row = iter(rows)
    return [one if one.error is not None else Result(one.item, next(row)) for one in part]


def check_bytes(item: WorkItem) -> None:
    """Refuse a file whose bytes are not those of the manifest: the key of its row would be wrong.

    Raises:
        ImageError: the bytes changed, or the file cannot be read.
        PipelineError: it is not a file but a pipe, socket or device.
    """
    if "sha256" not in item.row:
        return
    try:
        stat = os.stat(item.path)
        digest = _sha256(item.path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise unreadable(item.path, error) from None
    if digest != item.row["sha256"]:
        raise bytes_changed(item.path)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    return sha256_file(path)  # cached because a volume of 100 frames is one file of 100 items
