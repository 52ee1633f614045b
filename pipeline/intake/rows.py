"""From findings to rows of a manifest: hash, size and patient of each image, area of each mask."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import ImageError
from pipeline.images import FrameInfo, SkippedFile, probe, read_mask
from pipeline.intake.findings import Findings, FoundImage
from pipeline.intake.layout import MASK_FOLDERS
from pipeline.intake.patients import patient_from_header
from pipeline.io import sha256_file
from pipeline.manifest import COLUMNS

Progress = Callable[[int, int], None]
SHOWN = 5  # names in a warning


@dataclass(frozen=True)
class Measured:
    """What one image file contains; or why it is left out.

    Attributes:
        sha256: of the bytes.
        patient: one-way code from a DICOM header; "" = unknown.
        frames: index and size of each frame.
        skipped: why the file is not an image.
        failed: why the file cannot be read.
    """

    sha256: str = ""
    patient: str = ""
    frames: tuple[FrameInfo, ...] = ()
    skipped: str = ""
    failed: str = ""


def measure(file: Path) -> Measured:
    """Hash one image file and read its header; errors are returned, not raised."""
    try:
        frames = tuple(probe(file))
        return Measured(sha256_file(file), patient_from_header(file), frames)
    except SkippedFile as error:
        return Measured(skipped=error.reason)
    except ImageError as error:
        return Measured(failed=f"{error.message} - {error.remedy}")
    except OSError as error:
        return Measured(failed=f"cannot be read ({os.strerror(error.errno or 0)})")


def in_threads(
    function: Callable[[Any], Any],
    items: list,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list:
    """Map a function over items in threads, in order; report (done, total) after each."""
    results = []
    with ThreadPoolExecutor(workers or min(8, 2 * (os.cpu_count() or 1))) as pool:
        for result in pool.map(function, items):
            results.append(result)
            if progress is not None:
                progress(len(results), len(items))
    return results


def _measure_all(
    root: Path, paths: set[str], workers: int | None, progress: Progress | None
) -> dict[str, Measured]:
    names = sorted(paths)
    files = [root / name for name in names]
    return dict(zip(names, in_threads(measure, files, workers, progress), strict=True))


def build_rows(
    findings: Findings, *, synthetic: bool, workers: int | None, progress: Progress | None
) -> tuple[pd.DataFrame, list[int]]:
    """Measure every image and make one row per frame.

    A table may name one frame of a file; else a file of n frames becomes n rows.

    Args:
        findings: the images; what is skipped or failed is added, in place.
        synthetic, workers, progress: as for `add_dataset`.

    Returns:
        Rows sorted by path and frame, columns `COLUMNS` and those that a table adds; and the line
        of the table that each comes from.
    """
    paths = {image.path for image in findings.images}
    measured = _measure_all(findings.root, paths, workers, progress)
    rows, lines = [], []
    for image in sorted(findings.images, key=lambda image: image.path):
        result = measured[image.path]
        if result.skipped:
            findings.skipped[result.skipped] += 1
            continue
        wanted = image.facts.get("frame")
        frames = [info for info in result.frames if wanted is None or str(info.frame) == wanted]
        if not frames:
            why = f"has no frame {wanted!r} (it has {len(result.frames)})"
            findings.failed[image.path] = result.failed or why
        for info in frames:
            rows.append(_row(image, info, result, synthetic))
            lines.append(image.line)
    frame = pd.DataFrame(rows)
    for name in COLUMNS:
        if name not in frame:
            frame[name] = ""
    others = [name for name in frame.columns if name not in COLUMNS]
    return frame[[*COLUMNS, *others]].fillna(""), lines


def _row(image: FoundImage, info: FrameInfo, result: Measured, synthetic: bool) -> dict[str, Any]:
    facts = dict(image.facts)
    one_frame = facts.pop("frame", None) is not None
    stated = facts.pop("image_id", None)
    image_id = image.path if stated is None else stated
    if len(result.frames) > 1 and not (one_frame and stated is not None):
        image_id = f"{image_id}#{info.frame}"
    return {
        "patient_id": result.patient,
        "synthetic": "1" if synthetic else "0",
        **facts,
        "image_id": image_id,
        "path": image.path,
        "frame": info.frame,
        "label": image.label,
        "split": image.split,
        "sha256": result.sha256,
        "width": info.width,
        "height": info.height,
    }


def measure_again(
    frame: pd.DataFrame, data: Path, workers: int | None, progress: Progress | None
) -> dict[str, str]:
    """Update hash and size of existing rows in place; return path -> why a file failed."""
    measured = _measure_all(data, set(frame["path"]), workers, progress)
    failed = {
        name: result.failed or result.skipped
        for name, result in measured.items()
        if not result.frames
    }
    for i in frame.index[~frame["path"].isin(failed)]:
        result, number = measured[frame.at[i, "path"]], frame.at[i, "frame"]
        info = next((info for info in result.frames if info.frame == number), None)
        if info is None:
            failed[frame.at[i, "path"]] = f"has no frame {number} (it has {len(result.frames)})"
            continue
        frame.at[i, "sha256"] = result.sha256
        frame.at[i, "width"], frame.at[i, "height"] = info.width, info.height
    return failed


def measure_masks(
    frame: pd.DataFrame, locate: Callable[[str], Path], workers: int | None
) -> dict[int, str]:
    """Fill in mask_area (pixels) in place.

    Args:
        frame: rows. The mask of a frame is the same frame of the mask's file.
        locate: returns the file of a mask_path.

    Returns:
        Index of the row -> why its mask cannot be used; such rows are unchanged.
    """

    def area(i: int) -> int | str:
        row = frame.loc[i]
        shape = int(row["height"]), int(row["width"])
        try:
            mask = read_mask(locate(row["mask_path"]), int(row["frame"]), shape=shape)
        except ImageError as error:
            return error.message
        return int(mask.sum())

    bad: dict[int, str] = {}
    rows = list(frame.index[frame["mask_path"] != ""])
    for i, result in zip(rows, in_threads(area, rows, workers), strict=True):
        if isinstance(result, int):
            frame.at[i, "mask_area"] = str(result)
        else:
            bad[i] = result
    return bad


def drop_masks(frame: pd.DataFrame, bad: dict[int, str]) -> list[str]:
    """Empty mask_path where a mask cannot be used (see `measure_masks`); return warnings."""
    ids: dict[str, list[str]] = {}
    for i, reason in bad.items():
        frame.at[i, "mask_path"] = ""
        ids.setdefault(reason, []).append(frame.at[i, "image_id"])
    return [
        f"{len(names)} ground-truth masks are left out, {reason}: {', '.join(names[:SHOWN])}"
        for reason, names in ids.items()
    ]


def class_warnings(frame: pd.DataFrame) -> list[str]:
    """Return warnings on classes: missing in a split, tiny, of nearly equal names, or only one."""
    warnings = []
    table = frame.groupby(["label", "split"]).size().unstack(fill_value=0)
    for split in ("train", "test"):
        if split in table:
            lacking = [str(label) for label in table.index[table[split] == 0]]
            if lacking:
                warnings.append(f"no {split} image of class {', '.join(map(repr, lacking))}")
    for label, count in table.sum(axis=1).items():
        if count < 5:
            few = ": too few to train, validate and test" if count < 3 else ""
            images = "image" if count == 1 else "images"
            warnings.append(f"class {label!r} has {count} {images} only{few}")
        if str(label).casefold() in MASK_FOLDERS:
            warnings.append(f"class {label!r} looks like ground truth: pass its folder as --masks")
    alike: dict[str, list[str]] = {}
    for label in table.index:
        alike.setdefault(" ".join(str(label).casefold().split()), []).append(str(label))
    for labels in alike.values():
        if len(labels) > 1:
            names = ", ".join(map(repr, labels))
            warnings.append(f"classes {names} differ only by case or spaces")
    if len(table) == 1:
        warnings.append(f"all images are of one class, {table.index[0]!r}: check the folders")
    return warnings
