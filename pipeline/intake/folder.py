"""A folder of images, [split/]class/[anything/]image: which files, which label, which split."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from pipeline.errors import ImageError, ManifestError, PipelineError, printable
from pipeline.images import DICOMDIR_REASON, has_image_suffix, is_junk, sniff
from pipeline.io import open_bytes

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
SHOWN = 5  # names in a warning


@dataclass
class Found:
    """One image file: `path` is posix and relative to the root; the rest is what is known of it.

    `facts` holds further manifest columns (patient_id, group, fold, mask_path, box, ...), and
    image_id where the source gives one. `line` is the line of the table it comes from.
    """

    path: str
    label: str
    split: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    line: int = 0


@dataclass
class Scan:
    """What was found below `root`: images, and what was left out (reason -> count).

    `home` is the folder that these images will become once they are added (an extracted zip);
    None = they stay where they are. `beside` is a folder in the place of `home` until then.
    """

    root: Path
    home: Path | None = None
    beside: Path | None = None
    found: list[Found] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def file(self, name: str) -> Path:
        """Return where a path of the manifest lies now: below the images, or beside them."""
        root = (self.beside or self.root) if name.startswith("../") else self.root
        return root / name

    def relative(self, name: str, known) -> str:
        """Return the name by which `known` knows an image that a table names relative to the
        images' folder or to the folder above it, with slashes or backslashes."""
        if name in known:
            return name
        name = name.replace("\\", "/").removeprefix("./")
        for top in (self.root.resolve().name, (self.home or self.root).name):
            if name not in known and name.startswith(f"{top}/"):
                return name.removeprefix(f"{top}/")
        return name


def scan_folder(source: Path, *, exclude: tuple[Path, ...] = ()) -> Scan:
    """Find the images of a folder.

    A lone wrapping folder (as zips have) is looked through, whatever image strayed into it or
    beside it: such images are named as being in no class folder. When one folder of the top level
    is named for a split, all must be. Links are followed, loops are not.

    Args:
        source: the folder.
        exclude: folders below it that hold other things (masks).

    Raises:
        ManifestError: no such folder, no class folders, no images, or splits and classes mixed.
    """
    if not source.is_dir():
        what = "no such folder" if not source.exists() else "neither a folder, a CSV nor a zip"
        raise ManifestError(what, path=source, remedy="check --from")
    excluded = {folder.resolve() for folder in exclude}
    try:
        root, outside = _unwrap(source, excluded)
    except PermissionError as error:
        _refuse(error)
    scan = Scan(root)
    folders: dict[str, int] = {}
    for file in _walk(root, excluded, scan, folders):
        relative = file.relative_to(root).as_posix()
        reason = why_not(file, relative)
        if reason:
            scan.skipped[reason] += 1
        else:
            scan.found.append(Found(relative, ""))
    if not scan.found:
        raise ManifestError(
            "no images in it" + _counted(scan.skipped),
            path=source,
            remedy="arrange them as class/image or split/class/image",
        )
    _name_classes(scan, folders, outside)
    scan.found.sort(key=lambda found: found.path)
    return scan


def why_not(file: Path, relative: str) -> str:
    """Return why a file is no image ("" = it is, or claims to be one)."""
    try:
        relative.encode("utf-8")
    except UnicodeEncodeError:
        return "file name is not UTF-8 (rename it)"
    if file.name.upper() == "DICOMDIR":  # also on top of a disc, where it is in no class folder
        return DICOMDIR_REASON
    if has_image_suffix(file.name):
        return ""
    suffix = file.suffix.lower()
    if suffix and not suffix[1:].isdigit():
        return f"not an image ({suffix})"
    try:  # DICOM files often have no suffix, or the last number of their UID
        with open_bytes(file) as opened:
            sniff(opened.read(1024))
    except (ImageError, OSError):
        return "not an image (no suffix)"
    except PipelineError as error:
        return error.message
    return ""


def _walk(root: Path, excluded: set[Path], scan: Scan, folders: dict[str, int]) -> Iterator[Path]:
    """Yield the files below `root` in a fixed order; count junk; note the folders seen."""
    seen: set[Path] = set()
    for here, names, files in os.walk(root, followlinks=True, onerror=_refuse):
        place = Path(here)
        real = place.resolve()
        if real in seen:
            names.clear()
            scan.skipped["link to a folder that is read already"] += 1
            continue
        seen.add(real)
        junk = [name for name in names if is_junk(name)]
        if junk:
            scan.skipped["folder left by a system or notebook"] += len(junk)
        names[:] = sorted(
            name for name in names if name not in junk and (place / name).resolve() not in excluded
        )
        if place != root:
            folders[place.relative_to(root).as_posix()] = len(files)
        for name in sorted(files):
            if is_junk(name):
                scan.skipped["file left by a system or notebook"] += 1
            else:
                yield place / name


