"""What the folders of a set mean: `[split/]class/[patient/]image`, or as the user says.

The rules on names of splits are here, each once, and those on the levels of splits, classes and
patients (`guess_layout`). Where the names can be read in two ways the user is asked.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import NoReturn

from pipeline.errors import ManifestError, shown
from pipeline.images import has_image_suffix
from pipeline.intake.truth import IMAGE_WORDS, words

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation", "dev"),
    "test": ("test", "testing"),
}
# A split's name may have these words and numbers around it (`seg_train`, `Training Data`,
# `train2017`); after `images`, `Tr` and `Ts` are splits too.
_AROUND = "(?:data|dataset|set|seg|images?|imgs?|pictures?|files?|folder|samples?|split|part)*"
_PART = re.compile(rf"(?:jpe?g|png|tiff?|bmp|dcm|dicom|nifti)?{_AROUND}")
_NUMBERED = re.compile(
    r"(?:patient|subject|person|case|pat|pt|sub|scan|series|study|exam|slide|volume|video|visit)"
    r"[ _-]*\d",
    re.I,
)
_ID = re.compile(rf"0\d|\d{{3}}|{_NUMBERED.pattern}", re.I)
_HASH = re.compile(r"(?=.*\d)[0-9a-fA-F-]{8,}")
_SPLIT = {
    split: re.compile(f"{_AROUND}(?:{'|'.join(names)}){_AROUND}|images?{split[0]}[{split[1:]}]")
    for split, names in SPLIT_NAMES.items()
}
_FOLD = re.compile(r"(?i)(?:cv|k)?[ _-]?fold[ _-]?\d+")
ARRANGE = "arrange them as class/image or split/class/image, or pass a CSV with labels"
# What a level of folders can be, and its column.
ROLES = {"split": "split", "class": "label", "patient": "patient_id", "fold": "fold"}
MOST = 0.9  # of the images, or names, that a rule on levels asks for
MIN_PATIENTS = 3  # folders in each class, for these to be taken for patients; ids in a set
Folders = list[list[str]]  # the names of the folders of each image, from the top
NO_NAMES: Mapping[str, str] = MappingProxyType({})


@dataclass
class Layout:
    """What `read_layout` found."""

    rows: list[dict[str, str]] = field(default_factory=list)  # path, and the columns of `ROLES`
    lacking: list[str] = field(default_factory=list)  # images that are left out,
    misfit: str = ""  # and why
    notes: list[str] = field(default_factory=list)


def split_named(name: str, given: Mapping[str, str] = NO_NAMES) -> str:
    """Return the split that a folder or a table's cell names; "" = none. `given` are further
    names, in lower case, and their splits."""
    low = name.strip().lower()
    letters = re.sub(r"[\W\d_]", "", low)  # letters of other scripts stay: they are other words
    found = (split for split, pattern in _SPLIT.items() if pattern.fullmatch(letters))
    return given.get(low) or next(found, "")


def split_names(given: Iterable[str]) -> dict[str, str]:
    """Return folder in lower case -> split, of texts like "holdout=test".

    Raises ManifestError for another text.
    """
    names = {}
    for text in given:
        name, _, split = text.partition("=")
        names[name.strip().lower()] = split_named(split)
        if not split_named(split):
            what = f"--split-name {text!r} is not a name and a split"
            raise ManifestError(what, remedy="write e.g. --split-name 'holdout=test'")
    return names


def read_layout(
    images: list[str],
    root: Path,
    layout: str = "",
    given: Mapping[str, str] = NO_NAMES,
    sides: Iterable[str] = (),
) -> Layout:
    """Read the class, split, fold and patient of each image from its folders.

    Args:
        images: POSIX paths below `root`.
        layout: what each level of folders is: one of `ROLES`, `*`, or the name or glob of those to
            look into (the last may be of files). Default: `guess_layout`.
        given: further names of splits, as of `split_names`.
        sides: folders that only tell images from masks.

    Raises:
        ManifestError: names can be read in two ways; or the layout is not one, or names a split
            that is not known.
    """
    places = {path: path.split("/")[:-1] for path in images}
    if layout:
        levels = layout.strip("/").removesuffix("/*").split("/")
    else:
        places = _without_sides(places, {*sides})
        levels = guess_layout([*places.values()], root, given)
    if levels.count("class") != 1 or any(levels.count(role) > 1 for role in ROLES):
        what = f"the layout {layout!r} must have the level 'class', and each other one, once"
        raise ManifestError(what, remedy=f"levels are {', '.join(ROLES)}, * or names of folders")
    found, splits = Layout(), {}
    found.misfit = f"do not fit the layout {layout!r}" if layout else "are in no class folder"
    for path, folders in places.items():
        row, fits = {"path": path, **dict.fromkeys(ROLES.values(), "")}, True
        for at, level in enumerate(levels):
            part = folders[at] if at < len(folders) else ""
            if level in ROLES:
                row[ROLES[level]] = part
            elif level != "*":
                part = part or PurePosixPath(path).name * (at == len(folders))
                fits = fits and fnmatchcase(part, level)
        if not fits or not row["label"]:
            found.lacking.append(path)
            continue
        if name := row["split"]:
            splits[name] = row["split"] = split_named(name, given)
        found.rows.append(row)
    if unknown := sorted(name for name, split in splits.items() if not split):
        what = f"{shown(map(repr, unknown))}: not known as a split"
        raise ManifestError(what, path=root, remedy=f"say which: --split-name '{unknown[0]}=test'")
    named = {"label": "classes", "patient_id": "patients", "fold": "folds"}
    sizes = {what: len({row[name] for row in found.rows} - {""}) for name, what in named.items()}
    listed = ", ".join(f"{count} {what}" for what, count in sizes.items() if count)
    found.notes.append(f"folders: {'/'.join(levels)}/* ({listed})")
    if named := [f"{name!r} -> {split}" for name, split in splits.items() if name.lower() != split]:
        found.notes.append(f"splits: {', '.join(named)}")
    return found


def _without_sides(places: dict[str, list[str]], sides: set[str]) -> dict[str, list[str]]:
    """Leave out, of the folders of each image, those that only tell images from masks, and those
    that only repeat the folder above."""
    inner: dict[str, set[str]] = defaultdict(set)  # folder -> folders of images in it
    for folders in places.values():
        for at, name in enumerate(folders):
            inner["/".join(folders[:at])].add(name)

    def is_level(folders: list[str], at: int) -> bool:
        name, above = folders[at], folders[:at]
        alone, found = inner["/".join(above)] == {name}, {*words(name)}
        if alone and above[-1:] == [name]:
            return False
        side = "/".join(folders[: at + 1]) in sides or (alone and found and found <= IMAGE_WORDS)
        return not side or bool(split_named(name))

    return {
        path: [name for at, name in enumerate(folders) if is_level(folders, at)]
        for path, folders in places.items()
    }


def guess_layout(places: Folders, root: Path, given: Mapping[str, str] = NO_NAMES) -> list[str]:
    """Return what each level of folders is (of `ROLES`, or "*").

    The levels are splits, if all folders at the top are named for one, or folds; then classes,
    perhaps with splits inside; then anything; and patients (`_patient_level`).

    Raises ManifestError where the names can be read in two ways.
    """

    def ask(what: str, remedy: str) -> NoReturn:
        raise ManifestError(what, path=root, remedy=remedy)

    tops = sorted({folders[0] for folders in places if folders})
    splits = [name for name in tops if split_named(name, given)]
    folds = len(tops) > 1 and all(map(_FOLD.fullmatch, tops))
    if others := [name for name in tops if splits and name not in splits]:
        ask(
            f"{', '.join(map(repr, others))} next to the split folders {', '.join(splits)}",
            "put the classes inside the splits, and masks elsewhere (--masks); or say what they "
            f"are: --split-name '{others[0]}=test'; or --layout 'class/*' if all are classes",
        )
    hidden = [{split_named(word) for word in words(name)} - {""} for name in tops]
    if not splits and hidden and all(hidden) and len(set().union(*hidden)) > 1:
        ask(
            f"the folders {shown(tops)} are named for splits and for something else",
            "arrange them as split/class/image, or pass a CSV with labels and splits; or pass "
            "--layout 'class/*' if each is a class",
        )
    above = ["split"] if splits else ["fold"] if folds else []
    inner = [folders[len(above) :] for folders in places if len(folders) > len(above)]
    deeper = [folders for folders in inner if len(folders) > 1]
    depth = max(map(len, inner), default=0)
    if folds and all(split_named(folders[0], given) for folders in inner):
        what = f"the folds {shown(tops)} hold splits of their own"
        ask(what, f"take one of them: --layout '{tops[0]}/split/class/*'")
    if not above and deeper and all(split_named(folders[1], given) for folders in deeper):
        if depth > 2:
            ask(
                f"the folders {shown(tops)} hold splits, and these hold folders",
                "say which are the classes: --layout 'class/split/*' or '*/split/class/*'; or pass "
                "one of them as --from",
            )
        if len(deeper) >= MOST * len(inner):
            return ["class", "split"]
    names = [{folders[at] for folders in deeper if len(folders) > at} for at in range(depth)]
    at = next((at for at in range(1, depth) if len(names[at]) > 1), 0)
    pairs = {(folders[0], folders[at]) for folders in deeper if len(folders) > at > 0}
    times = Counter(name for _, name in pairs)
    same = sorted(name for name in times if times[name] > 1)
    start, labels = "/".join([*above, ""]), sorted({folders[0] for folders in inner})
    if sum(times[name] for name in same) > len(pairs) / 2 and len(deeper) > len(inner) / 2:
        ask(
            f"the folders {shown(sorted(names[0]))} hold folders of the same names ({shown(same)})",
            f"say which are the classes: --layout '{start}class/*' (the outer ones), "
            f"'{start}class/patient/*', '{start}patient/class/*', '{start}*/class/*', or "
            "'split/class/*' with --split-name 'x=test'",
        )
    told = f"say so if they are: --layout '{start}class/*'"
    if labels and (why := _no_classes(labels)):
        ask(f"the folders {shown(labels)} {why}, not for classes", f"{told}; else {ARRANGE}")
    if copies := [name for name in times if name in labels]:
        outer = sorted({above for above, name in pairs if name in copies})
        what = f"{shown(outer)} holds folders named like those next to it ({shown(copies)})"
        ask(f"{what}: a copy of the set, or a class", f"pass {outer[0]!r} as --from, or {told}")
    if patients := _patient_level(inner, depth):
        return [*above, "class", *["*"] * (patients - 1), "patient"]
    if len(pairs) > len({name for name, _ in pairs}) and len(deeper) > len(inner) / 2:
        ask(
            f"the folders {shown(labels)} hold folders ({shown(sorted(times))}): patients, classes "
            "or neither",
            f"say which: --layout '{start}class/patient/*', '{start}*/class/*' or '{start}class/*'",
        )
    return [*above, "class"]


def _no_classes(names: list[str]) -> str:
    """Return what names of folders stand for, if all of them are rather named for patients (or
    other numbered things) or for formats and parts; else ""."""
    letters = [re.sub(r"[\W\d_]", "", name.lower()) for name in names]
    if all(word and (has_image_suffix(f"x.{word}") or _PART.fullmatch(word)) for word in letters):
        return "are named for files"
    series = Counter(re.sub(r"\d+", "0", name) for name in names)
    several = len(series) > 1 and min(series.values()) > 1  # COVID-1, COVID-2, Normal-1, Normal-2
    alike = len(series) <= len(names) / 2 and all("0" in name for name in series)
    alike = alike and (several or all(map(_ID.search, names)))
    enough = len(names) >= MIN_PATIENTS or (len(names) > 1 and all(map(_NUMBERED.match, names)))
    if enough and (alike or all(map(_HASH.fullmatch, names))):
        return "are named for patients or other numbered things"
    return ""


def _patient_level(inner: Folders, depth: int) -> int:
    """Return the first level below the classes whose folders are patients; 0 = none. Nearly all
    images are in one of them, their names have numbers and hardly one is repeated elsewhere, and
    each class has several."""
    for at in range(1, depth):
        found = {tuple(folders[: at + 1]) for folders in inner if len(folders) > at}
        each, names = Counter(place[0] for place in found), {place[at] for place in found}
        numbered = sum(any(map(str.isdigit, name)) for name in names)
        if (
            sum(len(folders) > at for folders in inner) >= MOST * len(inner)
            and min(each[folders[0]] for folders in inner) >= MIN_PATIENTS
            and min(len(names) / len(found), numbered / len(names)) >= MOST
        ):
            return at
    return 0
