"""What `pipeline data add` reports: printed for the user, and recorded for status and report."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.engine.record import ADD, RunRecord, library_versions
from pipeline.errors import printable
from pipeline.paths import Paths

SHOWN = 20


@dataclass
class AddSummary:
    """What `add_dataset` did, and counts: images, masks, patients (the known ones), and
    counts, split ("" = none) -> label -> number of images."""

    dataset: str
    manifest: Path
    frame: pd.DataFrame = field(repr=False)  # the rows of the manifest
    skipped: dict[str, int] = field(default_factory=dict)  # reason -> number of files left out
    failed: dict[str, str] = field(default_factory=dict)  # path -> why it cannot be read
    masks_left_out: dict[str, str] = field(default_factory=dict)  # image_id -> why
    warnings: list[str] = field(default_factory=list)
    changed: dict[str, int] = field(default_factory=dict)  # rows added, removed and changed

    def __post_init__(self) -> None:
        self.images = len(self.frame)
        self.masks = int((self.frame["mask_path"] != "").sum())
        self.patients = len(set(self.frame["patient_id"]) - {""})
        self.counts: dict[str, dict[str, int]] = {}
        for (split, label), count in self.frame.groupby(["split", "label"]).size().items():
            self.counts.setdefault(split, {})[label] = int(count)

    def to_json(self) -> dict[str, Any]:
        """Return all attributes but the rows as JSON values."""
        values = {**vars(self), "manifest": self.manifest.as_posix()}
        del values["frame"]
        return values

    def text(self) -> str:
        """Return the lines that `pipeline data add` prints."""
        lines = [f"{self.manifest}: {self.images} images"]
        for split in sorted(self.counts, key=["train", "val", "test", ""].index):
            labels = self.counts[split]
            listed = ", ".join(f"{label} {n}" for label, n in labels.items())
            lines.append(f"  {split or 'no split'}: {sum(labels.values())} ({listed})")
        changes = ", ".join(f"{n} {what}" for what, n in self.changed.items() if n)
        lines += [
            f"  ground-truth masks: {self.masks}, patients: {self.patients or 'not known'}",
            f"  since the last manifest: {changes or 'nothing changed'}",
            *(f"  skipped {n}: {reason}" for reason, n in sorted(self.skipped.items())),
        ]
        failed = [f"  FAILED {printable(path)}: {why}" for path, why in self.failed.items()]
        lines += failed[:SHOWN]
        if len(failed) > SHOWN:
            lines.append(f"  FAILED: {len(failed) - SHOWN} more")
        return "\n".join([*lines, *(f"  warning: {warning}" for warning in self.warnings)])

    def record(self, paths: Paths) -> None:
        """Write cache/<dataset>/records/add.json: what is not in the manifest, so that no later
        stage can report it."""
        RunRecord(
            ADD,
            self.dataset,
            status="failed" if self.failed else "ok",
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            total=self.images + len(self.failed),
            done=self.images,
            failed=self.failed,
            versions=library_versions(("medfocusclip", "numpy", "pillow")),
            parameters={"skipped": self.skipped, "masks_left_out": self.masks_left_out},
        ).write(paths.record(self.dataset, ADD))
