"""How far a run is, and where its time goes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def show_progress(
    title: str, total: int, *, reused: int = 0, unit: str = "images", show: bool = True
) -> Iterator[Callable[[int, int], None]]:
    """Show how many of `total` rows are finished: on a terminal in a line that is rewritten, else
    by a line now and then. Yields a function that counts further rows, `done` and `failed`."""
    start = shown = time.monotonic()
    finished = bad = 0
    terminal = sys.stderr.isatty()
    begin, width, seconds = ("\r", 40, 0.1) if terminal else ("", 0, 10.0)

    def say(text: str = "", end: str = "\n") -> None:
        nonlocal shown
        shown = time.monotonic()
        rate = f"{finished / max(shown - start, 1e-9):.1f} {unit}/s"
        text = text or f"{finished}/{total}{f', {bad} failed' if bad else ''}, {rate}"
        if show:
            line = f"{begin}{title}: {text:<{width}}"  # the blanks hide what a longer line left
            print(line, end=end, file=sys.stderr, flush=True)

    def add(done: int, failed: int) -> None:
        nonlocal finished, bad
        finished, bad = finished + done + failed, bad + failed
        if time.monotonic() - shown >= seconds:
            say(end="" if terminal else "\n")

    say(f"{total} to do, {reused} there already")
    try:
        yield add
    finally:
        say()


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Add the time spent inside the block to a part of `seconds`."""
    start = time.monotonic()
    try:
        yield
    finally:
        seconds[part] = seconds.get(part, 0.0) + time.monotonic() - start
