"""Show how far a run is: a bar on a terminal, log lines elsewhere; and measure its parts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
        show: False shows nothing.
    """

    def __init__(
        self, title: str, total: int, *, reused: int = 0, unit: str = "images", show: bool = True
    ):
        self.title, self.total, self.reused, self.unit, self.show = title, total, reused, unit, show
        self.rows = self.failed = 0
        self._bar = None

    def __enter__(self) -> Self:
        self._start = self._logged = time.monotonic()
        if self.show and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                *progress.Progress.get_default_columns(),
                progress.TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                # Output of the command goes above the bar, but is never taken from a file.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, note="")
        self._log(f"{self.total} to do, {self.reused} there already")
        return self

    def add(self, done: int = 0, failed: int = 0) -> None:
        """Count further rows; `done` does not include the `failed` ones."""
        self.rows += done + failed
        self.failed += failed
        if self._bar is not None:
            self._bar.update(self._task, advance=done + failed, note=self._state())
        elif time.monotonic() - self._logged >= LOG_SECONDS:
            self._log(self._state())

    def _state(self) -> str:
        rate = self.rows / max(time.monotonic() - self._start, 1e-9)
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.rows}/{self.total}{failed}, {rate:.1f} {self.unit}/s"

    def _log(self, text: str) -> None:
        self._logged = time.monotonic()
        if self.show and self._bar is None:
            print(f"{self.title}: {text}", file=sys.stderr, flush=True)

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._log(self._state())


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Add the time spent inside the block to a part of `seconds`."""
    start = time.monotonic()
    try:
        yield
    finally:
        seconds[part] = seconds.get(part, 0.0) + time.monotonic() - start
