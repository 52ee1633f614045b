"""The record of a run: what was done, what failed and why, what it cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class RunRecord:
    """One run of one stage, as written to `cache/<dataset>/records/<stage>.json`.

    Args:
        stage, dataset: which run.
        status: "running" | "ok" | "failed" | "interrupted" | "error" (stopped by `error`).
        started: UTC time, ISO 8601.
        total: items asked for; = done + skipped + len(failed) + what an interruption left.
        done: rows computed in this run (copies of byte-identical images included).
        skipped: rows that were in the store already (the same as `reused`).
        copied: rows of `done` that were copied from a byte-identical image.
        failed: image_id -> reason.
        redone: reason -> number of rows computed although the store had them.
        redone_rows: image_id -> reason.
        seconds: by part: "total", "load_wait" (the model waited for images), "model", "write".
        images_per_second: done / seconds["total"].
        identity: hash of the store's identity.
        versions: of Python and the libraries.
        parameters: batch size, workers, limit, ... and what the stage adds.
        error: what stopped the run, "" otherwise.
    """

    stage: str
    dataset: str = ""
    status: str = "running"
    started: str = ""
    total: int = 0
    done: int = 0
    skipped: int = 0
    copied: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    redone: dict[str, int] = field(default_factory=dict)
    redone_rows: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    images_per_second: float = 0.0
    identity: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def reused(self) -> int:
        """Rows that needed no work."""
        return self.skipped

    @property
    def failed_share(self) -> float:
        """Failed items as a share of all asked for, 0 when there are none."""
        return len(self.failed) / self.total if self.total else 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def write(self, path: Path) -> None:
        """Write the record atomically."""
        raise NotImplementedError
