"""From findings to rows of a manifest: hash, size and patient of each image, area of each mask."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import ImageError, ManifestError, shown
from pipeline.images import (
    Ambiguous,
    FrameInfo,
    SkippedFile,
    dicom_capture,
    image_bytes,
    patient_code,
    probe,
    read_mask,
)
from pipeline.images.read import unreadable
from pipeline.intake.find import Findings
from pipeline.intake.truth import CLASS_WORDS, WORDS, are_drawn, words
from pipeline.intake.user_tables import pixel_box
from pipeline.io import FileHashes
from pipeline.manifest import mask_file
from pipeline.segment.quality import odd_truth

SECONDARY = "DICOM secondary capture (dose report, screen shot) among CT, MR or PET images"
# `--on-shared-patient`: of the splits that share a patient, the first in this order keeps it.
MANY_CLASSES, SMALL_CLASS = 8, 16  # so many classes of fewer images may be patients
MISSING = ("nan", "null", "n/a", "?", "-")  # labels as programs write where there is none
SPLIT_PRIORITY = {"drop-train": ("test", "val", "train"), "drop-test": ("train", "val", "test")}


@dataclass(frozen=True)
class Measured:
    """What one image file contains; or why it is skipped (no image) or failed (unreadable)."""

    sha256: str = ""
    patient: str = ""  # one-way code from a DICOM header; "" = unknown
    frames: tuple[FrameInfo, ...] = ()
    capture: str = ""  # `dicom_capture`
    skipped: str = ""
    failed: str = ""

    def without(self, frame: object) -> str:
        """Return why a frame of the file cannot be had."""
        return self.failed or self.skipped or f"has no frame {frame!r} (it has {len(self.frames)})"


def measure(file: Path, name: Path, hashes: FileHashes) -> Measured:
    """Read one image file once, for its hash and header; errors are returned, not raised. `hashes`
    learns the hash of what will be at the path `name`."""
    try:
        version = hashes.version(file)
        data = image_bytes(file)
        frames = tuple(probe(file, data=data))
        digest = hashes.learn(name, version, hashlib.sha256(data).hexdigest())
        facts = patient_code(file, data=data), frames, dicom_capture(file, data=data)
        return Measured(digest, *facts)
    except SkippedFile as error:
        return Measured(skipped=error.message)
    except ImageError as error:
        return Measured(failed=error.with_remedy)
    except OSError as error:
        return Measured(failed=unreadable(file, error).with_remedy)


def measure_all(
    root: Path, paths: set[str], place: Path, hashes: FileHashes
) -> dict[str, Measured]:
    """Measure files below a folder, which becomes `place`; returns path -> what was found."""
    names = sorted(paths)
    found = _in_threads(lambda name: measure(root / name, place / name, hashes), names)
    return dict(zip(names, found, strict=True))


def _in_threads(function: Callable, items: list) -> list:
    """Map a function over items in threads, in order."""
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(function, items))


def build_rows(
    findings: Findings, place: Path, hashes: FileHashes, *, synthetic: bool
) -> tuple[pd.DataFrame, list[int]]:
    """Measure every image and make one row per frame (or of the frame that a table names); what is
    skipped or failed joins `findings`. Returns the rows, sorted by path and frame, with the columns
    of `findings.images`; and the line of the table that each comes from."""
    images = findings.images.sort_values("path", kind="stable")
    measured = measure_all(findings.root, set(images["path"]), place, hashes)
    captures = Counter(one.capture for one in measured.values())
    if captures["acquired"] > captures["secondary"] > 0:
        for path, one in measured.items():
            if one.capture == "secondary":
                measured[path] = Measured(skipped=SECONDARY)
    rows, lines = [], []
    for line, image in zip(images.index, images.to_dict("records"), strict=True):
        result, wanted = measured[image["path"]], image["frame"]
        if result.skipped:
            findings.skipped[result.skipped] += 1
            continue
        frames = [info for info in result.frames if wanted in ("", str(info.frame))]
        if not frames:
            findings.failed[image["path"]] = result.without(wanted)
        one_of_many = len(result.frames) > 1 and not (wanted and image["image_id"])
        for info in frames:
            image_id = image["image_id"] or image["path"]
            row = {
                "image_id": f"{image_id}#{info.frame}" if one_of_many else image_id,
                "frame": info.frame,
                "patient_id": image["patient_id"] or result.patient,
                "sha256": result.sha256,
                "width": info.width,
                "height": info.height,
                "box": pixel_box(image["box"], info.width, info.height),
                "synthetic": image["synthetic"] or ("1" if synthetic else "0"),
            }
            rows.append(image | row)
            lines.append(line)
    return pd.DataFrame(rows, columns=images.columns), lines


def refuse_pages_of_masks(frame: pd.DataFrame, locate: Callable[[str], Path]) -> None:
    """Raise ManifestError where most files have two pages, of which the second one is a mask by its
    pixels and the first one is not."""
    pages = frame["path"].value_counts(sort=False)
    two = list(pages.index[pages == 2])
    if len(two) > len(pages) / 2 and are_drawn(two, locate, 1) and not are_drawn(two, locate):
        raise ManifestError(
            f"{len(two)} files have two pages, and the second looks like the mask of the first: "
            f"{shown(two)}",
            remedy="save the pages as files (x.png, x_mask.png), or pass --masks none if all are "
            "images",
        )


@dataclass
class MeasuredMasks:
    """What was found of the masks of a manifest; ids are those of the images.

    Attributes:
        bad: index of the row -> why its mask cannot be used; `Ambiguous` if it can be read in two
            ways.
        odd: what is unusual (`odd_truth`, or "resized") -> ids.
        total: masks that were read, or tried.
    """

    bad: dict[int, ImageError] = field(default_factory=dict)
    odd: dict[str, list[str]] = field(default_factory=dict)
    total: int = 0

    def unusable(self, frame: pd.DataFrame) -> dict[str, str]:
        """Return image id -> why its mask cannot be used."""
        return {frame.at[index, "image_id"]: why.with_remedy for index, why in self.bad.items()}

    def lines(self) -> list[str]:
        """Return a line for each kind of unusual mask, with its count."""
        what = {
            "covers the border": "cover the border (--mask-invert if their ground is white)",
            "resized": "have another size than their image: its nearest pixels are taken",
            "covers more than half of the image": "cover more than half",
            "empty": "are empty",
        }
        if len(self.odd.get("empty", ())) == self.total:
            what["empty"] += ", all of them (JPEG loses regions of 1: save them as PNG)"
        return [
            f"{len(ids)} of {self.total} ground-truth masks {what[kind]}: {shown(ids)}"
            for kind, ids in sorted(self.odd.items())
        ]

    def refuse_if_unclear(self, frame: pd.DataFrame) -> None:
        """Raise ManifestError if more than half can be read in two ways, unless the rules in
        `frame` say which values are the region, or that the ground is white."""
        told = frame.get("mask_rule", pd.Series(dtype=str)).str.contains("values=|invert").any()
        unclear = [why for why in self.bad.values() if isinstance(why, Ambiguous)]
        covering = self.odd.get("covers the border", [])
        if len(unclear) > self.total / 2:
            counts = Counter((why.message, why.remedy) for why in unclear)
            (what, remedy), number = counts.most_common(1)[0]
            said = f"{len(unclear)} of {self.total} masks can be read in two ways; {number}: each"
            raise ManifestError(f"{said} {what}", remedy=remedy)
        if len(covering) > self.total / 2 and not told:
            raise ManifestError(
                f"{len(covering)} of {self.total} masks cover the border of their image "
                f"({shown(covering)}): their ground is white, or the region is that large",
                remedy="say --mask-invert if the region is dark on a white ground, or name the "
                "values of the region as they are with --mask-values, such as 255",
            )


def measure_masks(frame: pd.DataFrame, locate: Path | Callable[[str], Path]) -> MeasuredMasks:
    """Fill in mask_area (pixels) in place, of masks below a folder or at `locate(mask_path)`; that
    of a frame is the same frame of the mask's file. Rows whose mask cannot be used are
    unchanged."""

    def measure(row: Any) -> tuple[int, list[str]] | ImageError:
        try:
            shape, files = (int(row.height), int(row.width)), mask_file(row, locate)
            mask = read_mask(files, int(row.frame), shape=shape)
            sizes = [probe(file)[0] for file in files.files] if files.rule else []
            resized = "resized" if any((s.height, s.width) != shape for s in sizes) else ""
            return int(mask.sum()), [odd for odd in (odd_truth(mask), resized) if odd]
        except ImageError as error:
            return error

    rows, found = list(frame[frame["mask_path"] != ""].itertuples()), MeasuredMasks()
    found.total = len(rows)
    for row, result in zip(rows, _in_threads(measure, rows), strict=True):
        if isinstance(result, ImageError):
            found.bad[row.Index] = result
            continue
        frame.at[row.Index, "mask_area"] = str(result[0])
        for odd in result[1]:
            found.odd.setdefault(odd, []).append(row.image_id)
    return found


def keep_in_one_split(frame: pd.DataFrame, how: str) -> list[str]:
    """Take the images of a patient out of all splits but one, in place, as the key `how` of
    `SPLIT_PRIORITY` says, and return a warning."""
    known = frame[(frame["patient_id"] != "") & (frame["split"] != "")]
    rank = known["split"].map(SPLIT_PRIORITY[how].index)
    dropped = known[rank > rank.groupby(known["patient_id"]).transform("min")]
    if dropped.empty:
        return []
    frame.loc[dropped.index, "split"] = ""
    counts = dropped["split"].value_counts()
    listed = " and ".join(f"{n} {split} images" for split, n in counts.items())
    return [
        f"{dropped['patient_id'].nunique()} patients are in several splits: their {listed} are in "
        "none now (they stay in the manifest, and take part in the grouped protocol)"
    ]


def row_warnings(frame: pd.DataFrame) -> list[str]:
    """Return warnings on classes (missing in a split, tiny, of nearly equal names, or only one) and
    on patients that are known for a part of the images only."""
    warnings = []
    table = frame.groupby(["label", "split"]).size().unstack(fill_value=0)
    for split in table.columns.intersection(["train", "test"]):
        if lacking := list(table.index[table[split] == 0]):
            warnings.append(f"no {split} image of class {', '.join(map(repr, lacking))}")
    if len(table) >= MANY_CLASSES and len(frame) < SMALL_CLASS * len(table):
        warnings.append(
            f"{len(table)} classes have {len(frame) // len(table)} images on average: if they are "
            "rather patients, list the images with their classes in a CSV"
        )
    for label, count in table.sum(axis=1).items():
        if count < 5:
            warnings.append(f"class {label!r} has too few images to train and test: {count}")
        if label.strip().lower() in MISSING:
            warnings.append(f"class {label!r} ({count} images) may be a missing label")
        if {*words(label)} and {*words(label)} <= WORDS - CLASS_WORDS:
            warnings.append(f"class {label!r} looks like ground truth: pass its folder as --masks")
    labels = table.index.to_series()
    for _, alike in labels.groupby(
        labels.str.casefold().str.split().str.join(" ").str.removesuffix(".0")
    ):
        if len(alike) > 1:
            names = ", ".join(map(repr, alike))
            warnings.append(f"classes {names} differ only by case, spaces or .0")
    whole = frame[frame["label"].groupby(frame["sha256"]).transform("nunique") > 1]
    if len(whole):
        what = f"{len(whole)} images have the same bytes as one of another class"
        warnings.append(f"{what}: {shown(whole['image_id'])}")
    in_splits = frame[(frame["patient_id"] != "") & (frame["split"] != "")]
    named = in_splits.groupby("patient_id")["split"].first()
    keys = named.index.to_series().str.casefold()
    keys = keys.str.replace(r"\s|(?<!\d)0+(?=\d)|\.0$", "", regex=True)
    alike = named.index[named.groupby(keys).transform("nunique") > 1]
    if len(alike):
        warnings.append(
            f"{len(alike)} patients in different splits have names that differ only by case, "
            f"blanks or zeros ({shown(map(repr, alike))}): if they are one, write them alike"
        )
    if len(table) == 1:
        warnings.append(f"all images are of one class, {table.index[0]!r}: check the folders")
    known = int((frame["patient_id"] != "").sum())
    if 0 < known < len(frame):
        warnings.append(
            f"the patient is known for {known} of {len(frame)} images only; each other image "
            "counts as a patient of its own, so that one patient may train and test: pass "
            "--patient-regex, or name patients in --groups"
        )
    return warnings
