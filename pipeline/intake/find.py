"""What lies in a folder or zip, and what its folders mean: `[split/]class/[patient/]image`.

Rules on folder names and shapes are here, each once: `SPLIT_NAMES`, the wrapping folder
(`_wrapped_folder`), the levels of splits, classes and patients (`guess_layout`). Which files are
ground truth: `truth.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import NoReturn

import pandas as pd

from pipeline.errors import ImageError, ManifestError, PipelineError, printable
from pipeline.images import (
    DICOMDIR_REASON,
    SkippedFile,
    conversion,
    has_image_suffix,
    is_junk,
    probe,
    sniff,
)
from pipeline.intake.truth import IMAGE_WORDS, WORDS, Truth, find_truth, words
from pipeline.io import open_bytes, partial_path, writing
from pipeline.manifest import COLUMNS, UNITED

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
# A split's name may have these words and numbers around it (`seg_train`, `Training Data`,
# `train2017`); with `images` before it, `Tr` and `Ts` are splits too.
_AROUND = "(?:data|dataset|set|seg|images?|imgs?|pictures?|files?|folder|samples?|split|part)*"
_SPLIT = {
    split: re.compile(f"{_AROUND}(?:{'|'.join(names)}){_AROUND}|images?{split[0]}[{split[1:]}]")
    for split, names in SPLIT_NAMES.items()
}
_FOLD = re.compile(r"(?i)(?:cv|k)?[ _-]?fold[ _-]?\d+")
# What a level of folders can be, and its column.
ROLES = {"split": "split", "class": "label", "patient": "patient_id", "fold": "fold"}
MOST = 0.9  # of the images, or names, that a rule on levels asks for
MIN_PATIENTS = 3  # folders in each class, for these to be taken for patients
DICOM_SUFFIXES = ("", ".dcm", ".dicom", ".dic", ".ima")
MAX_RATIO = 200  # of unpacked to packed size; images hardly compress, so that more is a bomb,
MAX_SMALL = 2**26  # unless the whole is small, e.g. black masks
ARRANGE = "arrange them as class/image or split/class/image, or pass a CSV with labels"


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


def shown(names: Iterable[str]) -> str:
    """Return the first names of a list, for a warning."""
    names = list(names)
    return ", ".join(map(printable, names[:5])) + (", ..." if len(names) > 5 else "")


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
        return _conversion(file) or f"not an image ({suffix})"
    try:  # DICOM files often have no suffix, or end in the last number of their UID
        with open_bytes(file) as opened:
            sniff(opened.read(1024))
    except (ImageError, OSError):
        return "not an image (no suffix)"
    except PipelineError as error:
        return error.message
    return ""


def _without_objects(images: list[str], source: Path, skipped: Counter[str]) -> list[str]:
    """Leave out DICOM objects that are no images, of folders named like ground truth (`SEG`): the
    content says what they are, before their names are compared with those of images."""
    kept = []
    for path in images:
        pure = PurePosixPath(path)
        if pure.suffix.lower() in DICOM_SUFFIXES and not WORDS.isdisjoint(words(str(pure.parent))):
            try:
                probe(source / path)
            except SkippedFile as error:
                skipped[error.message] += 1
                continue
            except PipelineError:
                pass  # named when it is read
        kept.append(path)
    return kept


def _conversion(file: Path) -> str:
    """Return how a file that is no image can be used, if it can; its start is read for this."""
    try:
        with open_bytes(file) as opened:
            return conversion(file.suffix.lower(), opened.read(2**16))
    except (PipelineError, OSError):
        return ""


def remedy_for(skipped: Iterable[str]) -> str:
    """Return how the files that were left out can be used, by the reasons; else `ARRANGE`."""
    hows = sorted({why.partition(" - ")[2] for why in skipped} - {""})
    return "; ".join(hows) or ARRANGE


def split_named(name: str, given: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the split that a folder or a table's cell names; "" = none. `given` are further
    names, in lower case, and their splits."""
    low = name.strip().lower()
    letters = re.sub("[^a-z]", "", low)
    found = (split for split, pattern in _SPLIT.items() if pattern.fullmatch(letters))
    return given.get(low) or next(found, "")


