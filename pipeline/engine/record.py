"""The run record: what a run did, what failed and why, and how long it took."""

from __future__ import annotations

import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import Any

from pipeline.engine.progress import timed
from pipeline.errors import DiskError, PipelineError, StageFailed
from pipeline.io import atomic_write_json

MODELS = ("torch", "torchvision", "sam2", "open_clip_torch", "timm")
LIBRARIES = ("medfocusclip", *MODELS, "zarr", "numpy", "pillow")


@dataclass
class RunRecord:
    """One run of one stage, as written to `cache/<dataset>/records/<stage>.json`.

    Args:
        stage, dataset: their names.
        status: "running" | "ok" | "failed" (more images than allowed) | "interrupted" | "error"
            (see `error`). A record that says "running" belongs to a run that was killed or is
            still running.
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

    @property
    def failed_share(self) -> float:
        """Number of failed items divided by `total`; 0 if there are no items."""
        return len(self.failed) / self.total if self.total else 0.0

    @property
    def redone(self) -> dict[str, int]:
        """Number of rows computed again, by reason."""
        return dict(Counter(self.redone_rows.values()))

    def too_many_failed(self, allowed: float, path: str | PathLike | None) -> StageFailed:
        """Return the error of a run with a larger share of failed items than `allowed`."""
        return StageFailed(
            f"{self.stage} {self.dataset}: {len(self.failed)} of {self.total} images failed "
            f"({self.failed_share:.1%}, allowed {allowed:.1%}): {'; '.join(self.failures(3))}",
            path=path,
            remedy="repair these images or remove their rows from the manifest, since `train` "
            "needs every row (a higher max_failed in params.yaml only lets this stage succeed); "
            "all other images are kept",
        )

    def failures(self, most: int) -> list[str]:
        """Return one line for each of the first failed images, and one about the rest."""
        lines = [f"{name!r}: {reason}" for name, reason in list(self.failed.items())[:most]]
        more = len(self.failed) - most
        return [*lines, f"and {more} more in the record"] if more > 0 else lines

    def clock(self, part: str) -> AbstractContextManager[None]:
        """Add the time spent inside the block to a part of `seconds`."""
        return timed(self.seconds, part)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values, including `failed_share`."""
        return {**asdict(self), "failed_share": self.failed_share}

    def summary(self) -> str:
        """Return one line about the run and one for each of the first ten failures."""
        text = (
            f"{self.stage} {self.dataset}: {self.status}; {self.done} computed, {self.skipped} "
            f"there already, {len(self.failed)} failed of {self.total}; "
            f"{self.seconds.get('total', 0):.1f} s"
        )
        if self.images_per_second:
            text += f", {self.images_per_second:.1f} images/s"
        for reason, count in sorted(self.redone.items()):
            text += f"\n  computed again: {count} {reason}"
        return "\n".join([text, *(f"  failed: {line}" for line in self.failures(10))])

    def write(self, path: str | PathLike) -> None:
        """Write the record atomically."""
        atomic_write_json(path, self.to_json())

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
            return cls(**{k: v for k, v in values.items() if k in known})
        except (ValueError, TypeError, AttributeError) as error:
            raise PipelineError(
                f"not a run record: {error}",
                path=path,
                remedy="delete it; the next run writes a new one",
            ) from None


@contextmanager
def recorded(
    record: RunRecord,
    path: str | PathLike | None,
    *,
    max_failed: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Write the run record at the start and at the end of a block, whatever the outcome.

    The block may set `record.status`; otherwise it becomes "ok", "failed", "interrupted" or
    "error".

    Args:
        record: of the run.
        path: where it is written; None writes nothing.
        max_failed: largest allowed share of failed images; None if the items are not images.
        stopped: whether a signal asked the block to end early (`interrupts`).

    Raises:
        StageFailed: exit code 3; more images failed than `max_failed`.
        KeyboardInterrupt: `stopped` returned True.
        DiskError: the record cannot be written.
    """
    start = time.monotonic()
    record.started = datetime.now(UTC).isoformat(timespec="seconds")

    def save() -> None:
        seconds = record.seconds["total"] = time.monotonic() - start
        if max_failed is not None:
            record.images_per_second = record.done / max(seconds, 1e-9)
        if path is not None:
            record.write(path)

    save()  # the "ok" of an earlier run must not remain
    try:
        yield
        if record.status == "running":
            if stopped():
                raise KeyboardInterrupt
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
