"""Run a stage: find the rows that a store lacks, compute them, write them, keep a record."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from os import PathLike
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from pipeline.engine.executor import LocalExecutor, MapperFactory, check_bytes
from pipeline.engine.options import RunOptions
from pipeline.engine.progress import Progress
from pipeline.engine.record import RunRecord, library_versions, recorded
from pipeline.errors import ConfigError, ModelError, reason_of
from pipeline.store.items import WorkItem

if TYPE_CHECKING:
    from pipeline.store.items import Plan
    from pipeline.store.writer import StoreWriter

BATCH_SIZE = 16


def run_stage(
    stage: str,
    items: Sequence[WorkItem],
    factory: MapperFactory,
    writer: StoreWriter,
    options: RunOptions | None = None,
    *,
    dataset: str = "",
    record_path: str | PathLike | None = None,
    max_failed: float = 0.0,
    parameters: Mapping[str, Any] | None = None,
    executor: LocalExecutor | None = None,
) -> RunRecord:
    """Compute the rows of `items` that the store lacks.

    Args:
        stage: name for the record and the progress display.
        items: in the order wanted; each image_id once.
        factory: builds the mapper that turns items into rows.
        writer: an ENTERED writer (`with MaskStoreWriter(...) as writer`).
        options: batch size, workers, limit, force and progress are used here.
        dataset: for the record and messages.
        record_path: where the `RunRecord` is written; None writes none.
        max_failed: largest allowed share of failed items.
        parameters: further values for the record.
        executor: where the mapper runs; default a `LocalExecutor`.

    Returns:
        The record. It is written before any exception leaves this function.

    Raises:
        StageFailed: exit code 3; more than `max_failed` of the items failed. What was computed is
            kept.
        DiskError: the store or the record cannot be written (full disk, read-only folder).
        KeyboardInterrupt: SIGINT or SIGTERM was received; rows already computed were committed.
    """
    options = options or RunOptions()
    batch_size = options.batch_size or BATCH_SIZE
    executor = executor or LocalExecutor(batch_size, options.workers)
    used = {"limit": options.limit, "force": options.force, "max_failed": max_failed}
    record = RunRecord(
        stage,
        dataset,
        identity=writer.identity_hash,
        versions=library_versions(),
        parameters=used | dict(parameters or {}),
    )
    with (
        Interrupts() as signals,
        recorded(record, record_path, max_failed=max_failed, stopped=signals.stopped),
    ):
        with record.clock("plan"):
            plan = writer.plan(items, force=options.force)
        _Driver(record, writer, executor, factory, signals.stopped, batch_size).run(plan, options)
        if not signals.stopped() and record.failed_share <= max_failed:
            writer.finish()  # before the record says "ok"
    return record


class _Driver:
    """Passes results from the executor to the writer and counts them.

    Rows are written by a thread of its own while the model computes the next batch, one batch at a
    time: memory stays bounded on a slow disk, and nothing more is written after an error.
    """

    def __init__(
        self,
        record: RunRecord,
        writer: StoreWriter,
        executor: LocalExecutor,
        factory: MapperFactory,
        stopped: Callable[[], bool],
        batch_size: int,
    ):
        self.record, self.writer = record, writer
        self.executor, self.factory = executor, factory
        self.stopped, self.batch_size = stopped, batch_size
        self.pending: Future[None] | None = None

    def run(self, plan: Plan, options: RunOptions) -> None:
        record, limit = self.record, options.limit
        todo = plan.todo[:limit]
        copies = plan.copies[: None if limit is None else max(0, limit - len(todo))]
        self.reasons = {item.image_id: reason for item, reason in [*todo, *copies] if reason}
        record.skipped = len(plan.reused)
        count = len(todo) + len(copies)
        record.total = count + record.skipped
        title = f"{record.stage} {record.dataset}".strip()
        self.progress = Progress(title, count, reused=record.skipped, show=options.progress)
        record.seconds["write"] = 0.0
        with ThreadPoolExecutor(1, thread_name_prefix="write") as self.pool:
            try:
                with self.progress:
                    self.compute([item for item, _ in todo])
                    self.copy([item for item, _ in copies])
            finally:
                record.parameters.update(self.executor.settings)
                record.seconds.update(self.executor.seconds)
                with record.clock("write"):
                    self.wait()
                    self.writer.commit()

    def compute(self, items: Sequence[WorkItem]) -> None:
        """Map items and write their rows."""
        if not items:
            return
        prepared: list[Any] = []
        with closing(self.executor.imap(self.factory, items, stopped=self.stopped)) as results:
            try:
                for result in results:
                    error = result.error
                    if error is None:
                        try:
                            prepared.append(self.writer.prepare(result.item, result.row))
                        except ValueError as unusable:
                            error = unusable
                    if error is not None:
                        self.fail(result.item, error)
                        continue
                    self.count(result.item)
                    if len(prepared) == self.batch_size:
                        self.put(prepared)
                        prepared = []
            except (ModelError, ConfigError):
                self.put(prepared)  # rows that were computed before the model failed
                raise
        self.put(prepared)

    def put(self, prepared: list[Any]) -> None:
        """Write rows in the background, after those of the last call."""
        with self.record.clock("write"):
            self.wait()
            self.pending = self.pool.submit(self.writer.put, prepared)

    def wait(self) -> None:
        """Wait until the rows of the last `put` are written; raises the error of writing them."""
        if self.pending is not None:
            self.pending.result()
            self.pending = None

    def copy(self, items: Sequence[WorkItem]) -> None:
        """Give byte-identical images the row of the first one; compute them where that failed."""
        self.wait()
        remaining = []
        for item in items:
            if self.stopped():
                return
            try:
                check_bytes(item)
            except Exception as error:
                self.fail(item, error)
                continue
            with self.record.clock("write"):
                copied = self.writer.copy(item)
            if copied:
                self.record.copied += 1
                self.count(item)
            else:
                remaining.append(item)
        self.compute(remaining)

    def count(self, item: WorkItem) -> None:
        if item.image_id in self.reasons:
            self.record.redo(item.image_id, self.reasons[item.image_id])
        self.record.done += 1
        self.progress.add(done=1)

    def fail(self, item: WorkItem, error: Exception) -> None:
        reason = reason_of(error)
        self.record.failed[item.image_id] = reason
        self.wait()
        self.writer.write_failed(item, reason)
        self.progress.add(failed=1)


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
            os._exit(130)
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
