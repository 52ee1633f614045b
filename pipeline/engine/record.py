"""The record of a run: what was done, what failed and why, what it cost."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError, StageFailed
from pipeline.io import atomic_write_json

LIBRARIES = (
    "medfocusclip",
    "torch",
    "torchvision",
    "sam2",
    "open_clip_torch",
    "timm",
    "zarr",
    "numpy",
    "pillow",
)


@dataclass
class RunRecord:
    """One run of one stage, as written to `cache/<dataset>/records/<stage>.json`.

    Args:
        stage, dataset: which run.
        status: "running" | "ok" | "failed" (more images than allowed) | "interrupted" | "error"
            (stopped by `error`). A record that says "running" is of a run that was killed, or
            that still runs.
        started: UTC time, ISO 8601.
        total: items asked for = done + skipped + failed + what an interruption left.
        done: rows computed in this run, copies included.
        skipped: rows that were in the store already.
        copied: rows of `done` that were copied from a byte-identical image.
        failed: image_id -> reason.
        redone: reason -> number of rows computed although the store knew the image.
        redone_rows: image_id -> reason.
        seconds: by part: "total", "load_wait" (the model waited for images), "model", "write" (the
            run waited for the disk; most writing goes on behind the model).
        images_per_second: done / seconds["total"]; 0 where the items are no images.
        identity: hash of the store's identity.
        versions: of Python and the libraries.
        parameters: batch size, workers, limit, ... and what the stage adds.
        error: what stopped the run, "" otherwise.
        last_computed: "started", "done", "skipped", "seconds" (total) and "parts" (all seconds) of
            the latest run that computed any row: one that finds all there must not hide the cost.
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
    last_computed: dict[str, Any] = field(default_factory=dict)

    @property
    def failed_share(self) -> float:
        """Failed items as a share of all asked for, 0 when there are none."""
        return len(self.failed) / self.total if self.total else 0.0

    def too_many_failed(self, allowed: float, path: str | PathLike | None) -> StageFailed:
        """Return the error of a run of which a larger share failed than allowed.

        Args:
            allowed: the share, `max_failed` of the stage.
            path: where this record is.
        """
        named = "; ".join(f"{name!r}: {why}" for name, why in list(self.failed.items())[:3])
        more = f"; and {len(self.failed) - 3} more" if len(self.failed) > 3 else ""
        return StageFailed(
            f"{self.stage} {self.dataset}: {len(self.failed)} of {self.total} images failed "
            f"({self.failed_share:.1%}, allowed {allowed:.1%}): {named}{more}",
            path=path,
            remedy="mend these images, or take the rows of those that cannot be mended out of the "
            "manifest, since `train` needs every row (a higher max_failed in params.yaml only lets "
            "this stage end well); all other images are kept",
        )

    def redo(self, image_id: str, reason: str) -> None:
        """Count a row that is computed although the store knew the image."""
        self.redone[reason] = self.redone.get(reason, 0) + 1
        self.redone_rows[image_id] = reason

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        """Add the time spent inside to a part of `seconds`."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - begin

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values, with the derived figure."""
        return {**asdict(self), "failed_share": self.failed_share}

    def summary(self) -> str:
        """Return the run in one line, and a line each for the first failures."""
        name = f"{self.stage} {self.dataset}".strip()
        text = (
            f"{name}: {self.status}; {self.done} computed, {self.skipped} there already, "
            f"{len(self.failed)} failed of {self.total}; "
            f"{self.seconds.get('total', 0):.1f} s"
        )
        if self.images_per_second:
            text += f", {self.images_per_second:.1f} images/s"
        if self.redone:
            reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(self.redone.items()))
            text += f"\n  computed again: {reasons}"
        for image_id, reason in list(self.failed.items())[:10]:
            text += f"\n  failed: {image_id!r}: {reason}"
        if len(self.failed) > 10:
            text += f"\n  ... and {len(self.failed) - 10} more, all in the record"
        return text

    def write(self, path: str | PathLike) -> None:
        """Write the record atomically; `last_computed` goes on from the record that was there."""
        if self.done:
            self.last_computed = self._cost()
        elif not self.last_computed and Path(path).is_file():
            with suppress(PipelineError):  # a damaged one has nothing to go on from
                self.last_computed = RunRecord.read(path).last_computed
        atomic_write_json(path, self.to_json())

    def _cost(self) -> dict[str, Any]:
        return {
            "started": self.started,
            "done": self.done,
            "skipped": self.skipped,
            "seconds": self.seconds.get("total", 0.0),
            "parts": dict(self.seconds),
        }

    @classmethod
    def read(cls, path: str | PathLike) -> RunRecord:
        """Read a record.

        Raises:
            PipelineError: it is damaged.
            FileNotFoundError: there is none.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            known = {f.name for f in fields(cls)}
            record = cls(**{k: v for k, v in values.items() if k in known})
            if record.done and not record.last_computed:  # written before this was kept
                record.last_computed = record._cost()
            return record
        except (ValueError, TypeError, AttributeError) as error:
            raise PipelineError(
                f"not a run record: {error}", path=path, remedy="delete it; the next run writes one"
            ) from None


def library_versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Return the versions of Python and of the installed ones among `names`."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
