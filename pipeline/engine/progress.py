"""How far a run is: a bar on a terminal, a log line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

EVERY_SECONDS = 10.0


class Progress:
    """Count rows as they are done.

    Args:
        title: e.g. "segment brain".
        total: rows to compute.
        reused: rows that are there already, said once.
        unit: what a row is.
        show: True = bar, False = nothing, None = bar on a terminal, log lines elsewhere.
        every: seconds between two log lines.
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        reused: int = 0,
        unit: str = "images",
        show: bool | None = None,
        every: float = EVERY_SECONDS,
    ):
        self.title, self.total, self.reused, self.every = title, total, reused, every
        self.unit = unit
        self.done = self.failed = 0
        self._bar = None
        self._log = show is None and not sys.stderr.isatty()
        self._wants_bar = show or (show is None and sys.stderr.isatty())

    def __enter__(self) -> Self:
        self._start = self._said = time.monotonic()
        if self._wants_bar:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[failed]}"),
                console=Console(stderr=True),
                # What is printed meanwhile goes above the bar, but never away from a file or pipe.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, rate="", failed="")
        elif self._log:
            print(
                f"{self.title}: {self.total} to do, {self.reused} there already",
                file=sys.stderr,
                flush=True,
            )
        return self

    def add(self, done: int = 0, failed: int = 0) -> None:
        """Count rows; `failed` ones are not in `done`."""
        self.done += done
        self.failed += failed
        if self._bar is not None:
            note = f"[red]{self.failed} failed" if self.failed else ""
            self._bar.update(
                self._task,
                completed=self.done + self.failed,
                rate=f"{self.rate:.1f} {self.unit}/s",
                failed=note,
            )
        elif self._log and time.monotonic() - self._said >= self.every:
            self._said = time.monotonic()
            self._line()

    @property
    def rate(self) -> float:
        """Rows a second so far."""
        return (self.done + self.failed) / max(time.monotonic() - self._start, 1e-9)

    def _line(self) -> None:
        rows = self.done + self.failed
        left = f", {_clock((self.total - rows) / self.rate)} left" if rows else ""
        failed = f", {self.failed} failed" if self.failed else ""
        print(
            f"{self.title}: {rows}/{self.total}{failed}, {self.rate:.1f} {self.unit}/s{left}",
            file=sys.stderr,
            flush=True,
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._log and self.total and kind is None:
            self._line()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
