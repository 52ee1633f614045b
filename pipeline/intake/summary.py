"""What `pipeline data add` reports: printed for the user, and recorded for status and report."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.engine.record import RunRecord, library_versions
from pipeline.engine.status import ADD
from pipeline.errors import DiskError, PipelineError
from pipeline.paths import Paths

SHOWN = 20


@dataclass
class AddSummary:
    """What `add_dataset` did.

    Attributes:
        dataset: its name.
        manifest: the file written.
        images: number of rows.
        counts: split ("" = none) -> label -> number of images.
        masks: number of images with a ground-truth mask.
        patients: number of known patients.
        skipped: reason -> number of files left out.
        failed: relative path -> why the file cannot be read; it is not in the manifest.
        masks_left_out: image_id -> why its ground-truth mask cannot be used.
        warnings: what the user should know.
        changed: number of rows "added", "removed" and "changed" since the last manifest.
    """

    dataset: str
    manifest: Path
    images: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    masks: int = 0
    patients: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    masks_left_out: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    changed: dict[str, int] = field(default_factory=dict)

    def count(self, frame: pd.DataFrame) -> None:
        """Set the counts from the rows of a manifest."""
        self.images = len(frame)
        table = frame.groupby(["split", "label"]).size()
        self.counts = {
            str(split): {str(label): int(n) for label, n in part.droplevel(0).items()}
            for split, part in table.groupby(level=0)
        }
        self.masks = int((frame["mask_path"] != "").sum())
        self.patients = int(frame.loc[frame["patient_id"] != "", "patient_id"].nunique())

    def to_json(self) -> dict[str, Any]:
        """Return all attributes as JSON values."""
        return {**vars(self), "manifest": self.manifest.as_posix()}

    def text(self) -> str:
        """Return the lines that `pipeline data add` prints."""
        lines = [f"{self.manifest}: {self.images} images"]
        for split in sorted(self.counts, key=["train", "val", "test", ""].index):
            labels = self.counts[split]
            listed = ", ".join(f"{label} {n}" for label, n in labels.items())
            lines.append(f"  {split or 'no split'}: {sum(labels.values())} ({listed})")
        lines.append(
            f"  ground-truth masks: {self.masks}, patients: {self.patients or 'not known'}"
        )
        changes = ", ".join(f"{n} {what}" for what, n in self.changed.items() if n)
        lines.append(f"  since the last manifest: {changes or 'nothing changed'}")
        lines += [f"  skipped {n}: {reason}" for reason, n in sorted(self.skipped.items())]
        failed = list(self.failed.items())
        lines += [
            f"  FAILED {path if path.isprintable() else repr(path)}: {why}"
            for path, why in failed[:SHOWN]
        ]
        if len(failed) > SHOWN:
            lines.append(f"  FAILED: {len(failed) - SHOWN} more")
        lines += [f"  warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def record_add(summary: AddSummary, paths: Paths, known: Collection[str] = ()) -> None:
    """Write cache/<dataset>/records/add.json: what is not in the manifest, so that no later stage
    can report it.

    Args:
        summary: of the run; its warnings are not kept. If the disk refuses the record, a warning
            is added: the manifest is valid without it.
        paths: the project folder.
        known: after a refresh, paths and ids of the manifest: all else that the last `data add`
            left out stays on record.
    """
    skipped = {"skipped": dict(summary.skipped), "masks_left_out": dict(summary.masks_left_out)}
    failed, outside = dict(summary.failed), len(summary.failed)
    if known:
        earlier = RunRecord(ADD)
        with suppress(PipelineError, FileNotFoundError):  # damaged or missing
            earlier = RunRecord.read(paths.record(summary.dataset, ADD))
        left_out = {name: why for name, why in earlier.failed.items() if name not in known}
        failed, outside, skipped = left_out | failed, len(left_out), earlier.parameters
    total = summary.images + outside
    record = RunRecord(
        ADD,
        summary.dataset,
        status="failed" if failed else "ok",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        total=total,
        done=total - len(failed),
        failed=failed,
        versions=library_versions(("medfocusclip", "numpy", "pillow")),
        parameters=skipped,
    )
    try:
        record.write(paths.record(summary.dataset, ADD))
    except DiskError as error:
        summary.warnings.append(f"the record of failed and skipped files was not written: {error}")