def _refuse(error: OSError) -> NoReturn:
    raise ManifestError(
        f"cannot be listed ({os.strerror(error.errno or 0)})",
        path=error.filename,
        remedy="give yourself the right to read it, or move it away",
    )


def _unwrap(source: Path, excluded: set[Path]) -> tuple[Path, list[str]]:
    """Look through lone wrapping folders; return the folder in the innermost one, and the images
    beside them, relative to `source`, which are in no class folder."""
    root, loose = source, []
    while True:
        folders, images = _entries(root, excluded)
        inner = _wrapped(folders, images, excluded)
        if inner is None:
            return root, [image.relative_to(source).as_posix() for image in loose]
        loose += images
        root = inner


def _entries(folder: Path, excluded: set[Path]) -> tuple[list[Path], list[Path]]:
    """Return the folders and the images of a folder, without junk, in a fixed order."""
    entries = sorted(e for e in folder.iterdir() if not is_junk(e.name))
    folders = [e for e in entries if e.is_dir() and e.resolve() not in excluded]
    return folders, [e for e in entries if e.is_file() and not why_not(e, e.name)]


def _wrapped(folders: list[Path], images: list[Path], excluded: set[Path]) -> Path | None:
    """Return the one folder of several that holds the whole set, None where there is none.

    It holds split folders; or it is alone, and holds folders only or several classes. A stray
    image beside those makes it no class.
    """
    if any(folder.name.lower() in SPLIT_FOLDERS for folder in folders):
        return None
    full = [folder for folder in folders if _holds_images(folder, excluded)]
    if len(full) != 1:
        return None
    inner, strays = _entries(full[0], excluded)
    classes = [folder for folder in inner if _holds_images(folder, excluded)]
    if any(folder.name.lower() in SPLIT_FOLDERS for folder in classes):
        return full[0]
    if len(folders) > 1 or not inner:
        return None
    clean = not images and not strays
    several = len(classes) > 1 or _wrapped(inner, strays, excluded) is not None
    return full[0] if clean or several else None


def _holds_images(folder: Path, excluded: set[Path]) -> bool:
    """True when an image lies anywhere below a folder."""
    return any(not why_not(file, file.name) for file in _walk(folder, excluded, Scan(folder), {}))


def _name_classes(scan: Scan, folders: dict[str, int], outside: list[str]) -> None:
    """Fill label and split from the folder names; name the images in no class folder, those
    `outside` of the root too."""
    tops = sorted({found.path.split("/")[0] for found in scan.found if "/" in found.path})
    splits = [name for name in tops if name.lower() in SPLIT_FOLDERS]
    others = [name for name in tops if name not in splits]
    if splits and others:
        raise ManifestError(
            f"{', '.join(map(repr, others))} beside the split folders {', '.join(splits)}",
            path=scan.root,
            remedy="put the classes inside the splits, and masks elsewhere (--masks)",
        )
    depth = 1 if splits else 0
    loose = [found for found in scan.found if found.path.count("/") <= depth]
    if len(loose) == len(scan.found):
        raise ManifestError(
            "the images are in no class folder",
            path=scan.root,
            remedy="arrange them as class/image or split/class/image, or pass a CSV with labels",
        )
    stray = outside + [found.path for found in loose]
    if stray:
        scan.skipped["image in no class folder"] += len(stray)
        shown = ", ".join(map(printable, stray[:SHOWN])) + (", ..." if len(stray) > SHOWN else "")
        scan.warnings.append(
            f"{len(stray)} images lie in no class folder and are left out: {shown}"
        )
    scan.found = [found for found in scan.found if found.path.count("/") > depth]
    for found in scan.found:
        parts = found.path.split("/")
        found.split = SPLIT_FOLDERS[parts[0].lower()] if splits else ""
        found.label = parts[depth]
    full = {"/".join(found.path.split("/")[: depth + 1]) for found in scan.found}
    for name in sorted(folders):
        if name.count("/") == depth and name not in full:
            scan.warnings.append(f"folder {name!r} holds no images, so it is no class")


def _counted(skipped: Counter[str]) -> str:
    return "".join(f"; {count} skipped: {reason}" for reason, count in skipped.most_common(3))
