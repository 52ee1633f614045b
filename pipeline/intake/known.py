"""What is known of the images: groups, patients, and ground-truth masks.

Masks are next to their image and named for it (`x.png`, `x_mask.png`), in a folder that mirrors the
images', or listed in a table. Names are searched for as in `tables`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.errors import ManifestError
from pipeline.images import has_image_suffix
from pipeline.intake.find import Findings, look_through, shown
from pipeline.intake.tables import (
    find_files,
    known_names,
    manifest_name,
    nearest,
    plain,
    read_table,
    stem,
    take_units,
)
from pipeline.manifest import UNITED

# The first of these columns becomes `group`. Larger units come first: neighbouring slices of a
# patient are nearly copies.
GROUP_COLUMNS = ("group", "series", "study", "slice")
# Columns of a table of masks by which the best of several is taken: 1 = the lowest, -1 = the
# highest; and columns that say what a mask shows.
BEST = {"rank": 1, "score": -1, "iou": -1, "dice": -1, "confidence": -1, "quality": -1}
KINDS = ("label", "class", "classname", "organ", "structure", "tissue", "region", "kind")
# File names that are known to name the patient. Kermany's chest films:
# person1000_bacteria_2931.jpeg and person1000_virus_1681.jpeg are one person;
# NORMAL2-IM-0516-0001-0002.jpeg, IM-0115-0001.jpeg.
KNOWN_NAMES = re.compile(r"(person\d+)_(?:bacteria|virus)_|((?:NORMAL\d*-)?IM-\d+)-\d+")
MIN_SHARE = 0.9  # of the names must match `KNOWN_NAMES` for any to be believed
MASK_NAME = re.compile(r"(?P<image>.+?)[_-](?:mask|seg|segmentation)(?:[_-]?\d+)?", re.IGNORECASE)


def join_groups(findings: Findings, source: Path) -> None:
    """Fill in patient_id, group and fold, in place, from a CSV that names images by `path` (all
    frames; relative to the images' folder or to the folder above it) or `image_id`.

    Raises ManifestError if it has no usable column, lists an image twice with different values, or
    no image of it is here.
    """
    (table, taken), images = read_table(source), findings.images
    key = "path" if "path" in table else "image_id"
    group = next((name for name in GROUP_COLUMNS if name in table), None)
    if group:
        table["group"] = table[group]
    take_units(table, taken, least=1)
    columns = {"group": "group", "fold": "fold", "patient_id": "patient_id"}
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
    names = pd.Series(known_names(findings, table[key], named, source), table.index)
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
        pairs = {path: [mask] for path, mask in _from_folder(findings, source).items()}
    else:
        pairs = _from_table(findings, source, max_rank)
    if not pairs:
        raise ManifestError(
            f"no mask fits an image (an image is e.g. {findings.images['path'].iloc[0]!r})",
            path=source,
            remedy="name each mask like its image, in the same folders; or pass a CSV (path, mask)",
        )
    folder = source if source.is_dir() else source.parent
    named = {
        path: UNITED.join(manifest_name(folder / mask, findings) for mask in masks)
        for path, masks in pairs.items()
    }
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
    """Return path of an image -> its mask files in a table. Of several rows of an image that of the
    best rank or score is taken, else their masks are united; ManifestError where a column says that
    they are of several kinds."""
    table, _ = read_table(source, "mask_path")
    if not {"path", "image_id"} & set(table):
        read_table(source, "path")  # which is lacking
    columns, warn, name = {plain(n): n for n in table}, findings.warnings.append, source.name
    best = next((columns[n] for n in BEST if n in columns), None)
    order = pd.Series(0.0, table.index)
    if best:
        cells = table[best].replace(r"^\s*$", "0", regex=True)
        order = pd.to_numeric(cells, errors="coerce")
        if order.isna().any():
            line = order.isna().idxmax()
            what = f"line {line}: {best} {table.at[line, best]!r} is not a number"
            raise ManifestError(what, path=source, remedy="correct it")
    if plain(best or "") == "rank" and max_rank is not None:
        if above := int((order > max_rank).sum()):
            warn(f"{above} masks of {name} with a rank above {max_rank} are left out")
        table = table[order <= max_rank]
    table = table.assign(order=order * BEST.get(plain(best or ""), 1))
    images = findings.images
    known = dict(zip(images["image_id"], images["path"], strict=True))
    known |= dict(zip(images["path"], images["path"], strict=True)) | {"": ""}
    names = table["path" if "path" in table else "image_id"]
    table["image"] = [known[name] for name in known_names(findings, names, known, source)]
    if len(lost := names[table["image"] == ""]):
        near = nearest(lost.iloc[0], list(images["path"]))
        warn(f"{len(lost)} of {len(table)} rows of {name} fit no image: {shown(lost)}{near}")
    table = table[(table["image"] != "") & (table["mask_path"].str.strip() != "")]
    files, how, listed = find_files(table["mask_path"], source.parent, source)
    findings.notes += [f"{name}: masks found {how}"] if how else []
    pairs = zip(files, table["mask_path"].str.replace("\\", "/"), strict=True)
    table["mask"] = [str(source.parent / text if file is None else file) for file, text in pairs]
    if lost := [text for file, text in zip(files, table["mask_path"], strict=True) if file is None]:
        near = nearest(lost[0], listed)
        warn(f"{len(lost)} masks of {name} do not exist: {shown(lost)} (in {source.parent}){near}")
    first = table["order"] == table.groupby("image")["order"].transform("min")
    if better := int((~first).sum()):
        rule = f"the {'lowest' if BEST[plain(best)] > 0 else 'highest'} {best}"
        findings.notes.append(f"{name}: {better} masks are left out for one of {rule}")
    table = table[first].drop_duplicates(["image", "mask"])
    for kind in [columns[n] for n in KINDS if n in columns and columns[n] in table]:
        mixed = table.groupby("image")[kind].nunique() > 1
        if mixed.any():
            named = shown(f"{image} {kind}" for image, kind in table[["image", kind]].values)
            what = f"{mixed.sum()} images have masks of several kinds in column {kind!r}: {named}"
            raise ManifestError(what, path=source, remedy="keep the rows of one kind")
    several = table["image"].duplicated(keep=False)
    if several.any():
        count = table.loc[several, "image"].nunique()
        findings.notes.append(f"{name}: {count} images have several masks, which are united")
    shared = table["mask"].value_counts()
    if len(shared) and shared.iloc[0] > 1:
        what = f"{shared.iloc[0]} images have the same mask, {shared.index[0]}"
        warn(f"{what}, in {name}: check that it is theirs")
    return table.groupby("image")["mask"].agg(list).to_dict()
