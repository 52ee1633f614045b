"""Patients from file names, and patients that are in two splits.

DICOM headers are read in rows.py, with the sizes of the images.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pandas as pd

from pipeline.errors import ManifestError
from pipeline.intake.findings import Findings

# File names that are known to name the patient. Kermany's chest films:
# person1000_bacteria_2931.jpeg and person1000_virus_1681.jpeg are one person;
# NORMAL2-IM-0516-0001-0002.jpeg, IM-0115-0001.jpeg.
KNOWN_NAMES = re.compile(r"(person\d+)_(?:bacteria|virus)_|((?:NORMAL\d*-)?IM-\d+)-\d+")
MIN_SHARE = 0.9  # of the names must match `KNOWN_NAMES` for any to be believed

# `--on-shared-patient`: of the splits that share a patient, the first in this order keeps it.
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
    files = [PurePosixPath(name).name for name in names]
    try:
        compiled = re.compile(pattern) if pattern else KNOWN_NAMES
        problem = "" if compiled.groups else "has no group"
    except re.error as error:
        problem = f"is not a regular expression: {error}"
    if not problem:
        matches = map(compiled.search if pattern else compiled.match, files)
        patients = [next(filter(None, m.groups()), "") if m else "" for m in matches]
        known = sum(map(bool, patients))
        if not pattern:
            return patients if known >= MIN_SHARE * len(files) else [""] * len(files)
        if known:
            return patients
        problem = f"matches none of the {len(files)} names, e.g. {files[:1]}"
    raise ManifestError(
        f"--patient-regex {pattern!r} {problem}",
        remedy="put the part that names the patient in brackets, e.g. --patient-regex '(P[0-9]+)_'",
    )


def fill_in_patients(findings: Findings, pattern: str | None) -> bool:
    """Set patient_id from file names where no table states it, and return whether a table states
    patients; then names are read only if a pattern is given."""
    images = findings.images
    stated = bool((images["patient_id"] != "").any())
    if pattern or not stated:
        named = patients_from_names(list(images["path"]), pattern)
        rows = zip(images["patient_id"], named, strict=True)
        images["patient_id"] = [old or new for old, new in rows]
    return stated


def keep_in_one_split(frame: pd.DataFrame, how: str) -> list[str]:
    """Take the images of a patient out of all splits but one, in place, and return a warning.

    Args:
        frame: rows of a manifest.
        how: a key of `SPLIT_PRIORITY`.
    """
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