def read_folder(
    source: Path,
    exclude: Path | None = None,
    *,
    masks: str = "find",
    mask_name: str = "",
    layout: str = "",
    split_names: Mapping[str, str] = MappingProxyType({}),
) -> Findings:
    """Find the images of a folder, their classes, splits, patients and masks.

    Images outside of class folders are left out and named in a warning. Downloads often wrap the
    whole set in one or more folders: `Findings.root` is the innermost.

    Args:
        source: the folder.
        exclude: a folder in it that is not looked into.
        masks: "find" pairs masks with images; "elsewhere" only takes them out of the images;
            "none": every file is an image.
        mask_name: a glob of the paths of masks: they are masks, and of several kinds the ones used.
        layout: what each level of folders below `Findings.root` is, e.g. `split/class/patient/*`:
            one of `ROLES`, the name or glob of folders to look into, or `*`. Default:
            `guess_layout`.
        split_names: further names of split folders, in lower case -> split.

    Raises:
        ManifestError: a folder cannot be listed, no images, no class folders, or two readings of
            the names are possible.
    """
    images, folders, skipped = look_through(source, exclude)
    images = _without_objects(images, source, skipped)
    if not images:
        common = ((why.partition(" - ")[0], n) for why, n in skipped.most_common(3))
        counts = "".join(f"; {n} skipped: {why}" for why, n in common)
        what = f"no images in it{counts}"
        raise ManifestError(what, path=source, remedy=remedy_for(skipped))
    files, root, stray, truth = len(images), source, [], Truth()
    while inner := _wrapped_folder(images, folders):
        stray += [path for path in images if "/" not in path]
        images, folders = _below(images, inner), _below(folders, inner)
        root = root / inner
    if masks != "none":
        told = masks == "elsewhere"
        truth = find_truth(images, root.joinpath, chosen=mask_name, told=told)
    places = {
        path: path.split("/")[:-1]
        for path in sorted({*images}.difference(truth.owners, truth.spare))
    }
    if layout:
        levels = layout.strip("/").removesuffix("/*").split("/")
    else:
        places = _without_sides(places, truth.sides)
        levels = guess_layout([*places.values()], root, split_names)
    rows, lacking, splits = _by_levels(places, levels, split_names, root)
    if not rows:
        seen = ", ".join(f"{name!r} ({n} files)" for name, n in truth.folders.items())
        what = (
            f"no image fits the layout {layout!r}"
            if layout
            else "the images are in no class folder"
        )
        raise ManifestError(
            what + (seen and f"; ground truth is in {seen}"),
            path=root,
            remedy=f"{remedy_for(skipped)}{seen and ' and --masks'}; or say with --layout what the "
            "folders are",
        )
    table = pd.DataFrame(rows, dtype=str)
    patients = {row["path"]: row["patient_id"] for row in rows if row["patient_id"]}
    findings = Findings(root, table.drop(columns="patient_id"), skipped, files=files)
    findings.patients = patients
    counts = [f"{table['label'].nunique()} classes", f"{len({*patients.values()})} patients"]
    findings.notes.append(
        f"folders: {'/'.join(levels)}/* ({', '.join(counts[: 1 + bool(patients)])})"
    )
    if named := [f"{a!r} -> {b}" for a, b in splits.items() if a.lower() != b]:
        findings.notes.append(f"splits: {', '.join(named)}")
    if stray := stray + lacking:
        skipped["image in no class folder"] += len(stray)
        what = f"{len(stray)} images are in no class folder and are left out: {shown(stray)}"
        findings.warnings.append(what)
    for mask, owners in truth.owners.items():
        near = mask.rpartition("/")[0] == owners[0].rpartition("/")[0]
        skipped[f"ground-truth mask {'next to its image' if near else 'in a folder of masks'}"] += 1
    if truth.lone:
        findings.warnings.append(
            f"{len(truth.lone)} images are named like masks, but there is no image of that name in "
            f"the same folder: {shown(truth.lone)}; if they are masks, move them to a folder of "
            "their own (--masks)"
        )
    if truth.spare:
        skipped["file among masks that fits no image"] += len(truth.spare)
    if masks == "find":
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


# -- what a level of folders is -------------------------------------------------------------------


def _without_sides(places: dict[str, list[str]], sides: set[str]) -> dict[str, list[str]]:
    """Leave out, of the folders of each image, those that only tell images from masks, and those
    that only repeat the folder above."""
    inner: dict[str, set[str]] = defaultdict(set)  # folder -> folders of images in it
    for folders in places.values():
        for at, name in enumerate(folders):
            inner["/".join(folders[:at])].add(name)

    def is_level(folders: list[str], at: int) -> bool:
        name, above = folders[at], "/".join(folders[:at])
        only = inner[above] == {name}
        if only and name in folders[:at][-1:]:
            return False
        plain = only and {*words(name)} and IMAGE_WORDS.issuperset(words(name))
        side = "/".join(folders[: at + 1]) in sides
        return bool(split_named(name)) or not (side or plain)

    return {
        path: [name for at, name in enumerate(folders) if is_level(folders, at)]
        for path, folders in places.items()
    }


