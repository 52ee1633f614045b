"""Rows written behind the model: one thread, in order, a bounded number of batches waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self


class Behind:
    """Calls one after the other in a thread of their own.

    Args:
        waiting: most calls not finished; the next one waits for the oldest.
    """

    def __init__(self, waiting: int = 2):
        self._waiting = waiting
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._calls: deque[Future[Any]] = deque()

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call later. Raises what an earlier call raised: after a full disk no row follows."""
        while len(self._calls) >= self._waiting or (self._calls and self._calls[0].done()):
            self._calls.popleft().result()
        self._calls.append(self._pool.submit(function, *arguments))

    def drain(self) -> None:
        """Wait until all calls are finished; raise the first error, after which none follows."""
        try:
            while self._calls:
                self._calls.popleft().result()
        finally:
            for call in self._calls:
                call.cancel()
            self._calls.clear()

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call after all others, wait, and return the result."""
        self.drain()
        return self._pool.submit(function, *arguments).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
