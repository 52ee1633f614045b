"""Time per stage, from the records of the last runs that computed anything."""

from __future__ import annotations

from typing import Any

from pipeline.config import Params
from pipeline.report.gallery import Album
from pipeline.report.inputs import STAGES, DatasetInputs
from pipeline.report.page import Section, Text
from pipeline.report.tables import NOTHING, Cell, Table, head, number

PARTS = ("total", "load_wait", "model", "write")


def section(found: DatasetInputs, album: Album, params: Params) -> Section | None:
    """Show what each stage's last run did and how long its parts took."""
    if not found.records:
        return None
    text = (
        "Counts and times are those of each stage's last run that computed anything; failures and "
        "the status are those of its last run."
    )
    return Section("timings", "Time per stage", [Text(text, "note"), timing_table(found)])


def timing_table(found: DatasetInputs) -> Table:
    """Return stages x (counts, seconds by part)."""
    rows = []
    for stage in STAGES:
        record = found.records.get(stage)
        if record is None:
            rows.append([head(stage), Cell("no record"), *[None] * 8])
            continue
        run = record if record.get("done") else record.get("last_computed") or record
        seconds = run.get("parts") or run.get("seconds") or {}
        if not isinstance(seconds, dict):
            seconds = {"total": seconds}
        failed = record.get("failed") or {}
        rows.append(
            [
                head(stage),
                str(record.get("status") or NOTHING),
                str(run.get("started") or NOTHING),
                _count(run.get("done")),
                _count(run.get("skipped")),
                _count(len(failed)),
                *(_seconds(seconds.get(part)) for part in PARTS),
            ]
        )
    headers = ["stage", "status", "started (UTC)", "done", "in the store already", "failed"]
    headers += ["total, s", "waited for images, s", "model, s", "writing, s"]
    return Table(headers, rows, sortable=False)


def _count(value: Any) -> Cell:
    return Cell(NOTHING if value is None else f"{value:,}", look="number")


def _seconds(value: Any) -> Cell:
    return Cell(NOTHING if value is None else number(float(value), 1), look="number")
