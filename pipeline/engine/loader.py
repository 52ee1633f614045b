"""Images read ahead of the model by a bounded pool of threads, handed over in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from functools import lru_cache
from typing import Any

from pipeline.engine.items import WorkItem
from pipeline.images.read import bytes_changed, unreadable
from pipeline.io import sha256_file

Loaded = tuple[WorkItem, Any, Exception | None]


def default_workers() -> int:
    """Return one loader thread a core that this process may use, at most 8."""
    available = getattr(os, "sched_getaffinity", None)
    cores = len(available(0)) if available else os.cpu_count() or 1
    return max(1, min(8, cores))


@lru_cache(maxsize=64)
def _digest(path: str, size: int, modified_ns: int) -> str:
    # Cached, since a volume of 100 frames is one file of 100 items.
    return sha256_file(path)


def check_bytes(item: WorkItem) -> None:
    """Compare the file's bytes with the manifest's sha256, where it has one.

    Raises:
        ImageError: the file cannot be read, or its bytes are not those that the manifest lists, so
            that the row's key would lie.
        PipelineError: it is no file but a pipe, socket or device.
    """
    wanted = str(item.row.get("sha256") or "")
    if not wanted:
        return
    try:
        stat = os.stat(item.path)
        digest = _digest(str(item.path), stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise unreadable(item.path, error) from None
    if digest != wanted:
        raise bytes_changed(item.path)


def load_in_order(
    items: Iterable[WorkItem],
    load: Callable[[WorkItem], Any],
    *,
    workers: int | None,
    ahead: int,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Loaded]:
    """Yield (item, loaded, error) for every item in the order given.

    Args:
        items: what to load.
        load: called as load(item) in a thread; an exception becomes the item's error.
        workers: threads; None = `default_workers`, 0 = load in the calling thread.
        ahead: most items loaded or being loaded that were not handed over yet: memory does
            not grow with the number of items.
        stopped: asked while waiting; True ends the iteration.
    """

    def attempt(item: WorkItem) -> Loaded:
        try:
            check_bytes(item)
            return item, load(item), None
        except Exception as error:
            return item, None, error

    workers = default_workers() if workers is None else workers
    if workers == 0:
        for item in items:
            if stopped():
                return
            yield attempt(item)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="load")
    waiting: deque[Future[Loaded]] = deque()
    source = iter(items)
    try:
        while True:
            while len(waiting) < max(ahead, workers):
                item = next(source, None)
                if item is None:
                    break
                waiting.append(pool.submit(attempt, item))
            if not waiting:
                return
            first = waiting.popleft()
            while True:
                if stopped():
                    return
                try:
                    # A short wait, so that Ctrl-C is answered while a slow file is read.
                    result = first.result(timeout=0.2)
                    break
                except NotYet:
                    continue
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
