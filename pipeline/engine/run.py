"""Run a stage: read images ahead of need, map batches through a model, write rows behind it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.engine.items import Mapper, WorkItem
from pipeline.engine.record import RunRecord


def run_stage(
    stage: str,
    items: Sequence[WorkItem],
    mapper: Mapper,
    writer,
    *,
    dataset: str = "",
    record_path: str | Path | None = None,
    batch_size: int = 8,
    workers: int | None = None,
    limit: int | None = None,
    force: bool = False,
    verify: bool = False,
    max_failed: float = 0.0,
    progress: bool | None = None,
    retry_failed: bool = True,
    parameters: dict | None = None,
) -> RunRecord:
    """Compute the rows of `items` that `writer`'s store lacks.

    Args:
        stage: name for record and progress.
        items: in the order wanted; each image_id once.
        mapper: loads items and maps batches of them to rows.
        writer: an ENTERED `MaskStoreWriter` or `FeatureStoreWriter` (`with ... as writer`).
        dataset: for record and messages.
        record_path: where the `RunRecord` goes (also after a failure or Ctrl-C); None = nowhere.
        batch_size: items a call of `mapper.map`.
        workers: loader threads; None = one a core, at most 8. 0 = load in the main thread.
        limit: compute at most so many rows that need computing.
        force: compute all rows again.
        verify: check every stored row's checksum first, and compute damaged rows again.
        max_failed: share of failed items above which `StageFailed` is raised at the end.
        progress: True = bar, False = nothing, None = bar on a terminal, log lines elsewhere.
        retry_failed: compute rows again that failed in an earlier run.
        parameters: more values for the record.

    Returns:
        The record. Its file is written before any exception leaves this function.

    Raises:
        StageFailed: exit code 3; more than `max_failed` of the items failed (what was
            computed is kept).
        StoreError: the store cannot be written (full disk, read-only folder, lock, identity).
        KeyboardInterrupt: SIGINT or SIGTERM; rows already computed were committed.
    """
    raise NotImplementedError
