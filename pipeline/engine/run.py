"""Run a stage: find the rows that a store lacks, compute them, write them, keep a record."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.engine.executor import LocalExecutor, Mapper, check_bytes
from pipeline.engine.options import RunOptions
from pipeline.engine.progress import Progress
from pipeline.engine.record import RunRecord, library_versions, recorded
from pipeline.errors import ManifestError, PipelineError, reason_of
from pipeline.io import sha256_file, sha256_json
from pipeline.manifest import mask_file, row_file
from pipeline.store.items import WorkItem

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.paths import Paths
    from pipeline.store.writer import StoreWriter

BATCH_SIZE = 16


def select(manifest: pd.DataFrame, only: Collection[str] | None) -> pd.DataFrame:
    """Return the rows whose image_id is in `only`, in the order of the manifest; all for None.

    Raises:
        ManifestError: ids are not in the manifest.
    """
    if only is None:
        return manifest
    if unknown := sorted(set(only) - set(manifest["image_id"])):
        named = f"{len(unknown)} ids are not in the manifest, such as {', '.join(unknown[:5])}"
        raise ManifestError(named, remedy="use ids of the image_id column of the manifest")
    return manifest[manifest["image_id"].isin(set(only))]


def image_items(
    manifest: pd.DataFrame,
    data: str | Path,
    content: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: {},
    *,
    truth: bool = False,
) -> list[WorkItem]:
    """Return one item per row of a manifest.

    Args:
        manifest: from `read_manifest`.
        data: folder with the images of the dataset.
        content: returns what decides the result of a row besides the bytes and the frame of the
            image; may add to the row what the mapper needs.
        truth: whether the ground-truth mask decides it; the row gets `truth_file`, "" for none.

    Returns:
        Items whose key is a hash of content, never of names: copies of an image share it.
    """
    items = []
    for row in manifest.to_dict("records"):
        frame = int(row["frame"])
        parts = {"sha256": row["sha256"], "frame": frame, **content(row)}
        path = mask_file(row, data) if truth else None
        row["truth_file"] = path or ""
        if truth:
            try:
                parts["truth"] = sha256_file(path) if path else ""
            except (PipelineError, OSError):  # the row fails when it is loaded
                parts["truth"] = f"unreadable: {row['mask_path']}"
        items.append(WorkItem(row["image_id"], sha256_json(parts), row_file(row, data), frame, row))
    return items


def run_stage(
    stage: str,
    items: Sequence[WorkItem],
    factory: Callable[[], Mapper],
    writer: StoreWriter,
    options: RunOptions,
    project: tuple[str, Params, Paths] | None = None,
    *,
    record_path: str | os.PathLike | None = None,
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
        project: dataset, parameters and paths; decide the next three arguments.
        record_path: where the `RunRecord` is written; None writes none.
        max_failed: largest allowed share of failed items.
        parameters: of the stage, for the record.
        executor: where the mapper runs; default a `LocalExecutor`.

    Returns:
        The record. It is written before any exception leaves this function.

    Raises:
        StageFailed: exit code 3; more than `max_failed` of the items failed. What was computed is
            kept.
        DiskError: the store or the record cannot be written (full disk, read-only folder).
        KeyboardInterrupt: SIGINT or SIGTERM was received; rows already computed were committed.
    """
    dataset = ""
    if project is not None:
        dataset, params, paths = project
        section = getattr(params, stage).model_dump(mode="json")
        record_path, max_failed = paths.record(dataset, stage), section["max_failed"]
        parameters = {"profile": params.profile, stage: section}
    executor = executor or LocalExecutor(options.batch_size or BATCH_SIZE, options.workers)
    used = {"limit": options.limit, "force": options.force, "max_failed": max_failed}
    record = RunRecord(
        stage,
        dataset,
        identity=writer.identity_hash,
        versions=library_versions(),
        parameters=used | dict(parameters or {}),
    )
    with (
        interrupts() as stopped,
        recorded(record, record_path, max_failed=max_failed, stopped=stopped),
    ):
        with record.clock("plan"):
            plan = writer.plan(items, force=options.force)
        todo = (plan.todo + plan.copies)[: options.limit]
        reasons = {item.image_id: reason for item, reason in todo if reason}
        record.skipped, record.total = len(plan.reused), len(plan.reused) + len(todo)
        title = f"{stage} {dataset}".strip()
        progress = Progress(title, len(todo), reused=record.skipped, show=options.progress)

        def finish(item: WorkItem, error: Exception | None) -> None:
            if error is None:
                record.done += 1
                if item.image_id in reasons:
                    record.redone_rows[item.image_id] = reasons[item.image_id]
            else:
                record.failed[item.image_id] = reason_of(error)
                writer.write_failed(item, reason_of(error))
            progress.add(done=error is None, failed=error is not None)

        def compute(items: list[WorkItem]) -> None:
            with closing(executor.imap(factory, items, stopped=stopped)) as results:
                for result in results:
                    error = result.error
                    with record.clock("write"):
                        if error is None:
                            try:
                                prepared = [writer.prepare(result.item, result.row)]
                            except ValueError as unusable:
                                error, prepared = unusable, []
                            writer.put(prepared)
                    finish(result.item, error)

        try:
            with progress:
                if plan.todo:
                    compute([item for item, _ in todo[: len(plan.todo)]])
                uncopied = []  # byte-identical images whose first one failed
                for item, _ in todo[len(plan.todo) :]:
                    if stopped():
                        break
                    try:
                        check_bytes(item)
                    except Exception as error:
                        finish(item, error)
                        continue
                    if writer.copy(item):
                        record.copied += 1
                        finish(item, None)
                    else:
                        uncopied.append(item)
                if uncopied:
                    compute(uncopied)
        finally:
            used = {name: getattr(executor, name) for name in ("batch_size", "workers", "cores")}
            record.parameters |= used
            record.seconds |= executor.seconds
            with record.clock("write"):
                writer.commit()
        if not stopped() and record.failed_share <= max_failed:
            writer.finish()  # before the record says "ok"
    return record


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGINT or SIGTERM came, which interrupt no write.

    A second signal ends the process at once: the last commit of the store stands, and its lock
    belongs to a dead process. Outside the main thread no handler is installed, since Python allows
    that only there.
    """
    stopped = threading.Event()

    def handle(number: int, frame: object) -> None:
        if stopped.is_set():
            os._exit(130)
        stopped.set()
        # os.write, because the signal may arrive in the middle of a print.
        os.write(2, b"\nstopping: finished rows are being saved (again: exit at once)\n")

    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stopped.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
