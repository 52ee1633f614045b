"""`pipeline data add`: find the images, join what is known of them, measure them, write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.paths import Paths

Progress = Callable[[int, int], None]


@dataclass
class AddSummary:
    """What `add_dataset` did.

    Attributes:
        dataset: its name.
        manifest: the file written.
        counts: images by (split, label).
        skipped: files left out, by reason.
        failed: relative path -> why the file cannot be read (left out of the manifest).
        masks: images with a ground-truth mask.
        warnings: what the user should know.
        changed: rows added, removed and changed since the manifest before this one.
    """

    dataset: str
    manifest: Path
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    masks: int = 0
    warnings: list[str] = field(default_factory=list)
    changed: dict[str, int] = field(default_factory=dict)


def add_dataset(
    dataset: str,
    source: str | Path,
    *,
    paths: Paths | None = None,
    masks: str | Path | None = None,
    max_rank: int | None = 5,
    groups: str | Path | None = None,
    patient_regex: str | None = None,
    on_straddle: str | None = None,
    force: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> AddSummary:
    """Make data_manifests/<dataset>.csv from a folder, CSV or zip of images."""
    raise NotImplementedError


def refresh_dataset(
    dataset: str, *, paths: Paths | None = None, progress: Progress | None = None
) -> AddSummary:
    """Bring hashes, sizes and mask areas of a manifest up to date with its files."""
    raise NotImplementedError
