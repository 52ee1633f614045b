"""What lies in a folder, and what is known of each image: facts, without rules.

Rules turn facts into a table of images: layout.py (folders), tables.py (CSV files), masks.py
(ground truth) and patients.py.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pandas as pd

from pipeline.errors import ImageError, ManifestError, PipelineError
from pipeline.images import DICOMDIR_REASON, has_image_suffix, is_junk, sniff
from pipeline.io import open_bytes
from pipeline.manifest import COLUMNS


@dataclass
class Findings:
    """The images of a source, and what was left out.

    Attributes:
        root: folder that the paths of the images are relative to.
        images: one row per file, or per frame that a table names: text, "" = not known. The columns
            are `manifest.COLUMNS` and others of a table; the index is the line of the table.
        skipped: reason -> number of files left out.
        failed: path -> why the file cannot be read (filled in when images are measured).
        warnings: what the user should know.
        home: folder that `root` becomes when the images of a zip are added; None = they stay.
    """

    root: Path
    images: pd.DataFrame
    skipped: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    home: Path | None = None

    def __post_init__(self) -> None:
        others = [name for name in self.images if name not in COLUMNS]
        self.images = self.images.reindex(columns=[*COLUMNS, *others], fill_value="")

    @property
    def above(self) -> Path:
        """The folder that "../" of a path of the manifest leads to."""
        return self.home.parent.resolve() if self.home else self.root.resolve().parent

    def file(self, name: str) -> Path:
        """Return the present location of a path of the manifest."""
        return self.above / name[3:] if name.startswith("../") else self.root / name

    def local_name(self, name: str, known: Collection[str]) -> str:
        """Return the path in `known` that a table means by `name`, relative to the images' folder
        or to the folder above it, with slashes or backslashes; else the name with slashes."""
        if name in known:
            return name
        name = name.replace("\\", "/").removeprefix("./")
        for top in (self.root.resolve().name, (self.home or self.root).name):
            if name not in known and name.startswith(f"{top}/"):
                return name.removeprefix(f"{top}/")
        return name


def look_through(
    source: Path, *, exclude: tuple[Path, ...] = ()
) -> tuple[list[str], list[str], Counter[str]]:
    """Look once at every folder and file below a folder, but for the folders of `exclude`.

    Links are followed; a folder that was reached before is not entered again.

    Returns:
        The image files and the folders, as POSIX paths relative to the source; and reason -> number
        of entries left out.

    Raises:
        ManifestError: a folder cannot be listed.
    """
    images, folders, skipped = [], [], Counter()
    excluded, seen = {folder.resolve() for folder in exclude}, set()
    for place, names, files in os.walk(source, onerror=_cannot_list, followlinks=True):
        real, below = Path(place).resolve(), Path(place).relative_to(source)
        names.sort()
        reason = ""
        if below.name and is_junk(below.name):
            reason = "folder left by a system or notebook"
        elif real in seen:
            reason = "link to a folder that is read already"
        elif real in excluded:
            reason = "folder of --masks"
        if reason:
            skipped[reason] += 1
            names.clear()
            continue
        seen.add(real)
        folders += [below.as_posix()] if below.name else []
        for name in sorted(files):
            path = (below / name).as_posix()
            junk = "file left by a system or notebook" if is_junk(name) else ""
            if reason := junk or why_skipped(Path(place, name), path):
                skipped[reason] += 1
            else:
                images.append(path)
    return images, folders, skipped


def _cannot_list(error: OSError) -> NoReturn:
    raise ManifestError(
        f"cannot be listed ({os.strerror(error.errno or 0)})",
        path=error.filename,
        remedy="give yourself permission to read it, or move it away",
    )


def why_skipped(file: Path, relative: str) -> str:
    """Return why a file is not listed as an image; "" = it is an image by its name or content."""
    try:
        relative.encode("utf-8")
    except UnicodeEncodeError:
        return "file name is not UTF-8 (rename it)"
    if file.name.upper() == "DICOMDIR":  # by name too, so that one at the top is not a stray image
        return DICOMDIR_REASON
    if has_image_suffix(file.name):
        return ""
    suffix = file.suffix.lower()
    if suffix and not suffix[1:].isdigit():
        return f"not an image ({suffix})"
    try:  # DICOM files often have no suffix, or end in the last number of their UID
        with open_bytes(file) as opened:
            sniff(opened.read(1024))
    except (ImageError, OSError):
        return "not an image (no suffix)"
    except PipelineError as error:
        return error.message
    return ""
