"""Map one batch in slices, one per CPU core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any, Self

from pipeline.engine.devices import set_torch_threads

MapFunction = Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]


class ParallelMap:
    """Call a mapper's `map` on equal slices of a batch at the same time.

    A forward pass on all cores waits at every layer for the slowest core, and the loader threads
    keep slowing one down. Slices are only joined at the end of the batch.

    Args:
        cores: number of cores for the model; 1 maps whole batches in the calling thread (a GPU).
        batch_size: largest batch, hence the largest number of slices.
    """

    def __init__(self, cores: int, batch_size: int):
        self._slices = max(1, min(cores, batch_size))
        self._pool: ThreadPoolExecutor | None = None
        if self._slices > 1:
            self._pool = ThreadPoolExecutor(
                self._slices,
                thread_name_prefix="model",
                initializer=set_torch_threads,
                initargs=(cores // self._slices,),
            )

    def map(self, function: MapFunction, items: Sequence[Any], loaded: Sequence[Any]) -> list[Any]:
        """Return one row per item, in order.

        Raises:
            ValueError: `function` returned another number of rows than it was given items.
            Exception: whatever `function` raised, after all slices have ended.
        """
        n = min(self._slices, len(items))
        if n < 2 or self._pool is None:
            return _map_checked(function, items, loaded)
        ends = [len(items) * i // n for i in range(n + 1)]
        calls = [
            self._pool.submit(_map_checked, function, items[a:b], loaded[a:b])
            for a, b in pairwise(ends)
        ]
        wait(calls)
        return [row for call in calls for row in call.result()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)


def _map_checked(function: MapFunction, items: Sequence[Any], loaded: Sequence[Any]) -> list[Any]:
    rows = list(function(items, loaded))
    if len(rows) != len(items):
        raise ValueError(f"the mapper returned {len(rows)} rows for {len(items)} items")
    return rows
