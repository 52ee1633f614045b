"""Show how far a run is: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from types import TracebackType
from typing import Self

LOG_SECONDS = 10.0
"""Time between two log lines."""


class Progress:
    """Counts finished rows.

    Args:
        title: such as "segment brain".
        total: number of rows to compute.
        reused: number of rows that are stored already, shown once.
        unit: what a row is.
        show: True shows a bar, False nothing, None a bar on a terminal and log lines elsewhere.
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        reused: int = 0,
        unit: str = "images",
        show: bool | None = None,
    ):
        self.title, self.total, self.reused, self.unit = title, total, reused, unit
        self.done = self.failed = 0
        terminal = sys.stderr.isatty()
        self._show_bar = terminal if show is None else show
        self._show_log = show is None and not terminal
        self._bar = None

    def __enter__(self) -> Self:
        self._start = self._logged = time.monotonic()
        if self._show_bar:
            from rich.console import Console
            from rich.progress import Progress as Bar
            from rich.progress import TextColumn

            # Output of the command itself goes above the bar, but is never taken from a file.
            stdout_is_terminal = sys.stdout.isatty()
            self._bar = Bar(
                *Bar.get_default_columns(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                redirect_stdout=stdout_is_terminal,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, note="")
        elif self._show_log:
            self._log(f"{self.total} to do, {self.reused} there already")
        return self

    def add(self, done: int = 0, failed: int = 0) -> None:
        """Count further rows; `done` does not include the `failed` ones."""
        self.done += done
        self.failed += failed
        if self._bar is not None:
            rows = self.done + self.failed
            self._bar.update(self._task, completed=rows, note=self._state())
        elif self._show_log and time.monotonic() - self._logged >= LOG_SECONDS:
            self._logged = time.monotonic()
            self._log(self._state())

    def _state(self) -> str:
        rows = self.done + self.failed
        rate = rows / max(time.monotonic() - self._start, 1e-9)
        parts = [f"{rows}/{self.total}", f"{rate:.1f} {self.unit}/s"]
        if self.failed:
            parts.insert(1, f"{self.failed} failed")
        if rows and self._show_log:
            parts.append(f"{timedelta(seconds=round((self.total - rows) / rate))} left")
        return ", ".join(parts)

    def _log(self, text: str) -> None:
        print(f"{self.title}: {text}", file=sys.stderr, flush=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._show_log and self.total and kind is None:
            self._log(self._state())
