"""What the last runs of each dataset did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from pipeline.engine.record import RunRecord
from pipeline.errors import PipelineError
from pipeline.paths import Paths

STAGES = ("segment", "encode")
ADD = "add"  # its record exists only if `data add` created the manifest
COUNTS = ("total", "done", "skipped")
SHOWN = ("status", "started", *COUNTS, "redone", "images_per_second", "seconds", "error")


def known_datasets(paths: Paths, named: Iterable[str]) -> list[str]:
    """Return the datasets `named` (of params.yaml), then those with a manifest or a record."""
    recorded = {folder.parent.name for folder in paths.cache("x").parent.glob("*/records")}
    return list(dict.fromkeys([*named, *sorted(recorded | set(paths.datasets()))]))


def status_rows(paths: Paths, datasets: Iterable[str]) -> list[dict[str, Any]]:
    """Return one row per dataset and stage, in the order of the data flow.

    Keys: dataset, stage, status ("-" if it never ran), started, total, done, skipped, failed
    (number), failures (image_id -> reason), redone, images_per_second, seconds, error, lacking.

    `lacking` is [missing, images]: how many images of the current manifest the store has no row
    of, or one of other bytes. It is None if it cannot be determined. The record alone does not
    show it after a refused run or a longer manifest.
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
            lacking = None if record.status == "-" else _lacking(paths, dataset, stage)
            row = {"dataset": dataset, "stage": stage}
            row |= {name: getattr(record, name) for name in SHOWN}
            rows.append(row | {"failures": record.failed, "lacking": lacking})
            rows[-1]["failed"] = len(record.failed)
    return rows


def _lacking(paths: Paths, dataset: str, stage: str) -> tuple[int, int] | None:
    from pipeline.manifest import read_manifest
    from pipeline.store import open_features, open_masks

    stores = {"segment": (paths.masks, open_masks), "encode": (paths.features, open_features)}
    if stage not in stores:
        return None
    path_of, open_store = stores[stage]
    try:
        wanted = read_manifest(paths.manifest(dataset)).set_index("image_id")["sha256"]
        if not path_of(dataset).exists():
            return len(wanted), len(wanted)
        stored = open_store(path_of(dataset)).table()["sha256"]
    except PipelineError:
        return None
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
            notes.append(
                f"{name}: the store lacks {missing} of the {images} images of the manifest "
                f"as it is now - run: pipeline {row['stage']} --dataset {row['dataset']}"
            )
        failed = RunRecord(row["stage"], failed=row["failures"]).failures(5)
        notes += [f"{name}: failed {line}" for line in failed]
    columns = ["dataset", "stage", "status", *COUNTS, "failed", "images_per_second", "started"]
    table = pd.DataFrame(rows, columns=columns).round({"images_per_second": 1})
    return "\n".join([table.to_string(index=False), *notes])
