"""What lies in a folder or zip: image files, and what is left out.

What its folders mean is decided in `folders.py`, which files are ground truth in `truth.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NoReturn

import pandas as pd

from pipeline.errors import ImageError, ManifestError, PipelineError, shown
from pipeline.images import (
    DICOMDIR_REASON,
    SkippedFile,
    conversion,
    has_image_suffix,
    is_junk,
    probe,
    sniff,
)
from pipeline.intake.folders import ARRANGE, NO_NAMES, read_layout, split_named
from pipeline.intake.truth import WORDS, Truth, find_truth, words
from pipeline.io import UNITED, open_bytes, partial_path, writing
from pipeline.manifest import COLUMNS

DICOM_SUFFIXES = ("", ".dcm", ".dicom", ".dic", ".ima")
MAX_RATIO = 200  # of unpacked to packed size; images hardly compress, so that more is a bomb,
MAX_SMALL = 2**26  # unless the whole is small, e.g. black masks


@dataclass
class Findings:
    """The images of a source, and what was left out."""

    root: Path  # the paths of the images are relative to it
    # One row per file, or per frame that a table names: text, "" = not known. The columns are
    # `manifest.COLUMNS` and others of a table; the index is the line of the table.
    images: pd.DataFrame
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> number of files left out
    failed: dict[str, str] = field(default_factory=dict)  # path -> why it cannot be read
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was taken for what, with counts
    listed: set[str] = field(default_factory=set)  # all paths of a table, also those left out
    files: int = 0  # image files that were found, masks too
    patients: dict[str, str] = field(default_factory=dict)  # path -> patient, from folders
    home: Path | None = None  # what `root` becomes when the images of a zip are added

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


def look_through(
    source: Path, exclude: Path | None = None
) -> tuple[list[str], list[str], Counter[str]]:
    """Return the image files and the folders below a folder (but for `exclude`), as POSIX paths
    relative to it; and reason -> number of entries left out. Links are followed; a folder that was
    reached before is not entered again. Raises ManifestError where a folder cannot be listed.
    """
    images, folders, skipped = [], [], Counter()
    excluded, seen = exclude and exclude.resolve(), set()
    for place, names, files in os.walk(source, onerror=_cannot_list, followlinks=True):
        real, below = Path(place).resolve(), Path(place).relative_to(source)
        names.sort()
        reasons = {
            "folder left by a system or notebook": below.name and is_junk(below.name),
            "link to a folder that is read already": real in seen,
            "folder of --masks": real == excluded,
        }
        if reason := next((why for why, true in reasons.items() if true), ""):
            skipped[reason] += 1
            names.clear()
            continue
        seen.add(real)
        folders += [below.as_posix()] if below.name else []
        for name in sorted(files):
            path = (below / name).as_posix()
            if reason := why_skipped(Path(place, name), path):
                skipped[reason] += 1
            else:
                images.append(path)
    return images, folders, skipped


def _cannot_list(error: OSError) -> NoReturn:
    remedy = "give yourself permission to read it, or move it away"
    what = f"cannot be listed ({os.strerror(error.errno or 0)})"
    raise ManifestError(what, path=error.filename, remedy=remedy)


def why_skipped(file: Path, relative: str) -> str:
    """Return why a file is not listed as an image; "" = it is an image by its name or content."""
    if is_junk(file.name):
        return "file left by a system or notebook"
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
        return how_to_convert(file) or f"not an image ({suffix})"
    try:  # DICOM files often have no suffix, or end in the last number of their UID
        with open_bytes(file) as opened:
            sniff(opened.read(1024))
    except (ImageError, OSError):
        return "not an image (no suffix)"
    except PipelineError as error:
        return error.message
    return ""


def _without_objects(images: list[str], source: Path, skipped: Counter[str]) -> list[str]:
    """Leave out DICOM objects that are no images, of those named like ground truth (`SEG/1.dcm`,
    `seg.dcm`): the content says what they are, before names are compared with those of images."""
    kept = []
    for path in images:
        pure = PurePosixPath(path)
        if pure.suffix.lower() in DICOM_SUFFIXES and not WORDS.isdisjoint(words(path)):
            try:
                probe(source / path)
            except SkippedFile as error:
                skipped[error.message] += 1
                continue
            except PipelineError:
                pass  # named when it is read
        kept.append(path)
    return kept


def how_to_convert(file: Path) -> str:
    """Return how a file that is no image can be used, if it can; its start is read for this."""
    try:
        with open_bytes(file) as opened:
            return conversion(file.suffix.lower(), opened.read(2**16))
    except (PipelineError, OSError):
        return ""


def remedy_for(skipped: Iterable[str], other: str = ARRANGE) -> str:
    """Return how the files that were left out can be used, by the reasons; else `other`."""
    hows = sorted({why.partition(" - ")[2] for why in skipped} - {""})
    return "; ".join(hows) or other


def read_folder(
    source: Path,
    *,
    masks: Path | None = None,
    no_masks: bool = False,
    mask_name: str = "",
    layout: str = "",
    split_names: Mapping[str, str] = NO_NAMES,
) -> Findings:
    """Find the images of a folder, their classes, splits, patients and masks.

    Images outside of class folders are left out and named in a warning. Downloads often wrap the
    whole set in one or more folders: `Findings.root` is the innermost.

    Args:
        source: the folder.
        masks: where the masks of the images are (a folder that is not looked into, or a table);
            those in the folder are only taken out of the images then. Default: they are paired.
        no_masks: every file is an image.
        mask_name: a glob of the paths of masks: they are masks, and of several kinds the ones used.
        layout, split_names: what the folders below `Findings.root` are, see `read_layout`.

    Raises:
        ManifestError: a folder cannot be listed, no images, no class folders, or two readings of
            the names are possible.
    """
    images, folders, skipped = look_through(source, masks)
    files = len(images)
    images = _without_objects(images, source, skipped)
    if not images:
        common = ((why.partition(" - ")[0], n) for why, n in skipped.most_common(3))
        counts = "".join(f"; {n} skipped: {why}" for why, n in common)
        what = f"no images in it{counts}"
        remedy = "convert the images to PNG, TIFF, DICOM or NIfTI" if +skipped else ARRANGE
        raise ManifestError(what, path=source, remedy=remedy_for(skipped, remedy))
    root, stray, truth = source, [], Truth()
    while inner := _wrapped_folder(images, folders):
        stray += [path for path in images if "/" not in path]
        images, folders = _below(images, inner), _below(folders, inner)
        root = root / inner
    if not no_masks:
        truth = find_truth(images, root.joinpath, chosen=mask_name, told=masks is not None)
    images = sorted({*images}.difference(truth.owners, truth.spare))
    read = read_layout(images, root, layout, split_names, truth.sides)
    if not read.rows:
        seen = ", ".join(f"{name!r} ({n} files)" for name, n in truth.folders.items())
        unread = sum(n for why, n in skipped.items() if " - " in why)
        boxes = any(why.startswith("annotations") for why in skipped)
        how = remedy_for(skipped) if boxes or unread >= len(images) else ARRANGE
        raise ManifestError(
            f"the images {read.misfit}" + (seen and f"; ground truth is in {seen}"),
            path=root,
            remedy=f"{how}{seen and ' and --masks'}; or say with --layout what the folders are",
        )
    table = pd.DataFrame(read.rows, dtype=str)
    patients = dict(zip(table["path"], table.pop("patient_id"), strict=True))
    findings = Findings(root, table, skipped, files=files, patients=patients, notes=read.notes)
    if stray := stray + read.lacking:
        skipped[f"images that {read.misfit}"] += len(stray)
        what = f"{len(stray)} images {read.misfit} and are left out: {shown(stray)}"
        findings.warnings.append(what)
    skipped.update(truth.reasons())
    findings.warnings += truth.warnings()
    if masks is None:
        use_masks(findings, *truth.pairs(mask_name))
    return findings


def use_masks(findings: Findings, pairs: dict[str, list[str]], unclear: list[str]) -> None:
    """Fill in mask_path, in place, given the files of the mask of each image; and warn of the
    images whose mask is `unclear`."""
    joined = {image: UNITED.join(masks) for image, masks in pairs.items()}
    images = findings.images
    rows = zip(images["path"], images["mask_path"], strict=True)
    images["mask_path"] = [joined.get(path, old) for path, old in rows]
    if unclear:
        findings.warnings.append(
            f"{len(unclear)} images have no mask, since several fit or several images share a "
            f"stem: {shown(unclear)}; merge the masks of an image into one and pass their folder "
            "as --masks"
        )
    if several := sum(len(masks) > 1 for masks in pairs.values()):
        findings.notes.append(f"{several} images have masks of several files, which are united")


def _wrapped_folder(images: list[str], folders: list[str]) -> str:
    """Return the folder at the top that all else merely wraps; "" = none.

    A folder of split folders is wrapped whatever is next to it. Another one must be the only
    folder, and have folders that are its classes: several of them if there are stray images too,
    since a class may hold images and one folder.
    """
    tops, names = _tops(images), [name for name in folders if "/" not in name]
    if any(map(split_named, names)) or len(tops) != 1:
        return ""
    inner, deeper = _below(images, tops[0]), _below(folders, tops[0])
    if any(map(split_named, _tops(inner))):
        return tops[0]
    if len(names) > 1 or not deeper:
        return ""
    strays = any("/" not in path for path in images + inner)
    several = len(_tops(inner)) > 1 or _wrapped_folder(inner, deeper)
    return tops[0] if several or not strays else ""


def _tops(images: list[str]) -> list[str]:
    """Return the folders at the top with an image anywhere below."""
    return sorted({path.partition("/")[0] for path in images if "/" in path})


def _below(paths: list[str], folder: str) -> list[str]:
    return [path.removeprefix(f"{folder}/") for path in paths if path.startswith(f"{folder}/")]


# -- zips: every entry is checked before the first is extracted -----------------------------------


@contextmanager
def extracted(source: Path, target: Path) -> Iterator[Path]:
    """Extract a zip next to `target` and yield that folder, for the caller to move into place, or
    it is removed at the end; what is not a zip is yielded as it is.

    Raises:
        ManifestError: not a zip, cut short, damaged or encrypted; an entry leads out of the
            folder, is a link, or comes twice; a zip bomb; not enough room on the disk.
        DiskError: the folder cannot be written, or the disk is full.
    """
    if source.suffix.lower() != ".zip" or source.is_dir() or not source.exists():
        yield source
        return
    partial = partial_path(target)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _extract(source, partial)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _extract(archive: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as opened, writing(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            entries = _checked_entries(archive, opened, folder.parent)
            folder.mkdir()
            for entry in entries:  # never yields more bytes than the size that was checked
                opened.extract(entry, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        raise ManifestError(
            f"is not a zip, or is cut short, damaged or cannot be read ({error})",
            path=archive,
            remedy="download it again, or unpack it yourself and pass the folder",
        ) from None


def _checked_entries(archive: Path, opened: zipfile.ZipFile, place: Path) -> list[zipfile.ZipInfo]:
    """Check every entry; return those to extract to `place`, without junk."""

    def refuse(what: str, remedy: str = "ask where it comes from; pack it again") -> None:
        raise ManifestError(what, path=archive, remedy=remedy)

    entries, seen = [], set()
    for entry in opened.infolist():
        name, pure = entry.filename, PurePosixPath(entry.filename)
        if pure.is_absolute() or ".." in pure.parts or re.search(r"[\0\\]|^[A-Za-z]:", name):
            refuse(f"entry {name!r} leads out of its folder, or has backslashes for folders")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            refuse(f"entry {name!r} is a link or device", "pack the files themselves")
        if entry.is_dir() or is_junk(name):
            continue
        if pure in seen:
            refuse(f"entry {name!r} comes twice", "pack it again")
        seen.add(pure)
        entries.append(entry)
    if not entries:
        refuse("the zip holds no files", "check the file")
    size = sum(entry.file_size for entry in entries)
    if size > MAX_SMALL and size / max(1, archive.stat().st_size) > MAX_RATIO:
        refuse(f"would unpack to {size:,} bytes in {len(entries):,} files: a zip bomb")
    if size > (free := shutil.disk_usage(place).free):
        refuse(f"needs {size:,} bytes, {free:,} are free", f"make room at {place}")
    return entries
