"""Ctrl-C and SIGTERM: the first ends the run in order, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Self

EXIT_CODE = 130


class Interrupts:
    """While entered, SIGINT and SIGTERM set `stopped` instead of raising in the middle of a write.

    A second signal leaves the process at once: the store's last commit stands, and its lock
    is a dead process's. Outside the main thread nothing is installed (Python allows it there
    only).
    """

    def __init__(self) -> None:
        self._stopped = False
        self._before: dict[int, object] = {}

    def stopped(self) -> bool:
        """Whether a signal came."""
        return self._stopped

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._stopped:
            os._exit(EXIT_CODE)
        self._stopped = True
        # os.write, since print may be in the middle of a line of its own.
        os.write(2, b"\nstopping: keeping what is done (again: exit at once)\n")

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)