def guess_layout(places: list[list[str]], root: Path, split_names: Mapping[str, str]) -> list[str]:
    """Return what each level of folders is (of `ROLES`, or "*"), given the folders of each image.

    The levels are splits, if all folders at the top are named for one, or folds; then classes, or
    classes with splits inside; then anything; and patients, which are folders with numbers in
    their names, several in each class, hardly any of the same name.

    Raises ManifestError where the names say two things.
    """

    def refuse(what: str, remedy: str) -> NoReturn:
        raise ManifestError(what, path=root, remedy=remedy)

    tops = sorted({folders[0] for folders in places if folders})
    splits = [name for name in tops if split_named(name, split_names)]
    folds = len(tops) > 1 and all(map(_FOLD.fullmatch, tops))
    if others := [name for name in tops if name not in splits] if splits else []:
        refuse(
            f"{', '.join(map(repr, others))} next to the split folders {', '.join(splits)}",
            "put the classes inside the splits, and masks elsewhere (--masks); or say what they "
            f"are: --split-name '{others[0]}=test'",
        )
    hidden = [{split_named(word) for word in words(name)} - {""} for name in tops]
    if not splits and hidden and all(hidden) and len(set().union(*hidden)) > 1:
        refuse(
            f"the folders {shown(tops)} are named for splits and for something else",
            "arrange them as split/class/image, or pass a CSV with labels and splits; or pass "
            "--layout 'class/*' if each is a class",
        )
    above = ["split"] if splits else ["fold"] if folds else []
    inner = [folders[len(above) :] for folders in places if len(folders) > len(above)]
    deeper = [folders for folders in inner if len(folders) > 1]
    inside = {split_named(folders[1], split_names) for folders in deeper}
    if not above and inside and "" not in inside and len(deeper) >= MOST * len(inner):
        return ["class", "split"]
    depth = max(map(len, deeper), default=0)
    names = [{folders[at] for folders in deeper if len(folders) > at} for at in range(depth)]
    at = next((at for at in range(1, depth) if len(names[at]) > 1), 0)
    pairs = {(folders[0], folders[at]) for folders in deeper if len(folders) > at > 0}
    times = Counter(name for _, name in pairs)
    same = sorted(name for name in times if times[name] > 1)
    if sum(times[name] for name in same) > len(pairs) / 2 and len(deeper) > len(inner) / 2:
        start = "/".join([*above, ""])
        refuse(
            f"the folders {shown(sorted(names[0]))} hold folders of the same names ({shown(same)})",
            f"say which are the classes: --layout '{start}class/*' (the outer ones), "
            f"'{start}class/patient/*', '{start}patient/class/*', '{start}*/class/*', or "
            "'split/class/*' with --split-name 'x=test'",
        )
    classes = {folders[0] for folders in inner}
    for at in range(1, depth):
        found = {tuple(folders[: at + 1]) for folders in deeper if len(folders) > at}
        numbered = sum(any(map(str.isdigit, name)) for name in names[at])
        each = Counter(folders[0] for folders in found)
        if (
            sum(len(folders) > at for folders in deeper) >= MOST * len(inner)
            and min(each[name] for name in classes) >= MIN_PATIENTS
            and len(names[at]) >= MOST * len(found)
            and numbered >= MOST * len(names[at])
        ):
            return [*above, "class", *["*"] * (at - 1), "patient"]
    return [*above, "class"]


def _by_levels(
    places: dict[str, list[str]], levels: list[str], split_names: Mapping[str, str], root: Path
) -> tuple[list[dict[str, str]], list[str], dict[str, str]]:
    """Return a row for each image of a class, the images of none, and folder -> split."""
    if levels.count("class") != 1 or any(levels.count(role) > 1 for role in ROLES):
        what = f"the layout {'/'.join(levels)!r} must have the level 'class' once"
        raise ManifestError(
            what, remedy=f"levels are {', '.join(ROLES)}, * or the name of a folder"
        )
    rows, lacking, splits = [], [], {}
    for path, folders in places.items():
        row = {"path": path, **dict.fromkeys(ROLES.values(), "")}
        fits = True
        for at, level in enumerate(levels):
            part = folders[at] if at < len(folders) else ""
            if level in ROLES:
                row[ROLES[level]] = part
            elif level != "*":  # a file can be named at the end
                part = part or PurePosixPath(path).name * (at == len(folders))
                fits = fits and fnmatchcase(part, level)
        if not fits or not row["label"]:
            lacking.append(path)
            continue
        if name := row["split"]:
            splits[name] = row["split"] = split_named(name, split_names)
        rows.append(row)
    if unknown := sorted(name for name, split in splits.items() if not split):
        what = f"{shown(map(repr, unknown))}: not the name of a split"
        raise ManifestError(what, path=root, remedy=f"say which: --split-name '{unknown[0]}=test'")
    return rows, lacking, splits


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
            for entry in entries:
                _extract_entry(opened, entry, folder / entry.filename)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        raise ManifestError(
            f"is not a zip, or is cut short, damaged or cannot be read ({error})",
            path=archive,
            remedy="download it again, or unpack it yourself and pass the folder",
        ) from None


def _extract_entry(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # zipfile never yields more bytes than the entry's stated size, which is checked before.
    with opened.open(entry) as packed, open(file, "xb") as unpacked:
        shutil.copyfileobj(packed, unpacked)


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
