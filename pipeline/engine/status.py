"""What each dataset's last runs did, at a glance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.engine.record import RunRecord
from pipeline.errors import PipelineError
from pipeline.paths import Paths

STAGES = ("segment", "encode")
ADD = "add"  # its record is there only where `data add` made the manifest


def known_datasets(paths: Paths, named: Iterable[str]) -> list[str]:
    """Return the datasets `named` (of params.yaml), then those that have a manifest or a record
    of a run besides, sorted."""
    run = {folder.parent.name for folder in paths.cache("x").parent.glob("*/records")}
    named = list(named)
    return [*named, *sorted((run | set(paths.datasets())) - set(named))]


def status_rows(paths: Paths, datasets: Iterable[str]) -> list[dict[str, Any]]:
    """Return one row a dataset and stage, in the order the data flows.

    Keys: dataset, stage, status ("-" = never run), started, total, done, skipped, failed (count),
    failures (image_id -> reason), images_per_second, seconds, error, lacking.

    `lacking` is (count, images) of the manifest as it is now: those that the stage's store has no
    row of, or one of other bytes. A run that was refused, or a longer manifest, changes no record.
    None = nobody can tell.
    """
    rows = []
    for dataset in datasets:
        folder = paths.record(dataset, "x").parent
        there = {f.stem for f in folder.glob("[!.]*.json")}
        others = sorted(there - {ADD, *STAGES})
        for stage in [*({ADD} & there), *STAGES, *others]:
            try:
                record = RunRecord.read(paths.record(dataset, stage))
            except FileNotFoundError:
                record = RunRecord(stage, dataset, status="-")
            except PipelineError as error:
                record = RunRecord(stage, dataset, status="damaged", error=str(error))
            rows.append(
                {
                    "dataset": dataset,
                    "stage": stage,
                    "status": record.status,
                    "started": record.started,
                    "total": record.total,
                    "done": record.done,
                    "skipped": record.skipped,
                    "failed": len(record.failed),
                    "failures": record.failed,
                    "redone": record.redone,
                    "images_per_second": round(record.images_per_second, 2),
                    "seconds": {k: round(v, 3) for k, v in record.seconds.items()},
                    "error": record.error,
                    "lacking": None if record.status == "-" else _lacking(paths, dataset, stage),
                }
            )
    return rows


def _lacking(paths: Paths, dataset: str, stage: str) -> tuple[int, int] | None:
    from pipeline.manifest import read_manifest
    from pipeline.store import open_features, open_masks

    if stage not in STAGES:
        return None
    path = paths.masks(dataset) if stage == "segment" else paths.features(dataset)
    try:
        manifest = read_manifest(paths.manifest(dataset))
        if not path.exists():
            return len(manifest), len(manifest)
        table = (open_masks if stage == "segment" else open_features)(path).table()
    except PipelineError:
        return None
    stored = table.loc[table["status"] != "pending", "sha256"].to_dict()
    here = [
        stored.get(image_id) == sha256
        for image_id, sha256 in zip(manifest["image_id"], manifest["sha256"], strict=True)
    ]
    return here.count(False), len(here)


def status_text(paths: Paths, datasets: Iterable[str], *, failures: int = 5) -> str:
    """Return the same as a plain table, with the first failures of each run by name and reason."""
    columns = ("dataset", "stage", "status", "total", "done", "there", "failed", "img/s", "started")
    table, notes = [columns], []
    for row in status_rows(paths, datasets):
        figures = [str(row[k]) for k in ("total", "done", "skipped", "failed")]
        if row["status"] == "-":
            figures = ["-"] * 4
        table.append(
            (
                row["dataset"],
                row["stage"],
                row["status"],
                *figures,
                f"{row['images_per_second']:.1f}" if row["images_per_second"] else "-",
                row["started"] or "-",
            )
        )
        name = f"{row['dataset']} {row['stage']}"
        notes += [f"{name}: {row['error']}"] if row["error"] else []
        missing, images = row["lacking"] or (0, 0)
        if missing:
            notes.append(
                f"{name}: the store lacks {missing} of the {images} images of the manifest "
                f"as it is now - run: pipeline {row['stage']} --dataset {row['dataset']}"
            )
        notes += [
            f"{name}: failed {image_id!r}: {why}"
            for image_id, why in list(row["failures"].items())[:failures]
        ]
        if row["failed"] > failures:
            notes.append(f"{name}: and {row['failed'] - failures} more failed")
    widths = [max(len(line[k]) for line in table) for k in range(len(columns))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
    return "\n".join([*lines, *([""] if notes else []), *notes])
