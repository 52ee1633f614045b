"""Run a stage: read images ahead of need, map batches through a model, write rows behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from pipeline.engine.behind import Behind
from pipeline.engine.items import Mapper, WorkItem
from pipeline.engine.loader import check_bytes, default_workers, load_in_order
from pipeline.engine.progress import Progress
from pipeline.engine.record import RunRecord, library_versions
from pipeline.engine.recorded import recorded
from pipeline.engine.side_by_side import SideBySide
from pipeline.engine.signals import Interrupts
from pipeline.errors import ConfigError, ModelError, StoreError, reason_of

if TYPE_CHECKING:
    from pipeline.store.writer import Plan, StoreWriter


def run_stage(
    stage: str,
    items: Sequence[WorkItem],
    mapper: Mapper,
    writer: StoreWriter,
    *,
    dataset: str = "",
    record_path: str | PathLike | None = None,
    batch_size: int = 8,
    cores: int = 1,
    workers: int | None = None,
    limit: int | None = None,
    force: bool = False,
    verify: bool = True,
    max_failed: float = 0.0,
    progress: bool | None = None,
    retry_failed: bool = True,
    parameters: Mapping[str, Any] | None = None,
) -> RunRecord:
    """Compute the rows of `items` that `writer`'s store lacks.

    Args:
        stage: name for record and progress.
        items: in the order wanted; each image_id once.
        mapper: loads items and maps batches of them to rows.
        writer: an ENTERED `MaskStoreWriter` or `FeatureStoreWriter` (`with ... as writer`).
        dataset: for record and messages.
        record_path: where the `RunRecord` goes (also after a failure or Ctrl-C); None = nowhere.
        batch_size: items mapped together.
        cores: that the mapper's model computes on. With several, a batch is cut into as many
            slices, which `mapper.map` is given side by side (`pipeline.devices.model_cores`).
        workers: loader threads; None = one a core, at most 8. 0 = load in the main thread.
        limit: compute at most so many rows of those that need it.
        force: compute all rows again.
        verify: compare every stored row with its checksum first (about 0.3 ms a row) and compute
            damaged ones again; without it only missing files are noticed.
        max_failed: share of failed items above which `StageFailed` is raised at the end.
        progress: True = bar, False = nothing, None = bar on a terminal, log lines elsewhere.
        retry_failed: compute rows again that failed in an earlier run.
        parameters: more values for the record.

    Returns:
        The record. Its file is written before any exception leaves this function.

    Raises:
        StageFailed: exit code 3; more than `max_failed` of the items failed (what was
            computed is kept).
        DiskError: the store or the record cannot be written (full disk, read-only folder).
        KeyboardInterrupt: SIGINT or SIGTERM came; rows already computed were committed.
    """
    if batch_size < 1 or (workers is not None and workers < 0):
        raise ConfigError("batch size must be at least 1, workers at least 0")
    workers = default_workers() if workers is None else workers
    options = {
        "batch_size": batch_size,
        "cores": cores,
        "workers": workers,
        "limit": limit,
        "force": force,
    }
    record = RunRecord(
        stage,
        dataset,
        identity=writer.identity_hash,
        versions=library_versions(),
        parameters={**options, "max_failed": max_failed, **(parameters or {})},
    )
    run = _Run(record, mapper, writer, batch_size, workers)
    with (
        Interrupts() as signals,
        SideBySide(cores, batch_size) as run.side_by_side,
        recorded(record, record_path, max_failed=max_failed, stopped=signals.stopped),
    ):
        run.stopped = signals.stopped
        with record.clock("plan"):
            plan = writer.plan(items, force=force, verify=verify, retry_failed=retry_failed)
        run.go(plan, limit, Progress(f"{stage} {dataset}".strip(), 0, show=progress))
        if not signals.stopped() and record.failed_share <= max_failed:
            writer.finish()  # before the record says "ok"
    return record


class _Run:
    """The state of one run."""

    def __init__(
        self, record: RunRecord, mapper: Mapper, writer: StoreWriter, batch_size: int, workers: int
    ):
        self.record, self.mapper, self.writer = record, mapper, writer
        self.batch_size, self.workers = batch_size, workers
        self.stopped = lambda: False
        record.seconds.update({"load_wait": 0.0, "model": 0.0, "write": 0.0})

    def go(self, plan: Plan, limit: int | None, progress: Progress) -> None:
        record = self.record
        todo = plan.todo[:limit]
        copies = plan.copies[: None if limit is None else max(0, limit - len(todo))]
        reasons = {item.image_id: reason for item, reason in [*todo, *copies] if reason}
        record.skipped = len(plan.reused)
        record.failed.update({item.image_id: reason for item, reason in plan.failed})
        record.total = len(todo) + len(copies) + record.skipped + len(record.failed)
        progress.total, progress.reused = len(todo) + len(copies), record.skipped
        self.progress, self.reasons = progress, reasons
        with Behind() as self.behind:
            try:
                with progress:
                    self.compute([item for item, _ in todo])
                    self.copy([item for item, _ in copies])
            finally:
                with self.record.clock("write"):
                    self.behind.ask(self.writer.commit)

    def compute(self, items: Sequence[WorkItem]) -> None:
        """Load, map and write `items`."""
        loaded = load_in_order(
            items,
            self.mapper.load,
            workers=self.workers,
            ahead=2 * self.batch_size,
            stopped=self.stopped,
        )
        while not self.stopped():
            batch: list[tuple[WorkItem, Any]] = []
            ended = False
            with self.record.clock("load_wait"):
                while len(batch) < self.batch_size:
                    result = next(loaded, None)
                    if result is None:
                        ended = True
                        break
                    item, value, error = result
                    if error is None:
                        batch.append((item, value))
                    else:
                        self.fail(item, error)
            if batch and not self.stopped():
                self.map([item for item, _ in batch], [value for _, value in batch])
            if ended:
                return
        loaded.close()

    def map(self, items: list[WorkItem], values: list[Any]) -> None:
        """Map one batch; one that fails is mapped again item by item, to find the one to blame."""
        try:
            with self.record.clock("model"):
                rows = self.side_by_side.map(self.mapper.map, items, values)
        except (ModelError, ConfigError, StoreError):
            raise  # not this image's fault
        except Exception as error:
            if len(items) == 1:
                self.fail(items[0], error)
                return
            for item, value in zip(items, values, strict=True):
                if self.stopped():
                    return
                self.map([item], [value])
            return
        prepared = []
        for item, row in zip(items, rows, strict=True):
            try:
                prepared.append(self.writer.prepare(item, row))
            except ValueError as error:
                self.fail(item, error)
        with self.record.clock("write"):
            self.behind.call(self.writer.put, prepared)
        for item, *_ in prepared:
            self.count(item)

    def copy(self, items: Sequence[WorkItem]) -> None:
        """Give byte-identical images the row of their twin; compute those whose twin failed."""
        alone = []
        for item in items:
            if self.stopped():
                return
            try:
                check_bytes(item)
            except Exception as error:
                self.fail(item, error)
                continue
            with self.record.clock("write"):
                copied = self.behind.ask(self.writer.copy, item)
            if copied:
                self.record.copied += 1
                self.count(item)
            else:
                alone.append(item)
        self.compute(alone)

    def count(self, item: WorkItem) -> None:
        if item.image_id in self.reasons:
            self.record.redo(item.image_id, self.reasons[item.image_id])
        self.record.done += 1
        self.progress.add(done=1)

    def fail(self, item: WorkItem, error: Exception) -> None:
        why = reason_of(error)
        self.record.failed[item.image_id] = why
        self.behind.call(self.writer.write_failed, item, why)
        self.progress.add(failed=1)
