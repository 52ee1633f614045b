"""The status of all runs: what their records say, and what the stores lack."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from pipeline.engine.record import ADD, RunRecord
from pipeline.errors import PipelineError
from pipeline.paths import Paths
from pipeline.remote import exists

STAGES = ("segment", "encode")
COUNTS = ("total", "done", "skipped")
SHOWN = ("status", "started", *COUNTS, "redone", "images_per_second", "seconds", "error")


def known_datasets(paths: Paths, named: Iterable[str]) -> list[str]:
    """Return the datasets `named` (of params.yaml), then those with a manifest or a record."""
    recorded = {folder.parent.name for folder in paths.cache("x").parent.glob("*/records")}
    return list(dict.fromkeys([*named, *sorted(recorded | set(paths.datasets()))]))


def status_rows(paths: Paths, datasets: Iterable[str]) -> list[dict[str, Any]]:
    """Return one row per dataset and stage, in the order of the data flow.

    Its keys are dataset, stage, `SHOWN` of the record (status "-" if it never ran), failed
    (number), failures (image_id -> reason), and lacking: [missing, images], how many images of the
    manifest as it is now the store has no row of, or one of other bytes; None if unknown.
    """
    rows = []
    for dataset in datasets:
        found = {file.stem for file in paths.record(dataset, "x").parent.glob("[!.]*.json")}
        for stage in [*({ADD} & found), *STAGES, *sorted(found - {ADD, *STAGES})]:
            try:
                record = RunRecord.read(paths.record(dataset, stage))
            except FileNotFoundError:
                record = RunRecord(stage, dataset, status="-")
            except PipelineError as error:
                record = RunRecord(stage, dataset, status="damaged", error=str(error))
            row = {"dataset": dataset, "stage": stage}
            row |= {name: getattr(record, name) for name in SHOWN}
            row |= {"failed": len(record.failed), "failures": record.failed}
            row["lacking"] = None
            try:
                if record.status != "-":
                    row["lacking"] = _lacking(paths, dataset, stage)
            except PipelineError as error:
                row["error"] = row["error"] or str(error)
            rows.append(row)
    return rows


def _lacking(paths: Paths, dataset: str, stage: str) -> tuple[int, int] | None:
    from pipeline.manifest import read_manifest
    from pipeline.store import open_features, open_masks

    if stage not in STAGES:
        return None
    segment = stage == "segment"
    path = paths.masks(dataset) if segment else paths.features(dataset)
    wanted = read_manifest(paths.manifest(dataset)).set_index("image_id")["sha256"]
    if not exists(path):
        return len(wanted), len(wanted)
    stored = (open_masks if segment else open_features)(path).table()["sha256"]
    return int((stored.reindex(wanted.index) != wanted).sum()), len(wanted)


def status_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows of `status_rows` as a table, followed by the first failures of each run."""
    notes = []
    for row in rows:
        name = f"{row['dataset']} {row['stage']}"
        missing, images = row["lacking"] or (0, 0)
        if row["error"]:
            notes.append(f"{name}: {row['error']}")
        if missing:
            again = f"pipeline {row['stage']} --dataset {row['dataset']}"
            notes.append(f"{name}: the store lacks {missing} of {images} images - run: {again}")
        failed = RunRecord(row["stage"], failed=row["failures"]).failures(5)
        notes += [f"{name}: failed {line}" for line in failed]
    columns = ["dataset", "stage", "status", *COUNTS, "failed", "images_per_second", "started"]
    table = pd.DataFrame(rows, columns=columns).round({"images_per_second": 1})
    return "\n".join([table.to_string(index=False), *notes])
