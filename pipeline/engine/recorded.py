"""A run that is told by its record from its first moment, however it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from os import PathLike
from typing import TYPE_CHECKING

from pipeline.errors import DiskError

if TYPE_CHECKING:
    from pipeline.engine.record import RunRecord


@contextmanager
def recorded(record: RunRecord, path: str | PathLike) -> Iterator[None]:
    """Write a record when the code inside begins and when it ends, in whatever way.

    What an earlier run said there would stand otherwise: "ok" after a run that failed. `started`
    and `seconds["total"]` are filled in. Inside, `record.status` may be set; if it is not, it
    becomes "ok", "interrupted" or "error".

    Raises:
        DiskError: the record cannot be written.
    """
    begin = time.monotonic()
    record.started = datetime.now(UTC).isoformat(timespec="seconds")

    def save() -> None:
        record.seconds["total"] = time.monotonic() - begin
        record.write(path)

    save()
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        record.status = "interrupted" if stopped else "error"
        record.error = "" if stopped else str(error) or type(error).__name__
        with suppress(DiskError):  # the error that stopped the run is the one to tell
            save()
        raise
    if record.status == "running":
        record.status = "ok"
    save()
