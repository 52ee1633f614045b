"""A run that is told by its record from its first moment, however it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from os import PathLike
from typing import TYPE_CHECKING

from pipeline.errors import DiskError

if TYPE_CHECKING:
    from pipeline.engine.record import RunRecord


@contextmanager
def recorded(
    record: RunRecord,
    path: str | PathLike | None,
    *,
    max_failed: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Write a record when the code inside begins and when it ends, in whatever way.

    What an earlier run said there would stand otherwise: "ok" after a run that failed. `started`,
    `seconds["total"]` and, for images, `images_per_second` are filled in. Inside,
    `record.status` may be set; if it is not, it becomes "ok", "failed", "interrupted" or "error".

    Args:
        record: of the run.
        path: where it goes; None = nowhere.
        max_failed: share of the images above which the run has failed; None where the record's
            items are no images.
        stopped: whether a signal asked the code inside to end early (`Interrupts.stopped`).

    Raises:
        StageFailed: exit code 3; more images failed than `max_failed`.
        KeyboardInterrupt: `stopped`.
        DiskError: the record cannot be written.
    """
    begin = time.monotonic()
    record.started = datetime.now(UTC).isoformat(timespec="seconds")

    def save() -> None:
        seconds = record.seconds["total"] = time.monotonic() - begin
        if max_failed is not None:
            record.images_per_second = record.done / max(seconds, 1e-9)
        if path is not None:
            record.write(path)

    save()
    ended: Exception | KeyboardInterrupt | None = None
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        record.status = "interrupted" if interrupted else "error"
        record.error = "" if interrupted else str(error) or type(error).__name__
        with suppress(DiskError):  # the error that stopped the run is the one to tell
            save()
        raise
    if record.status == "running":
        record.status = "ok"
        if stopped():
            record.status, ended = "interrupted", KeyboardInterrupt()
        elif max_failed is not None and record.failed_share > max_failed:
            record.status, ended = "failed", record.too_many_failed(max_failed, path)
    with suppress(DiskError) if ended else nullcontext():
        save()
    if ended:
        raise ended
