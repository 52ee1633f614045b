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
from pipeline.images import FrameInfo, SkippedFile, patient_code, probe, read_mask
from pipeline.intake.findings import Findings, FoundImage
from pipeline.intake.layout import MASK_FOLDERS
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

    def without(self, frame: object) -> str:
        """Return why a frame of the file cannot be had."""
        return self.failed or self.skipped or f"has no frame {frame!r} (it has {len(self.frames)})"


def measure(file: Path) -> Measured:
    """Hash one image file and read its header; errors are returned, not raised."""
    try:
        frames = tuple(probe(file))
        return Measured(sha256_file(file), patient_code(file), frames)
    except SkippedFile as error:
        return Measured(skipped=error.reason)
    except ImageError as error:
        return Measured(failed=f"{error.message} - {error.remedy}")
    except OSError as error:
        return Measured(failed=f"cannot be read ({os.strerror(error.errno or 0)})")


def _in_threads(
    function: Callable[[Any], Any], items: list, progress: Progress | None = None
) -> list:
    """Map a function over items in threads, in order; report (done, total) after each."""
    results = []
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        for result in pool.map(function, items):
            results.append(result)
            if progress is not None:
                progress(len(results), len(items))
    return results


def measure_all(root: Path, paths: set[str], progress: Progress | None) -> dict[str, Measured]:
    """Measure files below a folder; returns path -> what was found."""
    names = sorted(paths)
    found = _in_threads(measure, [root / name for name in names], progress)
    return dict(zip(names, found, strict=True))


def build_rows(
    findings: Findings, *, synthetic: bool, progress: Progress | None
) -> tuple[pd.DataFrame, list[int]]:
    """Measure every image and make one row per frame.

    A table may name one frame of a file; else a file of n frames becomes n rows.

    Args:
        findings: the images; what is skipped or failed is added, in place.
        synthetic, progress: as for `add_dataset`.

    Returns:
        Rows sorted by path and frame, columns `COLUMNS` and those that a table adds; and the line
        of the table that each comes from.
    """
    paths = {image.path for image in findings.images}
    measured = measure_all(findings.root, paths, progress)
    rows, lines = [], []
    for image in sorted(findings.images, key=lambda image: image.path):
        result = measured[image.path]
        if result.skipped:
            findings.skipped[result.skipped] += 1
            continue
        wanted = image.facts.get("frame")
        frames = [info for info in result.frames if wanted is None or str(info.frame) == wanted]
        if not frames:
            findings.failed[image.path] = result.without(wanted)
        for info in frames:
            rows.append(_row(image, info, result, synthetic))
            lines.append(image.line)
    frame = pd.DataFrame(rows)
    others = [name for name in frame.columns if name not in COLUMNS]
    return frame.reindex(columns=[*COLUMNS, *others], fill_value="").fillna(""), lines


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


def measure_again(frame: pd.DataFrame, measured: dict[str, Measured]) -> dict[str, str]:
    """Update hash and size of existing rows in place; return path -> why a file failed."""
    failed = {}
    for row in frame.itertuples():
        result = measured[row.path]
        info = next((info for info in result.frames if info.frame == row.frame), None)
        if info is None:
            failed[row.path] = result.without(row.frame)
        else:
            values = result.sha256, info.width, info.height
            frame.loc[row.Index, ["sha256", "width", "height"]] = values
    return failed


def measure_masks(frame: pd.DataFrame, locate: Callable[[str], Path]) -> dict[int, str]:
    """Fill in mask_area (pixels) in place.

    Args:
        frame: rows. The mask of a frame is the same frame of the mask's file.
        locate: returns the file of a mask_path.

    Returns:
        Index of the row -> why its mask cannot be used; such rows are unchanged.
    """

    def area(row: Any) -> int | str:
        try:
            file, shape = locate(row.mask_path), (row.height, row.width)
            return int(read_mask(file, row.frame, shape=shape).sum())
        except ImageError as error:
            return error.message

    bad: dict[int, str] = {}
    rows = list(frame[frame["mask_path"] != ""].itertuples())
    for row, result in zip(rows, _in_threads(area, rows), strict=True):
        if isinstance(result, int):
            frame.at[row.Index, "mask_area"] = str(result)
        else:
            bad[row.Index] = result
    return bad


def class_warnings(frame: pd.DataFrame) -> list[str]:
    """Return warnings on classes: missing in a split, tiny, of nearly equal names, or only one."""
    warnings = []
    table = frame.groupby(["label", "split"]).size().unstack(fill_value=0)
    for split in table.columns.intersection(["train", "test"]):
        if lacking := list(table.index[table[split] == 0]):
            warnings.append(f"no {split} image of class {', '.join(map(repr, lacking))}")
    for label, count in table.sum(axis=1).items():
        if count < 5:
            warnings.append(f"class {label!r} has too few images to train and test: {count}")
        if label.casefold() in MASK_FOLDERS:
            warnings.append(f"class {label!r} looks like ground truth: pass its folder as --masks")
    labels = table.index.to_series()
    for _, alike in labels.groupby(labels.str.casefold().str.split().str.join(" ")):
        if len(alike) > 1:
            names = ", ".join(map(repr, alike))
            warnings.append(f"classes {names} differ only by case or spaces")
    if len(table) == 1:
        warnings.append(f"all images are of one class, {table.index[0]!r}: check the folders")
    return warnings
