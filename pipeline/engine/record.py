"""What a run records: what it did, what failed and why."""

from __future__ import annotations

import json
import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.errors import DiskError, PipelineError, StageFailed
from pipeline.io import atomic_write_json

MODELS = ("torch", "torchvision", "sam2", "open_clip_torch", "timm")
LIBRARIES = ("medfocusclip", *MODELS, "zarr", "numpy", "pillow")
ADD = "add"  # its record exists only if `data add` created the manifest


@dataclass
class RunRecord:
    """One run of one stage, as written to `cache/<dataset>/records/<stage>.json`.

    Args:
        status: "running" (or killed) | "ok" | "failed" (more images than allowed) | "interrupted" |
            "error" (see `error`).
        started: UTC time, ISO 8601.
        total: number of items requested: done + skipped + failed + those left by an interruption.
        done: rows computed in this run, including copies.
        skipped: rows that were stored already.
        copied: rows of `done` that were copied from a byte-identical image.
        failed: image_id -> reason.
        redone_rows: image_id -> why a row that was stored before was computed again.
        seconds: "total" and what the run waited for: "load_wait" (images), "model", "write".
        images_per_second: done / seconds["total"]; 0 if the items are not images.
        identity: hash of the identity of the store.
        versions: of Python and the libraries.
        parameters: batch size, workers, limit, ... and the parameters of the stage.
        error: what ended the run early, "" otherwise.
        masks: status ("ok", "empty", "full", "failed") -> number of masks in the store.
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
    redone_rows: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    images_per_second: float = 0.0
    identity: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    masks: dict[str, int] = field(default_factory=dict)

    @property
    def failed_share(self) -> float:
        """Number of failed items divided by `total`; 0 if there are no items."""
        return len(self.failed) / self.total if self.total else 0.0

    @property
    def redone(self) -> dict[str, int]:
        """Number of rows computed again, by reason."""
        return dict(Counter(self.redone_rows.values()))

    def too_many_failed(self, allowed: float, path: Path) -> StageFailed:
        """Return the error of a run with a larger share of failed items than `allowed`."""
        return StageFailed(
            f"{self.stage} {self.dataset}: {len(self.failed)} of {self.total} images failed "
            f"({self.failed_share:.1%}, allowed {allowed:.1%}): {'; '.join(self.failures(3))}",
            path=path,
            remedy="repair these images or remove their rows from the manifest; `train` needs "
            "every row, also with a higher max_failed. All other images are kept",
        )

    def failures(self, most: int) -> list[str]:
        """Return one line for each of the first failed images, and one about the rest."""
        lines = [f"{name!r}: {reason}" for name, reason in list(self.failed.items())[:most]]
        more = len(self.failed) - most
        return [*lines, f"and {more} more in the record"] if more > 0 else lines

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values, including `failed_share`."""
        return {**asdict(self), "failed_share": self.failed_share}

    def summary(self) -> str:
        """Return one line about the run and one for each of the first ten failures."""
        name = f"{self.dataset} {self.parameters.get('learner', '')}".strip()
        text = (
            f"{self.stage} {name}: {self.status}; {self.done} computed, {self.skipped} "
            f"there already, {len(self.failed)} failed of {self.total}; "
            f"{self.seconds.get('total', 0):.1f} s"
        )
        masks = ", ".join(f"{n} {status}" for status, n in self.masks.items())
        text += f"\n  masks: {masks}" if masks else ""
        again = [f"  computed again: {n} {reason}" for reason, n in sorted(self.redone.items())]
        return "\n".join([text, *again, *(f"  failed: {line}" for line in self.failures(10))])

    def write(self, path: Path) -> None:
        """Write the record atomically."""
        atomic_write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """Read a record: PipelineError if it is damaged, FileNotFoundError if there is none."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            known = {f.name for f in fields(cls)}
            return cls(**{k: v for k, v in values.items() if k in known})
        except (ValueError, TypeError, AttributeError) as error:
            message = f"not a run record: {error}"
            raise PipelineError(message, path=path, remedy="delete it") from None


@contextmanager
def recorded(record: RunRecord, path: Path, *, max_failed: float | None = None) -> Iterator[None]:
    """Write a run record at the start and at the end of a block, whatever the outcome.

    The block may set `record.status`; otherwise it becomes "ok", "failed", "interrupted" or
    "error". Raises StageFailed (exit code 3) where a larger share of the images failed than
    `max_failed`; None if the items are not images.
    """
    start = time.monotonic()
    record.started = datetime.now(UTC).isoformat(timespec="seconds")

    def save() -> None:
        seconds = record.seconds["total"] = time.monotonic() - start
        if max_failed is not None:
            record.images_per_second = record.done / max(seconds, 1e-9)
        record.write(path)

    save()  # the "ok" of an earlier run must not remain
    try:
        yield
        if record.status == "running":
            if max_failed is not None and record.failed_share > max_failed:
                raise record.too_many_failed(max_failed, path)
            record.status = "ok"
    except BaseException as error:
        expected = {KeyboardInterrupt: "interrupted", StageFailed: "failed"}
        record.status = expected.get(type(error), "error")
        record.error = "" if type(error) in expected else str(error) or type(error).__name__
        with suppress(DiskError):  # the first error is the one to report
            save()
        raise
    save()


def library_versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Return the versions of Python and of those libraries that are installed."""
    versions = {"python": platform.python_version()}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
