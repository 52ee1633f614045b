"""Who is on an image: from file names or DICOM headers; and patients that are in two splits."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.errors import ManifestError
from pipeline.images import patient_code, sniff
from pipeline.images.kinds import HEAD_BYTES
from pipeline.intake.findings import Findings

# File names that are known to name the patient. Kermany's chest films:
# person1000_bacteria_2931.jpeg and person1000_virus_1681.jpeg are one person;
# NORMAL2-IM-0516-0001-0002.jpeg, IM-0115-0001.jpeg.
KNOWN_NAMES = re.compile(r"(person\d+)_(?:bacteria|virus)_|((?:NORMAL\d*-)?IM-\d+)-\d+")
MIN_SHARE = 0.9  # of the names must match `KNOWN_NAMES` for any to be believed

# `--on-straddle`: of the splits that share a patient, the first in this order keeps the images.
SPLIT_PRIORITY = {"drop-train": ("test", "val", "train"), "drop-test": ("train", "val", "test")}


def patients_from_names(names: list[str], pattern: str | None = None) -> list[str]:
    """Return the patient of each file name; "" = unknown.

    Args:
        names: relative paths. The pattern is tried on the last part, without folders.
        pattern: regular expression whose first matching group is the patient. Default:
            `KNOWN_NAMES`, if nearly all names match it.

    Raises:
        ManifestError: the pattern is invalid, has no group, or matches no name.
    """
    try:
        compiled = re.compile(pattern) if pattern else KNOWN_NAMES
    except re.error as error:
        raise ManifestError(
            f"--patient-regex {pattern!r} is not a regular expression: {error}",
            remedy="write e.g. --patient-regex '(P[0-9]+)_'",
        ) from None
    if compiled.groups < 1:
        raise ManifestError(
            f"--patient-regex {pattern!r} has no group",
            remedy="put the part that names the patient in brackets, e.g. '(P[0-9]+)_'",
        )
    find = compiled.search if pattern else compiled.match
    matches = [find(PurePosixPath(name).name) for name in names]
    patients = [next((g for g in m.groups() if g), "") if m else "" for m in matches]
    known = sum(map(bool, patients))
    if pattern and not known:
        raise ManifestError(
            f"--patient-regex {pattern!r} matches none of the {len(names)} file names",
            remedy=f"a name is e.g. {PurePosixPath(names[0]).name!r}" if names else "",
        )
    if not pattern and known < MIN_SHARE * len(names):
        return [""] * len(names)
    return patients


def fill_in_patients(findings: Findings, pattern: str | None) -> bool:
    """Set patient_id from file names where no table states it.

    Returns:
        Whether a table states patients; then names are read only if a pattern is given.
    """
    stated = any(image.facts.get("patient_id") for image in findings.images)
    if pattern or not stated:
        patients = patients_from_names([image.path for image in findings.images], pattern)
        for image, patient in zip(findings.images, patients, strict=True):
            if patient:
                image.facts.setdefault("patient_id", patient)
    return stated


def patient_from_header(file: Path) -> str:
    """Return a one-way code of a DICOM file's patient; "" = not DICOM, or unknown.

    The content decides whether it is DICOM, not the name.

    Raises:
        OSError: the file cannot be opened.
    """
    with open(file, "rb") as opened:  # the start only: other formats may be large
        if sniff(opened.read(HEAD_BYTES)) != "DICOM":
            return ""
    return patient_code(file)


def keep_in_one_split(frame: pd.DataFrame, how: str) -> list[str]:
    """Take the images of a patient out of all splits but one, in place.

    Args:
        frame: rows of a manifest.
        how: a key of `SPLIT_PRIORITY`.

    Returns:
        A warning with counts; nothing if no patient is in two splits.
    """
    known = frame[(frame["patient_id"] != "") & (frame["split"] != "")]
    rank = known["split"].map({split: at for at, split in enumerate(SPLIT_PRIORITY[how])})
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
        "the manifest, and take part in the grouped protocol)"
    ]


def patient_warnings(frame: pd.DataFrame) -> list[str]:
    """Return a warning if the patient is known for a part of the images only."""
    known = int((frame["patient_id"] != "").sum())
    if known in (0, len(frame)):
        return []
    return [
        f"the patient is known for {known} of {len(frame)} images only; each other image counts "
        "as a patient of its own, so that one patient may train and test: pass --patient-regex, "
        "or name patients in --groups"
    ]
