"""What is known of the images: groups, patients, and masks in another folder or in a table.

Names in tables are searched for as in `user_tables`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.errors import ManifestError, shown
from pipeline.images import has_image_suffix
from pipeline.images.read import unreadable
from pipeline.intake.find import Findings, look_through, use_masks
from pipeline.intake.folders import NO_NAMES, SPLIT_NAMES, split_named
from pipeline.intake.truth import Images, Truth, stem, words
from pipeline.intake.user_tables import (
    find_files,
    known_names,
    manifest_name,
    nearest,
    one_of_each,
    read_table,
    take_units,
)

# The first of these columns becomes `group`. Larger units come first: neighbouring slices of a
# patient are nearly copies.
GROUP_COLUMNS = ("group", "series", "study", "slice")
# Columns of a table of masks by which the best of several is taken: 1 = the lowest, -1 = the
# highest: words of their names.
BEST = {"rank": 1, "score": -1, "iou": -1, "dice": -1, "confidence": -1, "quality": -1}
FEW_KINDS = 16  # different values of a column that says what masks show, at most
# File names that are known to name the patient. Kermany's chest films:
# person1000_bacteria_2931.jpeg and person1000_virus_1681.jpeg are one person;
# NORMAL2-IM-0516-0001-0002.jpeg, IM-0115-0001.jpeg.
KNOWN_NAMES = re.compile(r"(person\d+)_(?:bacteria|virus)_|((?:NORMAL\d*-)?IM-\d+)-\d+")
MIN_SHARE = 0.9  # of the names must match `KNOWN_NAMES` for any to be believed
HINTS = {  # pattern -> what it finds: `anna` in `a/anna/1.png`, `P17` in `P17_L_1.png`, `A1_17`
    "(?i)((?:patient|subject|person|case)[ _-]*[0-9]+)": "parts of paths",
    "([^/]+)/[^/]*$": "folders",
    "([^/]+)/[^/]+/[^/]*$": "folders",
    "([^/0-9]*[0-9]+)[ _-][^/]+$": "beginnings of names",
    "([^/]*[0-9])[ _-][^/ _-]+$": "beginnings of names",
}


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
    columns = [name for name in ("group", "fold", "patient_id") if name in table]
    if key not in table or not columns:
        raise ManifestError(
            f"no column that names images, or none that groups: {', '.join(table.columns)}",
            path=source,
            remedy="name a column path or image_id, and group, series, slice, fold or patient_id",
        )
    # path or id -> positions of its images
    named = images.groupby("image_id").indices | images.groupby("path").indices
    named.pop("", None)
    names = pd.Series(known_names(findings, table[key], named, source), table.index)
    table["at"] = names.map(named)  # a list; NaN = not here
    here = table[table["at"].notna()].explode("at").drop_duplicates(["at", *columns])
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
    for name in columns:
        new = dict(zip(here["at"], here[name], strict=True))
        images[name] = [new.get(at) or old for at, old in enumerate(images[name])]
    counts = {name: here[name].replace("", None).nunique() for name in columns}
    said = ", ".join(f"{n} of column {taken.get(name, name)!r}" for name, n in counts.items())
    findings.notes.append(f"{source.name}: units that stay together: {said}")
    if elsewhere := int(table["at"].isna().sum()):
        findings.warnings.append(f"{elsewhere} rows of {source.name} name images that are not here")


def join_split_lists(
    findings: Findings, places: Iterable[Path], given: Mapping[str, str] = NO_NAMES
) -> None:
    """Set the split, in place, where no image has one: by the text files in `places` that are named
    for splits (`train_val_list.txt`: train; `test.txt`) and name an image in each line. What is
    only in lists to train on, or in those of several splits, stays as it is.

    Raises ManifestError where a line fits several images.
    """
    images, named, said = findings.images, defaultdict(set), []
    lists = {f.resolve() for place in places for f in place.glob("*.txt") if f.is_file()}
    for file in sorted(lists) if not (images["split"] != "").any() else ():
        splits = {split_named(word, given) for word in words(file.stem)} - {""}
        split = "train" if splits == {"train", "val"} else " ".join(splits)
        if split not in SPLIT_NAMES:
            continue
        try:
            text = file.read_text("utf-8", "replace")
        except OSError as error:
            raise unreadable(file, error) from None
        lines = filter(None, map(str.strip, text.splitlines()))
        lines = [next(filter(has_image_suffix, [line, *line.split()]), line) for line in lines]
        found = set(one_of_each(lines, images["path"], file)[0]) - {""}
        said += [f"{len(found)} {split} from {file.name}"] * bool(found)
        for path in found:
            named[path].add(split)
    if not set().union(*named.values()) - {"train"}:
        return
    images["split"] = ["".join(named[p]) if len(named[p]) == 1 else "" for p in images["path"]]
    none = int((images["split"] == "").sum())
    said += [f"{none} in none of these lists, or in two"] * bool(none)
    findings.notes.append(f"splits: {', '.join(said)} (move them away if they are not meant)")


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


def without_lone_patient(frame: pd.DataFrame) -> list[str]:
    """Empty patient_id, in place, if all images of several classes have the same: a word that
    replaces the names ("ANONYMOUS"); return a warning on this or on one who has most images."""
    counts = frame["patient_id"][frame["patient_id"] != ""].value_counts()
    few = len(frame) < 10 or frame["label"].nunique() < 2
    if few or counts.empty or counts.iloc[0] <= len(frame) / 2:
        return []
    what = f"{counts.iloc[0]} of {len(frame)} images have the patient {counts.index[0]!r}"
    if counts.iloc[0] == len(frame):
        frame["patient_id"] = ""
        what += ", which is not taken for a patient"
    return [f"{what}: if this replaces names, pass --patient-regex or --groups"]


def patient_hint(frame: pd.DataFrame, folders: bool) -> list[str]:
    """Return a warning if names, or `folders` too, suggest patients that a manifest does not know:
    a part of the path (`HINTS`) that two images share on average, and at least twice as many of
    these as classes and parts."""
    paths, least = set(frame["path"]), 2 * len(frame.groupby(["label", "split", "fold"]))
    for pattern, kind in HINTS.items():
        matches = filter(None, map(re.compile(pattern).search, paths))
        found = [match[1] for match in matches] if folders or kind != "folders" else []
        most = len(found) / (1 if kind == "parts of paths" else 2)
        if len(found) >= MIN_SHARE * len(paths) and least <= len({*found}) <= most:
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
        pairs, unclear = _from_folder(findings, source).pairs(mask_name)
    else:
        pairs = _from_table(findings, source, max_rank)
    if not pairs:
        raise ManifestError(
            f"no mask fits an image (an image is e.g. {findings.images['path'].iloc[0]!r})",
            path=source,
            remedy="name each mask like its image, in the same folders; or pass a CSV (path, mask)",
        )
    for image, masks in pairs.items():
        pairs[image] = [manifest_name(source / mask, findings) for mask in masks]
    use_masks(findings, pairs, unclear)


def _from_folder(findings: Findings, source: Path) -> Truth:
    """Find the images of the masks in a folder like that of the images, or without its folders."""
    images, truth = Images(findings.images["path"]), Truth()
    own = {findings.file(path).resolve() for path in findings.images["path"]}
    files = [path for path in look_through(source)[0] if has_image_suffix(path)]
    files = [path for path in files if (source / path).resolve() not in own]
    for path in files:
        owners, rest = images.of(stem(path))
        if owners:
            truth.add(path, owners, rest)
    if spare := len(files) - len(truth.owners):
        findings.warnings.append(f"{spare} masks in {source.name} belong to no image")
    return truth


def _from_table(findings: Findings, source: Path, max_rank: int | None) -> dict[str, str]:
    """Return path of an image -> its mask files in a table. Of several rows of an image that of the
    best rank or score is taken, else their masks are united; ManifestError where a column says that
    they are of several kinds."""
    table, _ = read_table(source, "mask_path")
    if not {"path", "image_id"} & set(table):
        read_table(source, "path")  # which is lacking
    warn, name = findings.warnings.append, source.name
    known_as = {word: n for n in table for word in words(n)}
    key = next((word for word in BEST if word in known_as), "")
    best = known_as.get(key)
    order = pd.Series(0.0, table.index)
    if best:
        cells = table[best].replace(r"^\s*$", "0", regex=True)
        order = pd.to_numeric(cells, errors="coerce")
        if order.isna().any():
            line = order.isna().idxmax()
            what = f"line {line}: {best} {table.at[line, best]!r} is not a number"
            raise ManifestError(what, path=source, remedy="correct it")
    if key == "rank" and max_rank is not None:
        if above := int((order > max_rank).sum()):
            warn(f"{above} masks of {name} with a rank above {max_rank} are left out")
        table = table[order <= max_rank]
    table = table.assign(order=order * BEST.get(key, 1))
    images = findings.images
    known = dict(zip(images["image_id"], images["path"], strict=True))
    known |= dict(zip(images["path"], images["path"], strict=True)) | {"": ""}
    names = table["path" if "path" in table else "image_id"]
    table["image"] = [known[name] for name in known_names(findings, names, known, source)]
    if len(lost := names[table["image"] == ""]):
        near = nearest(lost.iloc[0], list(images["path"]))
        warn(f"{len(lost)} of {len(table)} rows of {name} fit no image: {shown(lost)}{near}")
    table = table[(table["image"] != "") & (table["mask_path"].str.strip() != "")]
    files, how, listed = find_files(table["mask_path"], source.parent, source, masks=True)
    findings.notes += [f"{name}: masks found {how}"] if how else []
    pairs = zip(files, table["mask_path"].str.replace("\\", "/"), strict=True)
    found = [(file or source.parent / text).absolute() for file, text in pairs]
    table["mask"] = list(map(str, found))
    if lost := [text for file, text in zip(files, table["mask_path"], strict=True) if file is None]:
        near = nearest(lost[0], listed)
        warn(f"{len(lost)} masks of {name} do not exist: {shown(lost)} (in {source.parent}){near}")
    first = table["order"] == table.groupby("image")["order"].transform("min")
    if better := int((~first).sum()):
        rule = f"the {'lowest' if BEST[key] > 0 else 'highest'} {best}"
        findings.notes.append(f"{name}: {better} masks are left out for one of {rule}")
    table = table[first].drop_duplicates(["image", "mask"])
    used = ("path", "image_id", "mask_path", "image", "mask", "order", best)
    for kind in [n for n in table if n not in used and table[n].nunique() <= FEW_KINDS]:
        mixed = table.groupby("image")[kind].nunique() > 1
        numbers = kind != "label" and table[kind].str.fullmatch(r"[\d.\s-]*").all()
        if mixed.any() and not numbers:
            named = shown(f"{image} {kind}" for image, kind in table[["image", kind]].values)
            what = f"{mixed.sum()} images have masks of several kinds in column {kind!r}: {named}"
            raise ManifestError(what, path=source, remedy="keep the rows of one kind")
    shared = table["mask"].value_counts()
    if len(shared) and shared.iloc[0] > 1:
        what = f"{shared.iloc[0]} images have the same mask, {shared.index[0]}"
        warn(f"{what}, in {name}: check that it is theirs")
    return table.groupby("image")["mask"].agg(list).to_dict()
