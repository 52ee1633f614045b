"""What is known of the images: tables that users bring, patients, and ground-truth masks.

`SYNONYMS` is the one list of column names that are understood. Masks are next to their image and
named for it (`x.png`, `x_mask.png`), in a folder that mirrors the images', or listed in a table; an
image gets a mask only when exactly one fits.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.errors import ManifestError
from pipeline.images import has_image_suffix
from pipeline.intake.find import Findings, look_through, shown, split_named, why_skipped
from pipeline.io import read_text_csv
from pipeline.manifest import COLUMNS

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
MASK_NAME = re.compile(r"(?P<image>.+?)[_-](?:mask|seg|segmentation)(?:[_-]?\d+)?", re.IGNORECASE)


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
    """Return the patient of each file name; "" = unknown.

    The pattern is tried on the name without folders; its first matching group is the patient.
    Default: `KNOWN_NAMES`, if nearly all names match it. Raises ManifestError if the pattern is
    invalid, has no group, or matches no name.
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


def stem(path: str) -> str:
    """Return a relative path without its image suffix (other dots stay)."""
    pure = PurePosixPath(path)
    if not has_image_suffix(pure.name):
        return path
    name = pure.name[:-7] if pure.name.lower().endswith(".nii.gz") else pure.stem
    return (pure.parent / name).as_posix()


def masked_stem(path: str) -> str:
    """Return the stem of the image that a mask is named for (`a/x_mask_1.png` -> `a/x`), or ""."""
    pure = PurePosixPath(stem(path))
    named = MASK_NAME.fullmatch(pure.name)
    return (pure.parent / named["image"]).as_posix() if named else ""


def separate_sibling_masks(findings: Findings, *, pair: bool) -> None:
    """Take masks that are next to their image (whose name theirs extends) out of the images, in
    place. With `pair` they become the mask_path of that image."""
    paths = findings.images["path"]
    stems, owners = set(paths.map(stem)), paths.map(masked_stem)
    is_mask = owners.isin(stems)
    findings.images = findings.images[~is_mask].copy()
    if is_mask.any():
        findings.skipped["ground-truth mask next to its image"] += int(is_mask.sum())
    lone = paths[(owners != "") & ~is_mask]
    if len(lone):
        findings.warnings.append(
            f"{len(lone)} images are named like masks, but there is no image of that name in the "
            f"same folder: {shown(lone)}; if they are masks, move them to a folder of their own "
            "(--masks)"
        )
    if pair:
        masks = paths[is_mask].groupby(owners[is_mask]).agg(list).to_dict()
        _set_masks(findings, _pair(findings, masks))


def join_masks(findings: Findings, source: Path, *, max_rank: int | None = None) -> None:
    """Fill in mask_path, in place, from a folder that mirrors the images' (`train/a/x.jpg` ->
    `train/a/x.png`, or `x_mask.png`, `x_seg.png`), or a CSV with columns path, mask and optionally
    rank: rows above `max_rank` are left out. Raises ManifestError if the source is missing or fits
    no image.
    """
    if source.is_dir():
        pairs, folder = _from_folder(findings, source), source
    else:
        pairs, folder = _from_table(findings, source, max_rank), source.parent
    if not pairs:
        raise ManifestError(
            f"no mask fits an image (an image is e.g. {findings.images['path'].iloc[0]!r})",
            path=source,
            remedy="name each mask like its image, in the same folders; or pass a CSV (path, mask)",
        )
    named = {path: _manifest_name(folder / mask, findings) for path, mask in pairs.items()}
    _set_masks(findings, named)


def _set_masks(findings: Findings, pairs: dict[str, str]) -> None:
    images = findings.images
    rows = zip(images["path"], images["mask_path"], strict=True)
    images["mask_path"] = [pairs.get(path, old) for path, old in rows]


def _pair(findings: Findings, masks: dict[str, list[str]]) -> dict[str, str]:
    """Return path of an image -> mask, of masks by the stem of the image that they fit. When
    several fit, or several images share a stem, only a mask of the very name of the image is taken;
    an image without one is warned of."""
    stems = findings.images["path"].map(stem)
    sharing, pairs, unclear = stems.value_counts(), {}, []
    for path, key in zip(findings.images["path"], stems, strict=True):
        name, near = PurePosixPath(path).name, masks.get(key, [])
        same_name = [mask for mask in near if PurePosixPath(mask).name == name]
        fitting = near if len(near) == sharing[key] == 1 else same_name
        if len(fitting) == 1:
            pairs[path] = fitting[0]
        elif near:
            unclear.append(path)
    if unclear:
        findings.warnings.append(
            f"{len(unclear)} images have no mask, since several fit or several images share a "
            f"stem: {shown(sorted(unclear))}; merge the masks of an image into one and pass their "
            "folder as --masks"
        )
    return pairs


def _from_folder(findings: Findings, source: Path) -> dict[str, str]:
    masks: dict[str, list[str]] = defaultdict(list)
    files = [path for path in look_through(source)[0] if has_image_suffix(path)]
    for path in files:
        for key in {stem(path), masked_stem(path)} - {""}:
            masks[key].append(path)
    used = {mask for path in findings.images["path"] for mask in masks.get(stem(path), [])}
    if spare := len(files) - len(used):
        findings.warnings.append(f"{spare} masks in {source.name} belong to no image")
    return _pair(findings, masks)


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
