"""What is found in a source of images: its folders and files, looked at once.

`look_through` gathers facts and decides nothing. Rules turn facts into `Findings`, the images with
what is known of each: layout.py (folders), tables.py (CSV files), masks.py (ground truth) and
patients.py.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from pipeline.errors import ImageError, ManifestError, PipelineError
from pipeline.images import DICOMDIR_REASON, has_image_suffix, is_junk, sniff
from pipeline.io import open_bytes


@dataclass
class FoundImage:
    """One image file and what is known of it.

    Attributes:
        path: POSIX path relative to the root.
        label: class name.
        split: train, val, test or "".
        facts: further manifest columns by name (patient_id, group, fold, mask_path, box, ...);
            image_id and frame only where the source states them.
        line: line of the table that lists it; 0 = none.
    """

    path: str
    label: str = ""
    split: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    line: int = 0


@dataclass
class Findings:
    """The images of a source, and what was left out.

    Attributes:
        root: folder that the paths of the images are relative to.
        images: the images.
        skipped: reason -> number of files left out.
        failed: path -> why the file cannot be read (filled in when images are measured).
        warnings: what the user should know.
        home: folder that `root` becomes when the images of a zip are added; None = they stay.
    """

    root: Path
    images: list[FoundImage] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    home: Path | None = None

    @property
    def above(self) -> Path:
        """The folder that "../" of a path of the manifest leads to."""
        return self.home.parent.resolve() if self.home else self.root.resolve().parent

    def file(self, name: str) -> Path:
        """Return the present location of a path of the manifest."""
        return self.above / name[3:] if name.startswith("../") else self.root / name

    def local_name(self, name: str, known: Collection[str]) -> str:
        """Return the path in `known` that a table means by `name`.

        Tables name images relative to the images' folder or to the folder above it, with slashes
        or backslashes. A name that fits neither is returned with slashes.
        """
        if name in known:
            return name
        name = name.replace("\\", "/").removeprefix("./")
        for top in (self.root.resolve().name, (self.home or self.root).name):
            if name not in known and name.startswith(f"{top}/"):
                return name.removeprefix(f"{top}/")
        return name


@dataclass
class Folder:
    """A folder as found on the disk.

    Attributes:
        path: POSIX path relative to the source; "" = the source itself.
        folders: its subfolders, sorted by name.
        images: paths of the image files directly in it, relative to the source, sorted.
        skipped: reason -> number of other entries directly in it.
    """

    path: str
    folders: list[Folder] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def filled(self) -> list[Folder]:
        """The subfolders with an image anywhere below."""
        return [sub for sub in self.folders if any(folder.images for folder in sub.walk())]

    def walk(self) -> Iterator[Folder]:
        """Yield this folder and all folders below."""
        yield self
        for folder in self.folders:
            yield from folder.walk()


def look_through(source: Path, *, exclude: tuple[Path, ...] = ()) -> Folder:
    """Look once at every folder and file below a folder.

    Links are followed; a folder that was reached before is not entered again.

    Args:
        source: the folder.
        exclude: folders below it to leave out.

    Returns:
        The tree of its folders.

    Raises:
        ManifestError: a folder cannot be listed.
    """
    excluded = {folder.resolve() for folder in exclude}
    seen = {source.resolve()}

    def look(place: Path, path: str) -> Folder:
        folder = Folder(path)
        below = f"{path}/" if path else ""
        _, names, files = next(os.walk(place, onerror=_cannot_list))
        for name in sorted(files):
            junk = "file left by a system or notebook" if is_junk(name) else ""
            if reason := junk or why_skipped(place / name, below + name):
                folder.skipped[reason] += 1
            else:
                folder.images.append(below + name)
        for name in sorted(names):
            real = (place / name).resolve()
            if is_junk(name):
                folder.skipped["folder left by a system or notebook"] += 1
            elif real in seen:
                folder.skipped["link to a folder that is read already"] += 1
            elif real not in excluded:
                seen.add(real)
                folder.folders.append(look(place / name, below + name))
        return folder

    return look(source, "")


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
