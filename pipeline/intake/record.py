"""cache/<dataset>/records/add.json: what `data add` did not take in, for status and report.

What fails here is in no manifest, so that no later stage can tell of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from pipeline.engine.record import RunRecord, library_versions
from pipeline.engine.status import ADD
from pipeline.errors import DiskError, PipelineError
from pipeline.intake.summary import AddSummary
from pipeline.paths import Paths


def record_add(summary: AddSummary, paths: Paths, masks: Mapping[str, str]) -> None:
    """Write the record of `add_dataset`.

    Args:
        summary: of the run; of its warnings nothing is kept.
        paths: the project folder.
        masks: why a ground-truth mask was left out, by image_id.
    """
    parameters = {"skipped": dict(summary.skipped), "masks_left_out": dict(masks)}
    total = summary.images + len(summary.failed)
    _write(summary, paths, total, dict(summary.failed), parameters)


def record_refresh(summary: AddSummary, paths: Paths, known: Collection[str]) -> None:
    """Write the record of `refresh_dataset`, which does not look again at what the last
    `add_dataset` did not take in: that stays on record.

    Args:
        summary: of the run.
        paths: the project folder.
        known: paths and ids of the manifest.
    """
    earlier = RunRecord(ADD)
    with suppress(PipelineError, FileNotFoundError):  # damaged, or none
        earlier = RunRecord.read(paths.record(summary.dataset, ADD))
    outside = {name: why for name, why in earlier.failed.items() if name not in known}
    total = summary.images + len(outside)
    _write(summary, paths, total, outside | summary.failed, earlier.parameters)


def _write(
    summary: AddSummary,
    paths: Paths,
    total: int,
    failed: dict[str, str],
    parameters: dict[str, Any],
) -> None:
    """Write a record; where the disk refuses, the summary says so, since the manifest stands."""
    record = RunRecord(
        ADD,
        summary.dataset,
        status="failed" if failed else "ok",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        total=total,
        done=total - len(failed),
        failed=failed,
        versions=library_versions(("medfocusclip", "numpy", "pillow")),
        parameters=parameters,
    )
    try:
        record.write(paths.record(summary.dataset, ADD))
    except DiskError as error:
        summary.warnings.append(f"what failed and was left out is not on record: {error}")
