"""Hash and size of every image, area of every mask, by a few threads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ImageError
from pipeline.images import FrameInfo, SkippedFile, probe, read_mask
from pipeline.intake.patients import patient_from_header

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Measured:
    """One file: its hash, patient code and frames; or why it is no picture, or is damaged."""

    sha256: str = ""
    patient: str = ""
    frames: tuple[FrameInfo, ...] = ()
    skipped: str = ""
    failed: str = ""


def measure(file: Path) -> Measured:
    """Hash and probe one image file; never raises for what is in the file."""
    try:
        frames = tuple(probe(file))
        with open(file, "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return Measured(digest, patient_from_header(file), frames)
    except SkippedFile as error:
        return Measured(skipped=error.reason)
    except ImageError as error:
        return Measured(failed=f"{error.message} - {error.remedy}")
    except OSError as error:
        return Measured(failed=f"cannot be read ({os.strerror(error.errno or 0)})")


def mask_area(job: tuple[Path, int, tuple[int, int]]) -> int | str:
    """Return the pixels of a mask, or why it cannot be used.

    Args:
        job: the mask's file, its frame, and (h, w) of the image.
    """
    file, frame, shape = job
    try:
        return int(read_mask(file, frame, shape=shape).sum())
    except ImageError as error:
        return error.message


def in_threads(function: Callable, items: list, workers: int | None, progress: Progress | None):
    """Map over items by threads, in order; report (done, total) as they finish."""
    workers = workers or min(8, 2 * (os.cpu_count() or 1))
    results = []
    with ThreadPoolExecutor(workers) as pool:
        for result in pool.map(function, items):
            results.append(result)
            if progress is not None:
                progress(len(results), len(items))
    return results
