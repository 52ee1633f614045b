"""Ctrl-C and SIGTERM: the first ends a run in order, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Self

EXIT_CODE = 130


class Interrupts:
    """While entered, SIGINT and SIGTERM set `stopped` instead of interrupting a write.

    A second signal ends the process at once: the last commit of the store stands, and its lock
    belongs to a dead process. Outside the main thread no handler is installed, since Python allows
    that only there.
    """

    def __init__(self) -> None:
        self._stopped = False
        self._previous: dict[int, object] = {}

    def stopped(self) -> bool:
        """Return whether a signal was received."""
        return self._stopped

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._stopped:
            os._exit(EXIT_CODE)
        self._stopped = True
        # os.write, because the signal may arrive in the middle of a print.
        os.write(2, b"\nstopping: finished rows are being saved (again: exit at once)\n")

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
