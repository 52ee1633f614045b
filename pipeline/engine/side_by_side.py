"""One batch mapped in slices side by side, so that no core waits for one that a loader is using."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any, Self

from pipeline.devices import torch_threads_here

Map = Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]


class SideBySide:
    """Calls a mapper's `map` on equal slices of a batch at the same time.

    On a CPU, a forward pass on all cores waits at every layer for the slowest of them, and the
    loader threads make one slow all the time. Slices meet only at the end of the batch.

    Args:
        cores: that the model may use; 1 = map whole batches in the calling thread (a GPU).
        batch_size: items of a batch, the most slices there can be.
    """

    def __init__(self, cores: int, batch_size: int):
        self._slices = max(1, min(cores, batch_size))
        self._pool: ThreadPoolExecutor | None = None
        if self._slices > 1:
            self._pool = ThreadPoolExecutor(
                self._slices,
                thread_name_prefix="model",
                initializer=torch_threads_here,
                initargs=(cores // self._slices,),
            )

    def map(self, function: Map, items: Sequence[Any], values: Sequence[Any]) -> list[Any]:
        """Return the rows of all items, in order.

        Raises:
            ValueError: `function` gave a slice another number of rows than it has items.
            Exception: what `function` raised, once no slice is at work any more.
        """
        n = min(self._slices, len(items))
        if n < 2 or self._pool is None:
            return _mapped(function, items, values)
        ends = [len(items) * i // n for i in range(n + 1)]
        calls = [
            self._pool.submit(_mapped, function, items[a:b], values[a:b]) for a, b in pairwise(ends)
        ]
        wait(calls)
        return [row for call in calls for row in call.result()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)


def _mapped(function: Map, items: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    rows = list(function(items, values))
    if len(rows) != len(items):
        raise ValueError(f"the mapper gave {len(rows)} rows for {len(items)} items")
    return rows
