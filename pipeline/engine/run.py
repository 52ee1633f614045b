"""Run a stage: find the rows that a store lacks, compute them, write them, keep a record.

A `Mapper` is the model as the engine sees it; the executor decides where it runs. The caller (the
driver) receives the results in order and is the only one that writes, while loader threads read
ahead and the mapper works on the next batch.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pandas as pd
from joblib import cpu_count

from pipeline import remote
from pipeline.engine import process
from pipeline.engine.options import RunOptions
from pipeline.engine.progress import show_progress, timed
from pipeline.engine.record import RunRecord, library_versions, recorded
from pipeline.errors import (
    ConfigError,
    ModelError,
    PipelineError,
    RemoteError,
    StoreError,
    reason_of,
)
from pipeline.images.read import bytes_changed, unreadable
from pipeline.io import FileHashes, sha256_file, sha256_json
from pipeline.manifest import mask_file, row_file
from pipeline.store.items import WorkItem, table_rows

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.engine.cluster import Pool
    from pipeline.paths import Paths
    from pipeline.store.writer import StoreWriter

BATCH_SIZE = 16


class Mapper(Protocol):
    """Turns items into rows; `device` is where the model computes, such as "cpu", "" without one.

    `load` reads and preprocesses one item, in a loader thread; an `Exception` fails the item.

    `map` returns one row per item, in order, and may be called from several threads at the same
    time. A row depends on its own item only, never on the rest of the batch. If it raises, the
    batch is repeated item by item, so that an image that the model cannot process fails alone.

    A mapper of a store has the `identity` of its rows: all that decides them, JSON values.
    """

    device: str

    def load(self, item: WorkItem) -> Any: ...

    def map(self, items: Sequence[WorkItem], loaded: Sequence[Any]) -> Sequence[Any]: ...


class Result(NamedTuple):
    """The outcome of one item: its row, or the error that it failed with."""

    item: WorkItem
    row: Any = None
    error: Exception | None = None


class Executor(Protocol):
    """Where rows are computed. `hashes` knows files that were read before, `seconds` what the run
    waited for, by part; `parameters` are those of the record.

    `compute` gives the rows of items to the writer and yields each item, in any order, with the
    reason why it failed, "" if it did not. `factory` builds the mapper, where it runs. Once
    `stopped` returns True nothing further is begun.
    """

    hashes: FileHashes
    seconds: dict[str, float]
    parameters: dict[str, Any]

    def compute(
        self,
        factory: Callable[[], Mapper],
        items: Sequence[WorkItem],
        writer: StoreWriter,
        stopped: Callable[[], bool],
    ) -> Iterator[tuple[WorkItem, str]]: ...


class LocalExecutor:
    """Runs the mapper in threads of this process. Results do not depend on its arguments.

    Args:
        batch_size: items mapped together.
        workers: loader threads; None uses one per core, at most 8.
        cores: slices of a batch that are mapped at the same time; None chooses by the device. A
            forward pass on all cores would wait at every layer for the slowest one.
        hashes: knows the SHA-256 of files that were read before.

    `seconds` is what `imap` waited for so far: "load_wait" (images) and "model".
    """

    def __init__(
        self,
        batch_size: int,
        workers: int | None = None,
        cores: int | None = None,
        hashes: FileHashes | None = None,
    ):
        process.keep_freed_memory()
        self.batch_size, self.cores = batch_size, cores
        self.workers = workers or min(8, cpu_count())
        self.hashes = hashes or FileHashes()
        self.seconds = {"load_wait": 0.0, "model": 0.0}

    @property
    def parameters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("batch_size", "workers", "cores")}

    def compute(
        self,
        factory: Callable[[], Mapper],
        items: Sequence[WorkItem],
        writer: StoreWriter,
        stopped: Callable[[], bool],
    ) -> Iterator[tuple[WorkItem, str]]:
        """Compute and write rows, in order; see `Executor`."""
        with closing(self.imap(factory, items, stopped=stopped)) as results:
            for result in results:
                with timed(self.seconds, "write"):
                    row, reason = prepared(writer, result)
                    if reason:
                        writer.write_failed(result.item, reason)
                    else:
                        writer.put([row])
                yield result.item, reason

    def imap(
        self,
        factory: Callable[[], Mapper],
        items: Iterable[WorkItem],
        *,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[Result]:
        """Yield the result of every item, in order; at most four batches are in memory.

        `factory` builds the mapper, where it runs. Once `stopped` returns True no further batch is
        begun, and the iteration ends with the results of those that were. Raises ModelError,
        ConfigError or StoreError where the error is not that of a single item.
        """
        mapper = factory()
        self.cores = self.cores or process.model_cores(mapper.device)
        slices = max(1, min(self.cores, self.batch_size))
        loaders = ThreadPoolExecutor(self.workers, "load", process.set_torch_threads, (1,))
        threads = (self.cores // slices,)
        models = ThreadPoolExecutor(slices, "model", process.set_torch_threads, threads)
        source = iter(items)
        loading: deque[Future[Result]] = deque()
        mapping: deque[Future[list[Result]]] = deque()

        def next_batch() -> list[Result]:
            """Wait for the next batch of loaded items, while further ones are read."""
            batch: list[Result] = []
            while len(batch) < self.batch_size and not stopped():
                for item in islice(source, max(self.batch_size, self.workers) - len(loading)):
                    loading.append(loaders.submit(load_item, mapper, item, self.hashes))
                if not loading:
                    break
                # A short wait, so that Ctrl-C is answered while a slow file is read.
                if wait([loading[0]], timeout=0.2).done:
                    batch.append(loading.popleft().result())
            return [] if stopped() else batch

        try:
            while True:
                while len(mapping) <= slices:
                    with timed(self.seconds, "load_wait"):
                        batch = next_batch()
                    if not batch:
                        break
                    n = min(slices, len(batch))
                    ends = [len(batch) * i // n for i in range(n + 1)]
                    for a, b in pairwise(ends):
                        mapping.append(models.submit(map_slice, mapper, batch[a:b], stopped))
                if not mapping:
                    return
                with timed(self.seconds, "model"):
                    results = mapping.popleft().result()
                yield from results
        finally:
            loaders.shutdown(wait=False, cancel_futures=True)
            models.shutdown(cancel_futures=True)


def load_item(mapper: Mapper, item: WorkItem, hashes: FileHashes) -> Result:
    """Return an item with what the mapper loaded for it as its row, or with its error."""
    try:
        error = bytes_error(item, hashes.of_read)
        return Result(item, error=error) if error else Result(item, mapper.load(item))
    except RemoteError:  # would meet every item
        raise
    except Exception as error:
        return Result(item, error=error)


def map_slice(mapper: Mapper, part: list[Result], stopped: Callable[[], bool]) -> list[Result]:
    """Map loaded items; if that fails, one by one. Nothing once `stopped` returns True."""
    if stopped():
        return []
    ready = [one for one in part if one.error is None]
    try:
        rows = mapper.map([one.item for one in ready], [one.row for one in ready]) if ready else []
        if len(rows) != len(ready):
            raise ValueError(f"the mapper returned {len(rows)} rows for {len(ready)} items")
    except (ModelError, ConfigError, StoreError, RemoteError):  # would meet every item
        raise
    except Exception as error:
        if len(part) == 1:
            return [Result(part[0].item, error=error)]
        return [result for one in part for result in map_slice(mapper, [one], stopped)]
    row = iter(rows)
    return [one if one.error is not None else Result(one.item, next(row)) for one in part]


def prepared(writer: StoreWriter, result: Result) -> tuple[Any, str]:
    """Return a result as the writer takes it, and "" or why the item failed."""
    error = result.error
    if error is None:
        try:
            return writer.prepare(result.item, result.row), ""
        except ValueError as unusable:
            error = unusable
    return None, reason_of(error)


def bytes_error(item: WorkItem, hashes: Callable[[Path], str]) -> Exception | None:
    """Return why a file cannot be used: it is unreadable, or its bytes are not those of the
    manifest, so that the key of its row would be wrong. RemoteError where that cannot be seen."""
    if "sha256" not in item.row:
        return None
    try:
        digest = hashes(item.path)
    except OSError as error:
        return unreadable(item.path, error)
    except RemoteError:
        raise
    except PipelineError as error:  # a pipe, socket or device
        return error
    return bytes_changed(item.path) if digest != item.row["sha256"] else None


def changed_files(
    items: Sequence[WorkItem], hashes: FileHashes, stopped: Callable[[], bool] = lambda: False
) -> dict[str, str]:
    """Return image_id -> what is wrong with its file, of those that are there with other bytes than
    when their row was made, or cannot be read. A file that is gone is no such: its row stands."""

    def look(part: Sequence[WorkItem]) -> list[tuple[str, str]]:
        found = [] if stopped() else [(item, bytes_error(item, hashes)) for item in part]
        return [(i.image_id, reason_of(e)) for i, e in found if e and remote.exists(i.path)]

    parts = [items[at : at + 100] for at in range(0, len(items), 100)]
    with ThreadPoolExecutor(min(8, cpu_count())) as pool:
        return dict(one for part in pool.map(look, parts) for one in part)


def select(manifest: pd.DataFrame, only: Collection[str] | None) -> pd.DataFrame:
    """Return the rows of a manifest, or of a sample of it, whose image_id is in `only`, in its
    order; all for None. Raises ConfigError for other ids."""
    if only is None:
        return manifest
    if unknown := sorted(set(only) - set(manifest["image_id"])):
        raise ConfigError(
            f"{len(unknown)} ids are not in the manifest or sample: {', '.join(unknown[:5])}",
            remedy="use ids of the manifest; for prompt-quality with --images 0 any with a mask",
        )
    return manifest[manifest["image_id"].isin(set(only))]


def image_items(
    manifest: pd.DataFrame,
    data: str | Path,
    content: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: {},
    *,
    truth: bool = False,
    hashes: Callable[[Path], str] = sha256_file,
) -> list[WorkItem]:
    """Return one item per row of a manifest.

    The key is a hash of content, never of names: copies of an image share it.

    Args:
        manifest: from `read_manifest`.
        data: folder with the images of the dataset.
        content: returns what decides the result of a row besides the bytes and the frame of the
            image; may add to the row what the mapper needs.
        truth: whether the ground-truth mask decides it; the row gets `truth_file`
            (`MaskFiles`), "" for none.
        hashes: returns the SHA-256 of a file; a `FileHashes` reads only those that have changed.
    """
    items = []
    for row in table_rows(manifest.assign(truth_file="")):
        frame = int(row["frame"])
        parts = {"sha256": row["sha256"], "frame": frame, **content(row)}
        found = mask_file(row, data) if truth else None
        if truth:
            row["truth_file"] = found or ""
            try:
                digests = [*map(hashes, found.files), *found.rule.split()] if found else [""]
                parts["truth"] = digests[0] if len(digests) == 1 else digests
            except RemoteError:
                raise
            except (PipelineError, OSError):  # the row fails when it is loaded
                parts["truth"] = f"unreadable: {row['mask_path']}"
        items.append(WorkItem(row["image_id"], sha256_json(parts), row_file(row, data), frame, row))
    return items


def run_stage(
    stage: str,
    dataset: str,
    params: Params,
    paths: Paths,
    options: RunOptions,
    items: Sequence[WorkItem],
    mapper: Mapper,
    writer: StoreWriter,
    hashes: FileHashes,
    variant: str = "",
    recipe: Callable[[], Mapper] | None = None,
    pool: Pool | None = None,
) -> RunRecord:
    """Run `run_items` on a dataset; `max_failed` is that of the stage's section of params.yaml.
    `variant` of the masks is added to the name of the record. `recipe` is pickled and builds the
    same mapper in the workers of `pool`; None: rows are computed in this process."""
    section = getattr(params, stage).model_dump(mode="json")
    name = "-".join([stage, *variant.split("/")]) if variant else stage
    record = RunRecord(name, dataset, parameters={"profile": params.profile, stage: section})
    batch_size, factory = options.batch_size or BATCH_SIZE, lambda: mapper
    if pool is None:
        executor = LocalExecutor(batch_size, options.workers, hashes=hashes)
    else:
        from pipeline.engine.cluster import ClusterExecutor

        executor, factory = ClusterExecutor(pool, batch_size, options.workers, hashes), recipe
    how = {"max_failed": section["max_failed"], "executor": executor}
    return run_items(record, paths.record(dataset, name), items, factory, writer, options, **how)


def run_items(
    record: RunRecord,
    record_path: Path,
    items: Sequence[WorkItem],
    factory: Callable[[], Mapper],
    writer: StoreWriter,
    options: RunOptions,
    *,
    max_failed: float,
    executor: Executor,
) -> RunRecord:
    """Compute the rows of `items` that a store lacks, and return the record.

    An image whose row is stored, but whose file has other bytes by now than the manifest states,
    counts as failed, and its row stays: after `pipeline data refresh` it is computed again.

    Args:
        record: of the run, written to `record_path` before any exception leaves this function.
        items: in the order wanted; each image_id once.
        factory: builds the mapper that turns items into rows.
        writer: an ENTERED writer (`with MaskStoreWriter(...) as writer`).
        options: limit, force and progress are used here.
        max_failed: largest allowed share of failed items.
        executor: where the mapper runs.

    Raises:
        StageFailed: exit code 3; more than `max_failed` of the items failed. What was computed is
            kept.
        DiskError: the store or the record cannot be written (full disk, read-only folder).
        KeyboardInterrupt: SIGINT or SIGTERM was received; rows already computed were committed.
    """
    record.identity, record.versions = writer.identity_hash, library_versions()
    record.parameters |= {"limit": options.limit, "force": options.force, "max_failed": max_failed}
    with interrupts() as stopped, recorded(record, record_path, max_failed=max_failed):
        with timed(record.seconds, "plan"):
            plan = writer.plan(items, force=options.force)
            record.failed = changed_files(plan.reused, executor.hashes, stopped)
        todo = (plan.todo + plan.copies)[: options.limit]
        reasons = {item.image_id: reason for item, reason in todo if reason}
        record.skipped = len(plan.reused) - len(record.failed)
        record.total = len(plan.reused) + len(todo)
        title, show = f"{record.stage} {record.dataset}".strip(), options.progress
        progress = show_progress(title, len(todo), reused=record.skipped, show=show)

        def finish(item: WorkItem, reason: str) -> None:
            if reason:
                record.failed[item.image_id] = reason
            else:
                record.done += 1
                if item.image_id in reasons:
                    record.redone_rows[item.image_id] = reasons[item.image_id]
            count(not reason, bool(reason))

        def compute(items: Sequence[WorkItem]) -> None:
            with closing(executor.compute(factory, items, writer, stopped)) as finished:
                for item, reason in finished:
                    finish(item, reason)

        try:
            with progress as count:
                if plan.todo:
                    compute([item for item, _ in todo[: len(plan.todo)]])
                uncopied = []  # byte-identical images whose first one failed
                for item, _ in todo[len(plan.todo) :]:
                    if stopped():
                        break
                    if error := bytes_error(item, executor.hashes):
                        writer.write_failed(item, reason_of(error))
                        finish(item, reason_of(error))
                    elif writer.copy(item):
                        record.copied += 1
                        finish(item, "")
                    else:
                        uncopied.append(item)
                if uncopied:
                    compute(uncopied)
        finally:
            record.parameters |= executor.parameters
            record.seconds |= executor.seconds
            with timed(record.seconds, "write"):
                writer.commit()
                executor.hashes.save()
        if stopped():
            raise KeyboardInterrupt
        if record.failed_share <= max_failed:
            writer.finish()  # before the record says "ok"
    return record


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGINT or SIGTERM came, which interrupt no write.

    A second signal ends the process at once: the last commit of the store stands, and its lock
    belongs to a dead process. Outside the main thread Python allows no handler.
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
