"""From images found to rows of a manifest: hash, size, patient, mask area, and no straddling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from pipeline.intake.folder import Found, Scan
from pipeline.intake.measure import Progress, in_threads, mask_area, measure
from pipeline.manifest import COLUMNS

# Of two splits that share a patient, the one named first here keeps the images.
KEEPS = {"drop-train": ("test", "val", "train"), "drop-test": ("train", "val", "test")}
MASK_FOLDERS = ("mask", "masks", "ground_truth", "groundtruth", "segmentation", "segmentations")
SHOWN = 5


@dataclass
class Rows:
    """Rows of a manifest, the line of a table each comes from, and what is no row."""

    frame: pd.DataFrame
    lines: list[int]
    skipped: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)


def build_rows(
    scan: Scan, *, synthetic: bool, workers: int | None, progress: Progress | None
) -> Rows:
    """Hash and probe every image of a scan; one row a frame, sorted by path and frame.

    A table may name one frame of a file; without it, or with a blank cell there, a file of n
    frames becomes n rows.
    """
    names = sorted({found.path for found in scan.found})
    files = [scan.root / name for name in names]
    measured = dict(zip(names, in_threads(measure, files, workers, progress), strict=True))
    rows: list[dict] = []
    lines: list[int] = []
    skipped: Counter[str] = Counter()
    failed: dict[str, str] = {}
    for found in sorted(scan.found, key=lambda found: found.path):
        result = measured[found.path]
        if result.failed:
            failed[found.path] = result.failed
        elif result.skipped:
            skipped[result.skipped] += 1
        else:
            frames = result.frames
            if "frame" in found.facts:
                wanted = found.facts["frame"]
                frames = [info for info in frames if str(info.frame) == wanted]
                if not frames:
                    failed[found.path] = f"has no frame {wanted!r} (it has {len(result.frames)})"
            for info in frames:
                many = len(result.frames) > 1
                rows.append(_row(found, info, result, synthetic, many))
                lines.append(found.line)
    frame = pd.DataFrame(rows)
    for name in COLUMNS:
        if name not in frame:
            frame[name] = ""
    others = [name for name in frame.columns if name not in COLUMNS]
    return Rows(frame[[*COLUMNS, *others]].fillna(""), lines, skipped, failed)


def _row(found: Found, info, result, synthetic: bool, many: bool) -> dict:
    facts = {
        name: value for name, value in found.facts.items() if name not in ("frame", "image_id")
    }
    image_id = found.facts.get("image_id", found.path)
    stated = "image_id" in found.facts and "frame" in found.facts
    if many and not stated:
        image_id = f"{image_id}#{info.frame}"
    return {
        "patient_id": result.patient,
        "synthetic": "1" if synthetic else "0",
        **facts,
        "image_id": image_id,
        "path": found.path,
        "frame": info.frame,
        "label": found.label,
        "split": found.split,
        "sha256": result.sha256,
        "width": info.width,
        "height": info.height,
    }


def remeasure(
    frame: pd.DataFrame, data: Path, workers: int | None, progress: Progress | None
) -> dict[str, str]:
    """Hash and probe the files of existing rows again, in place; return what failed, by path."""
    names = sorted(set(frame["path"]))
    results = in_threads(measure, [data / name for name in names], workers, progress)
    measured = dict(zip(names, results, strict=True))
    failed = {
        name: result.failed or result.skipped
        for name, result in measured.items()
        if not result.frames
    }
    for i in frame.index[~frame["path"].isin(failed)]:
        result = measured[frame.at[i, "path"]]
        number = frame.at[i, "frame"]
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
    """Fill mask_area (pixels) in place; return why masks cannot be used, by index of their row.

    Args:
        frame: rows. A frame of a file of many takes the mask's same frame. Rows whose mask cannot
            be used stay as they are.
        locate: gives the file of a mask_path.
    """
    rows = frame.index[frame["mask_path"] != ""]
    jobs = [
        (
            locate(frame.at[i, "mask_path"]),
            int(frame.at[i, "frame"]),
            (int(frame.at[i, "height"]), int(frame.at[i, "width"])),
        )
        for i in rows
    ]
    bad: dict[int, str] = {}
    for i, area in zip(rows, in_threads(mask_area, jobs, workers, None), strict=True):
        if isinstance(area, int):
            frame.at[i, "mask_area"] = str(area)
        else:
            bad[i] = area
    return bad


def leave_masks_out(frame: pd.DataFrame, bad: dict[int, str]) -> list[str]:
    """Take masks that cannot be used (as of `measure_masks`) out of the rows; return warnings."""
    ids: dict[str, list[str]] = {}
    for i, reason in bad.items():
        frame.at[i, "mask_path"] = ""
        ids.setdefault(reason, []).append(frame.at[i, "image_id"])
    return [
        f"{len(names)} ground-truth masks are left out, {reason}: {', '.join(names[:SHOWN])}"
        for reason, names in ids.items()
    ]


def resolve_straddling(frame: pd.DataFrame, how: str) -> list[str]:
    """Take the images of a patient out of all splits but one; `how` is a key of `KEEPS`.

    Returns:
        A warning that counts them, or nothing.
    """
    order = KEEPS[how]
    known = frame[(frame["patient_id"] != "") & (frame["split"] != "")]
    rank = known["split"].map({split: at for at, split in enumerate(order)})
    best = rank.groupby(known["patient_id"]).transform("min")
    dropped = rank.index[rank > best]
    if not len(dropped):
        return []
    patients = known.loc[dropped, "patient_id"].nunique()
    counts = frame.loc[dropped, "split"].value_counts()
    frame.loc[dropped, "split"] = ""
    listed = " and ".join(f"{n} {split} images" for split, n in counts.items())
    return [
        f"{patients} patients are in several splits: their {listed} are in none now (they stay in "
        f"the manifest, and take part in the grouped protocol)"
    ]


def oddities(frame: pd.DataFrame) -> list[str]:
    """Return warnings on classes: missing in a split, tiny, or of nearly the same name; and on
    patients that are known for a part of the images only."""
    warnings = []
    known = int((frame["patient_id"] != "").sum())
    if 0 < known < len(frame):
        warnings.append(
            f"the patient is known for {known} of {len(frame)} images only; each other image "
            "counts as a patient of its own, so that one patient may train and test: pass "
            "--patient-regex, or name patients in --groups"
        )
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
    return warnings
