"""Write rows in the background while the model computes the next batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self


class BackgroundWriter:
    """Run calls one after another in a thread of its own.

    Args:
        max_pending: number of unfinished calls; a further call waits for the oldest one, so that
            memory is bounded on a slow disk.
    """

    def __init__(self, max_pending: int = 2):
        self._max_pending = max_pending
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._calls: deque[Future[Any]] = deque()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run a call later.

        Raises:
            Exception: whatever an earlier call raised; after a full disk nothing more is written.
        """
        while len(self._calls) >= self._max_pending or (self._calls and self._calls[0].done()):
            self._calls.popleft().result()
        self._calls.append(self._pool.submit(function, *arguments))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a call after all earlier ones, wait for it and return its result.

        Raises:
            Exception: the first error of an earlier call; the remaining calls are cancelled.
        """
        try:
            while self._calls:
                self._calls.popleft().result()
        finally:
            for call in self._calls:
                call.cancel()
            self._calls.clear()
        return self._pool.submit(function, *arguments).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
