"""What `pipeline data add` tells: counts, what was left out and why, and what to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

SHOWN = 20


@dataclass
class AddSummary:
    """What `add_dataset` did.

    Attributes:
        dataset: its name.
        manifest: the file written.
        images: rows of the manifest.
        counts: split ("" = none) -> label -> images.
        masks: images with a ground-truth mask.
        patients: patients that are known.
        skipped: files left out, reason -> count.
        failed: relative path -> why the file cannot be read; left out of the manifest.
        warnings: what the user should know.
        changed: rows "added", "removed", "changed" since the manifest before this one.
    """

    dataset: str
    manifest: Path
    images: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    masks: int = 0
    patients: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    changed: dict[str, int] = field(default_factory=dict)

    def count(self, frame: pd.DataFrame) -> None:
        """Fill the counts from the rows of a manifest."""
        self.images = len(frame)
        table = frame.groupby(["split", "label"]).size()
        self.counts = {
            str(split): {str(label): int(n) for label, n in part.droplevel(0).items()}
            for split, part in table.groupby(level=0)
        }
        self.masks = int((frame["mask_path"] != "").sum())
        self.patients = int(frame.loc[frame["patient_id"] != "", "patient_id"].nunique())

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {**vars(self), "manifest": self.manifest.as_posix()}

    def text(self) -> str:
        """Return lines for a person."""
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
        lines += [
            f"  FAILED {_shown(path)}: {why}" for path, why in list(self.failed.items())[:SHOWN]
        ]
        if len(self.failed) > SHOWN:
            lines.append(f"  FAILED: {len(self.failed) - SHOWN} more")
        lines += [f"  warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def _shown(path: str) -> str:
    """A name that would break the line, or the terminal, is shown quoted."""
    return path if path.isprintable() else repr(path)
