"""What a run shows and records: what it did, what failed and why; and the status of all runs."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import DiskError, PipelineError, StageFailed
from pipeline.io import atomic_write_json
from pipeline.paths import Paths

MODELS = ("torch", "torchvision", "sam2", "open_clip_torch", "timm")
LIBRARIES = ("medfocusclip", *MODELS, "zarr", "numpy", "pillow")
STAGES = ("segment", "encode")
ADD = "add"  # its record exists only if `data add` created the manifest
COUNTS = ("total", "done", "skipped")
SHOWN = ("status", "started", *COUNTS, "redone", "images_per_second", "seconds", "error")


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


@contextmanager
def show_progress(
    title: str, total: int, *, reused: int = 0, unit: str = "images", show: bool = True
) -> Iterator[Callable[[int, int], None]]:
    """Show how many of `total` rows are finished: on a terminal in a line that is rewritten, else
    by a line now and then. Yields a function that counts further rows, `done` and `failed`."""
    start = shown = time.monotonic()
    finished = bad = 0
    terminal = sys.stderr.isatty()
    begin, width, seconds = ("\r", 40, 0.1) if terminal else ("", 0, 10.0)

    def say(text: str = "", end: str = "\n") -> None:
        nonlocal shown
        shown = time.monotonic()
        rate = f"{finished / max(shown - start, 1e-9):.1f} {unit}/s"
        text = text or f"{finished}/{total}{f', {bad} failed' if bad else ''}, {rate}"
        if show:
            line = f"{begin}{title}: {text:<{width}}"  # the blanks hide what a longer line left
            print(line, end=end, file=sys.stderr, flush=True)

    def add(done: int, failed: int) -> None:
        nonlocal finished, bad
        finished, bad = finished + done + failed, bad + failed
        if time.monotonic() - shown >= seconds:
            say(end="" if terminal else "\n")

    say(f"{total} to do, {reused} there already")
    try:
        yield add
    finally:
        say()


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Add the time spent inside the block to a part of `seconds`."""
    start = time.monotonic()
    try:
        yield
    finally:
        seconds[part] = seconds.get(part, 0.0) + time.monotonic() - start


def known_datasets(paths: Paths, named: Iterable[str]) -> list[str]:
    """Return the datasets `named` (of params.yaml), then those with a manifest or a record."""
    recorded = {folder.parent.name for folder in paths.cache("x").parent.glob("*/records")}
    return list(dict.fromkeys([*named, *sorted(recorded | set(paths.datasets()))]))


def status_rows(paths: Paths, datasets: Iterable[str]) -> list[dict[str, Any]]:
    """Return one row per dataset and stage, in the order of the data flow.

    Its keys are dataset, stage, `SHOWN` of the record (status "-" if it never ran), failed
    (number), failures (image_id -> reason), and lacking: [missing, images], how many images of the
    manifest as it is now the store has no row of, or one of other bytes; None if unknown.
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
            row = {"dataset": dataset, "stage": stage}
            row |= {name: getattr(record, name) for name in SHOWN}
            row |= {"failed": len(record.failed), "failures": record.failed}
            row["lacking"] = None
            try:
                if record.status != "-":
                    row["lacking"] = _lacking(paths, dataset, stage)
            except PipelineError as error:
                row["error"] = row["error"] or str(error)
            rows.append(row)
    return rows


def _lacking(paths: Paths, dataset: str, stage: str) -> tuple[int, int] | None:
    from pipeline.manifest import read_manifest
    from pipeline.store import open_features, open_masks

    if stage not in STAGES:
        return None
    segment = stage == "segment"
    path = paths.masks(dataset) if segment else paths.features(dataset)
    wanted = read_manifest(paths.manifest(dataset)).set_index("image_id")["sha256"]
    if not path.exists():
        return len(wanted), len(wanted)
    stored = (open_masks if segment else open_features)(path).table()["sha256"]
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
            again = f"pipeline {row['stage']} --dataset {row['dataset']}"
            notes.append(f"{name}: the store lacks {missing} of {images} images - run: {again}")
        failed = RunRecord(row["stage"], failed=row["failures"]).failures(5)
        notes += [f"{name}: failed {line}" for line in failed]
    columns = ["dataset", "stage", "status", *COUNTS, "failed", "images_per_second", "started"]
    table = pd.DataFrame(rows, columns=columns).round({"images_per_second": 1})
    return "\n".join([table.to_string(index=False), *notes])
