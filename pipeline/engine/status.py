"""What the last runs of each dataset did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.engine.record import RunRecord
from pipeline.errors import PipelineError
from pipeline.paths import Paths

STAGES = ("segment", "encode")
ADD = "add"  # its record exists only if `data add` created the manifest


def known_datasets(paths: Paths, named: Iterable[str]) -> list[str]:
    """Return the datasets `named` (of params.yaml), then those with a manifest or a record."""
    recorded = {folder.parent.name for folder in paths.cache("x").parent.glob("*/records")}
    named = list(named)
    return [*named, *sorted((recorded | set(paths.datasets())) - set(named))]


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
        folder = paths.record(dataset, "x").parent
        found = {file.stem for file in folder.glob("[!.]*.json")}
        for stage in [*({ADD} & found), *STAGES, *sorted(found - {ADD, *STAGES})]:
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
    stored = table["sha256"].to_dict()
    wanted = zip(manifest["image_id"], manifest["sha256"], strict=True)
    missing = sum(stored.get(image_id) != sha256 for image_id, sha256 in wanted)
    return missing, len(manifest)


def status_text(rows: Sequence[dict[str, Any]], *, failures: int = 5) -> str:
    """Return the rows of `status_rows` as a table, followed by the first failures of each run."""
    columns = ("dataset", "stage", "status", "total", "done", "there", "failed", "img/s", "started")
    table, notes = [columns], []
    for row in rows:
        counts = [str(row[k]) for k in ("total", "done", "skipped", "failed")]
        table.append(
            (
                row["dataset"],
                row["stage"],
                row["status"],
                *(counts if row["status"] != "-" else "----"),
                f"{row['images_per_second']:.1f}" if row["images_per_second"] else "-",
                row["started"] or "-",
            )
        )
        name = f"{row['dataset']} {row['stage']}"
        if row["error"]:
            notes.append(f"{name}: {row['error']}")
        missing, images = row["lacking"] or (0, 0)
        if missing:
            notes.append(
                f"{name}: the store lacks {missing} of the {images} images of the manifest "
                f"as it is now - run: pipeline {row['stage']} --dataset {row['dataset']}"
            )
        listed = list(row["failures"].items())[:failures]
        notes += [f"{name}: failed {image_id!r}: {reason}" for image_id, reason in listed]
        if row["failed"] > failures:
            notes.append(f"{name}: and {row['failed'] - failures} more failed")
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
    return "\n".join([*lines, *([""] if notes else []), *notes])
