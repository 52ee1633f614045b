"""What is known of the images: tables that users bring, patients, and ground-truth masks.

`SYNONYMS` is the one list of column names that are understood. Masks are next to their image and
named for it (`x.png`, `x_mask.png`), in a folder that mirrors the images', or listed in a table; an
image gets a mask only when exactly one fits.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.errors import ManifestError
from pipeline.images import has_image_suffix
from pipeline.intake.find import (
    Findings,
    look_through,
    shown,
    split_named,
    use_masks,
    why_skipped,
)
from pipeline.intake.truth import Images, Truth, stem
from pipeline.io import read_text_csv
from pipeline.manifest import COLUMNS, UNITED

SYNONYMS = {
    "path": ("image", "file", "filename", "file_name", "filepath", "image_path"),
    "image_id": ("id",),
    "label": ("class", "target", "diagnosis"),
    "patient_id": ("patient",),
    "mask_path": ("mask",),
}
MEASURED = ["sha256", "width", "height", "mask_area"]  # never taken from a table
# The first of these columns becomes `group`. Larger units come first: neighbouring slices of a
# patient are nearly copies.
GROUP_COLUMNS = ("group", "series", "study", "slice")
# File names that are known to name the patient. Kermany's chest films:
# person1000_bacteria_2931.jpeg and person1000_virus_1681.jpeg are one person;
# NORMAL2-IM-0516-0001-0002.jpeg, IM-0115-0001.jpeg.
KNOWN_NAMES = re.compile(r"(person\d+)_(?:bacteria|virus)_|((?:NORMAL\d*-)?IM-\d+)-\d+")
MIN_SHARE = 0.9  # of the names must match `KNOWN_NAMES` for any to be believed
HINTS = {  # pattern -> what it finds: `anna` in `a/anna/1.png`, `P17` in `P17_L_1.png`, `A1_17`
    "([^/]+)/[^/]*$": "folders",
    "([^/0-9]*[0-9]+)[ _-][^/]+$": "beginnings of names",
    "([^/]*[0-9])[ _-][^/ _-]+$": "beginnings of names",
}


def read_table(path: Path, *required: str) -> pd.DataFrame:
    """Read a CSV and give its columns the manifest's names; the index holds the line numbers.

    Raises ManifestError as `read_text_csv`, or where two columns mean the same, a required one is
    missing, or there are no rows.
    """
    csv = read_text_csv(path)
    columns = [_column(name) for name in csv.header]
    if twice := [name for name in columns if columns.count(name) > 1]:
        what = f"two columns are {twice[0]!r} (it has: {', '.join(csv.header)})"
        raise ManifestError(what, path=path, remedy="keep one of them")
    if lacking := [name for name in required if name not in columns]:
        what = f"no column {lacking[0]!r} (it has: {', '.join(columns)})"
        raise ManifestError(what, path=path, remedy=f"name the column {lacking[0]!r} in line 1")
    if not csv.rows:
        raise ManifestError("the table has no rows", path=path, remedy="check the file")
    return pd.DataFrame(csv.rows, csv.lines, columns, dtype=str)


def _column(name: str) -> str:
    name, low = name.strip(), name.strip().lower()
    meant = next((column for column, names in SYNONYMS.items() if low in names), low)
    return meant if meant in COLUMNS else name


def read_image_table(source: Path) -> Findings:
    """Read a CSV that lists images.

    Columns: path (relative to the table's folder) and label; optionally split, frame (blank = all
    frames), image_id and the other columns of a manifest. Unknown columns are kept.

    Raises:
        ManifestError: as `read_table`; no path or label column; paths outside the folder.
    """
    table = read_table(source, "path", "label").drop(columns=MEASURED, errors="ignore")
    found = Findings(source.parent, table)
    images, root = found.images, found.root
    paths = [_relative_path(text, root) for text in images["path"]]
    rows = zip(images.index, images["path"], paths, strict=True)
    if outside := [f"line {line}: {text}" for line, text, path in rows if not path]:
        raise ManifestError(
            f"{len(outside)} paths are outside the table's folder: " + "; ".join(outside[:10]),
            path=source,
            remedy="move the table to a folder above all its images, and use relative paths",
        )
    images["path"] = paths
    images["mask_path"] = [_relative_path(text, root) or text for text in images["mask_path"]]
    images["split"] = [split_named(text) or text for text in images["split"]]
    images["frame"] = images["frame"].str.strip()
    why = [why_skipped(root / path, path) if (root / path).is_file() else "" for path in paths]
    found.skipped = Counter(filter(None, why))
    found.images = images[[not reason for reason in why]].copy()
    if found.images.empty:
        raise ManifestError("the table lists no images", path=source, remedy="check its paths")
    return found


def _relative_path(text: str, root: Path) -> str:
    """Return a POSIX path below `root`, or "" when it is outside. Backslashes separate folders
    unless a file of that very name exists."""
    if "\\" in text and not (root / text).is_file():
        text = text.replace("\\", "/")
    path = PurePosixPath(text)
    outside = path.is_absolute() or ".." in path.parts or not path.parts
    return "" if outside else path.as_posix()


def join_groups(findings: Findings, source: Path) -> None:
    """Fill in patient_id, group and fold, in place, from a CSV that names images by `path` (all
    frames; relative to the images' folder or to the folder above it) or `image_id`.

    Raises ManifestError if it has no usable column, lists an image twice with different values, or
    no image of it is here.
    """
    table, images = read_table(source), findings.images
    key = "path" if "path" in table else "image_id"
    group = next((name for name in GROUP_COLUMNS if name in table), None)
    columns = {"group": group, "fold": "fold", "patient_id": "patient_id"}
    columns = {target: column for target, column in columns.items() if column in table}
    if key not in table or not columns:
        raise ManifestError(
            f"no column that names images, or none that groups: {', '.join(table.columns)}",
            path=source,
            remedy="name a column path or image_id, and group, series, slice, fold or patient_id",
        )
    named: dict[str, list[int]] = {}  # path or id -> positions of its images
    for at, path in enumerate(images["path"]):
        named.setdefault(path, []).append(at)
    named = {name: [at] for at, name in enumerate(images["image_id"]) if name} | named
    names = pd.Series([findings.local_name(name, named) for name in table[key]], table.index)
    table["at"] = names.map(named)  # a list; NaN = not here
    here = table[table["at"].notna()].explode("at").drop_duplicates(["at", *columns.values()])
    if here.empty:
        raise ManifestError(
            f"knows none of the images (its first: {table[key].iloc[0]!r}; "
            f"the images': {images['path'].iloc[0]!r})",
            path=source,
            remedy="write paths relative to the images' folder, or to the folder above it",
        )
    for line, name in here.loc[here["at"].duplicated(), key].items():
        what = f"line {line}: {name!r} for the second time, with other values"
        raise ManifestError(what, path=source, remedy="keep one of the rows")
    for name, column in columns.items():
        new = dict(zip(here["at"], here[column], strict=True))
        images[name] = [new.get(at) or old for at, old in enumerate(images[name])]
    if elsewhere := int(table["at"].isna().sum()):
        findings.warnings.append(f"{elsewhere} rows of {source.name} name images that are not here")


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


def patients_from_names(names: list[str], pattern: str | None = None) -> list[str]:
    """Return the patient of each file (POSIX path); "" = unknown.

    The pattern is searched in the path; if it matches no path, in the names without folders. Its
    first matching group is the patient. Default: `KNOWN_NAMES`, if nearly all names match it.
    Raises ManifestError if the pattern is invalid, has no group, or matches nothing.
    """
    files = [PurePosixPath(name).name for name in names]
    try:
        compiled = re.compile(pattern) if pattern else KNOWN_NAMES
        problem = "" if compiled.groups else "has no group"
    except re.error as error:
        problem = f"is not a regular expression: {error}"
    if not problem:
        for texts in (names, files) if pattern else (files,):
            matches = map(compiled.search if pattern else compiled.match, texts)
            patients = [next(filter(None, m.groups()), "") if m else "" for m in matches]
            known = sum(map(bool, patients))
            if known if pattern else known >= MIN_SHARE * len(files):
                return patients
        if not pattern:
            return [""] * len(files)
        problem = f"matches none of the {len(files)} paths, e.g. {names[:1]}"
    raise ManifestError(
        f"--patient-regex {pattern!r} {problem}",
        remedy="put the part that names the patient in brackets, e.g. --patient-regex '(P[0-9]+)_'",
    )


def patients_from_folders(frame: pd.DataFrame, findings: Findings) -> None:
    """Set patient_id, in place, to the folders that stand for patients, where it is unknown."""
    rows = zip(frame["path"], frame["patient_id"], strict=True)
    frame["patient_id"] = [old or findings.patients.get(path, "") for path, old in rows]
    if found := sorted({*findings.patients.values()} - {""}):
        findings.notes.append(f"patients are folders: {shown(found)}")


def patient_hint(frame: pd.DataFrame, folders: bool) -> list[str]:
    """Return a warning if names, or `folders` too, suggest patients that a manifest does not know:
    a part of the path (`HINTS`) that two images share on average, and at least twice as many of
    these as classes and parts."""
    paths, least = set(frame["path"]), 2 * len(frame.groupby(["label", "split", "fold"]))
    for pattern, kind in HINTS.items():
        matches = filter(None, map(re.compile(pattern).search, paths))
        found = [match[1] for match in matches] if folders or kind != "folders" else []
        if len(found) >= MIN_SHARE * len(paths) and least <= len({*found}) <= len(found) / 2:
            return [
                f"patients are not known, but {len({*found})} {kind} look like theirs "
                f"({shown(sorted({*found}))}): if so, pass --patient-regex '{pattern}', or images "
                "of one patient train and test"
            ]
    return []


def join_masks(
    findings: Findings, source: Path, *, max_rank: int | None = None, mask_name: str = ""
) -> None:
    """Fill in mask_path, in place, from a folder like that of the images (`train/a/x.jpg` ->
    `train/a/x.png`, `x_mask.png`, or `x.png` if only one image has this name), or a CSV with
    columns path, mask and optionally rank: rows above `max_rank` are left out.

    Raises ManifestError if the source is missing or fits no image, or if an image has masks of
    several kinds (`mask_name` chooses).
    """
    unclear: list[str] = []
    if source.is_dir():
        (pairs, unclear), folder = _from_folder(findings, source).pairs(mask_name), source
    else:
        found, folder = _from_table(findings, source, max_rank), source.parent
        pairs = {image: mask.split(UNITED) for image, mask in found.items()}
    if not pairs:
        raise ManifestError(
            f"no mask fits an image (an image is e.g. {findings.images['path'].iloc[0]!r})",
            path=source,
            remedy="name each mask like its image, in the same folders; or pass a CSV (path, mask)",
        )
    use_masks(
        findings,
        {
            image: [_manifest_name(folder / mask, findings) for mask in masks]
            for image, masks in pairs.items()
        },
        unclear,
    )


def _from_folder(findings: Findings, source: Path) -> Truth:
    """Find the images of the masks in a folder like that of the images, or without its folders."""
    images, truth = Images(findings.images["path"]), Truth()
    files = [path for path in look_through(source)[0] if has_image_suffix(path)]
    for path in files:
        owners, rest = images.of(stem(path))
        if owners:
            truth.add(path, owners, rest)
    if spare := len(files) - len(truth.owners):
        findings.warnings.append(f"{spare} masks in {source.name} belong to no image")
    return truth


def _from_table(findings: Findings, source: Path, max_rank: int | None) -> dict[str, str]:
    table = read_table(source, "path", "mask_path")
    if "rank" in table and max_rank is not None:
        rank = pd.to_numeric(table["rank"].replace(r"^\s*$", "0", regex=True), errors="coerce")
        if rank.isna().any():
            line = rank.isna().idxmax()
            what = f"line {line}: rank {table.at[line, 'rank']!r} is not a number"
            raise ManifestError(what, path=source, remedy="correct it")
        if above := int((rank > max_rank).sum()):
            what = f"{above} masks of {source.name} with a rank above {max_rank} are left out"
            findings.warnings.append(what)
        table = table[rank <= max_rank]
    known = set(findings.images["path"])
    names = [findings.local_name(path, known) for path in table["path"]]
    pairs = zip(names, table["mask_path"].str.replace("\\", "/"), strict=True)
    return {name: mask for name, mask in pairs if name in known and mask}


def _manifest_name(file: Path, findings: Findings) -> str:
    """Return a path relative to the images' folder if the file is below that or below the folder
    above it (so that both can be moved together), else an absolute one."""
    file, root = file.absolute(), findings.root.resolve()
    if file.is_relative_to(root):
        return file.relative_to(root).as_posix()
    if file.resolve().is_relative_to(findings.above):
        return "../" + file.resolve().relative_to(findings.above).as_posix()
    return file.as_posix()
