"""Who is on an image: from its file name, or from a DICOM header by a one-way code."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from pipeline.errors import ManifestError
from pipeline.images import patient_code, sniff
from pipeline.images.kinds import HEAD_BYTES

# File names that say who is on them. Kermany's chest films: person1000_bacteria_2931.jpeg and
# person1000_virus_1681.jpeg are one person; NORMAL2-IM-0516-0001-0002.jpeg, IM-0115-0001.jpeg.
KNOWN_NAMES = re.compile(r"(person\d+)_(?:bacteria|virus)_|((?:NORMAL\d*-)?IM-\d+)-\d+")
MIN_SHARE = 0.9  # of the names that must follow the pattern before it is believed


def patients_from_names(names: list[str], pattern: str | None = None) -> list[str]:
    """Return the patient of each file name ("" = the name does not say).

    Args:
        names: relative paths; the pattern is tried on the last part, without folders.
        pattern: regular expression whose first group that matches is the patient. Without one,
            the names that are known (`KNOWN_NAMES`) are read if nearly all follow them.

    Raises:
        ManifestError: the pattern is not valid, has no group, or matches no name.
    """
    try:
        compiled = re.compile(pattern) if pattern else KNOWN_NAMES
    except re.error as error:
        raise ManifestError(
            f"--patient-regex {pattern!r} is no regular expression: {error}",
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


def patient_from_header(file: Path) -> str:
    """Return the one-way code of a DICOM file's patient ("" = no DICOM, or not told).

    The content decides, whatever the name: a DICOM called x.png has a patient too.

    Raises:
        OSError: the file cannot be opened.
    """
    with open(file, "rb") as opened:  # the head alone: other formats may be large
        if sniff(opened.read(HEAD_BYTES)) != "DICOM":
            return ""
    return patient_code(file)
