"""Tables that users bring: which column means what, which file a name means, one row an image.

`SYNONYMS`, `PATIENT`, `GROUP` and `BOXES` are the names of columns that are understood, whatever
their case, blanks and underscores. What is taken from other names than the manifest's own is said
in a note; where two readings are possible the table is refused, and `TableRules` states which one
is meant.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import ManifestError, printable, shown
from pipeline.images import has_image_suffix
from pipeline.intake.find import Findings, look_through, remedy_for, why_skipped
from pipeline.intake.folders import MOST, NO_NAMES, split_named
from pipeline.intake.truth import CLASS_WORDS, WORDS, stem, words
from pipeline.io import UNITED, read_text_csv
from pipeline.manifest import COLUMNS

# column: names that mean it; and names that do if there is none of the first kind.
SYNONYMS = {
    "path": (
        "path image file filename filepath imagepath",
        "imagefile imagefilename imagefilepath imagename imageindex img imgfile imgname imgpath"
        " fname relativepath fullpath dicompath dicomfile",
    ),
    "image_id": ("imageid id", "imgid"),
    "label": (
        "label class target diagnosis",
        "labels classname classlabel labelname category dx findinglabels findinglabel pathology"
        " disease",
    ),
    "patient_id": ("patientid patient", ""),
    "fold": ("fold", "kfold cvfold foldid foldno foldnumber"),
    "mask_path": ("maskpath mask", ""),
}
MASKS = "maskfile maskname maskfilename maskfilepath segmentation segmentationpath groundtruth"
NO_IMAGE = WORDS - CLASS_WORDS
PATIENT = r"(patient|subject|participant|person|individual|case|donor|animal)"
GROUP = r"(group|series|study|exam|accession|slide|specimen|lesion|nodule|volume|video|sequence)"
ID = r"(id|uid|instanceuid|no|nr|nbr|num|number|name|code|key|index)?"
NUMBERED = re.compile(r"id.*|.*(id|no|nr|nbr|num|number|code|key|mrn)")  # columns of numbers
SPLIT = re.compile(r"split|partition|subset|set|usage|(is)?(train|training|val|valid|test)")
NO_UNITS = {"age", "sex", "gender", "year", "date", "time"}  # of columns that patients share
MIN_UNITS = 5  # fewer values are rather kinds (case: benign) than patients
MOST_RUNS = 1.1  # runs of equal cells for each value, of a column whose rows stand together
FEW_SPLITS = 16  # different values of a column of splits, at most
MEASURED = ["sha256", "width", "height", "mask_area"]  # never taken from a table
BOXES = {
    "corners": (
        "xmin ymin xmax ymax",
        "x1 y1 x2 y2",
        "x0 y0 x1 y1",
        "left top right bottom",
        "xstart ystart xend yend",
        "startx starty endx endy",
    ),
    "xywh": ("x y w h", "x y width height", "xmin ymin width height", "left top width height"),
    "centre": ("xcenter ycenter width height", "xcentre ycentre width height", "cx cy w h"),
}
BOXY = re.compile(  # names of columns that may be of boxes
    "(.*(bbox|rect|polygon|shapeattr|coord).*)|"
    "(start|end|min|max|top|bottom|left|right|center|centre)*([xy]|row|col)(start|end|min|max|[0-9])*"
)
RELATIVE = "%"  # ends a box in shares of the image's sides, until its size is known
# Columns of 0 and 1 that are classes only if the user says so.
NO_CLASSES = {"male", "female", "m", "f", "left", "right", "train", "val", "valid", "test"}
LABEL_MARKS = "|;,/+&"  # between the labels of a cell
_NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")
_BOX = re.compile(r"-?[\d.e-]+(,-?[\d.e-]+){3}%?")
_LIST = re.compile(r"^\s*\[(.*)\]\s*$")
YES, NO, UNCERTAIN = ("1", "1.0", "true"), ("0", "0.0", "false", ""), ("-1", "-1.0")


@dataclass(frozen=True)
class TableRules:
    """How tables of images are read where names do not decide; None and () = as the names say.

    Args:
        path_column, patient_column: the columns of the image files and of the patients.
        label_column: the column of the class; or several columns of 0 and 1, one for each class.
        label_sep: what separates the labels of a cell.
        label_rule: of several labels of an image take the "first"; or leave out images with several
            ("single"); or take each combination as a class of its own ("whole").
        box_format: a box is x0,y0,x1,y1 ("corners"), x,y,width,height ("xywh"), the centre and
            width,height ("centre"), or is not taken ("none").
        box_rule: of several boxes of an image take the one around all ("union") or the "largest".
        images: the folder of the images; default: that of the table.
        split_names: further names of splits, as of `split_names`.

    Raises:
        ManifestError: a value is not one of those above.
    """

    path_column: str | None = None
    label_column: Sequence[str] = ()
    patient_column: str | None = None
    label_sep: str | None = None
    label_rule: str | None = None
    box_format: str | None = None
    box_rule: str | None = None
    images: Path | None = None
    split_names: Mapping[str, str] = field(default_factory=lambda: NO_NAMES)

    def __post_init__(self) -> None:
        allowed = {
            "label_rule": ("first", "single", "whole"),
            "box_format": (*BOXES, "none"),
            "box_rule": ("union", "largest"),
        }
        for name, values in allowed.items():
            if (value := getattr(self, name)) not in (None, *values):
                what = f"--{name.replace('_', '-')} {value!r} is not known"
                raise ManifestError(what, remedy=f"use one of {', '.join(values)}")


def read_image_tables(sources: Sequence[Path], rules: TableRules = TableRules()) -> Findings:
    """Read CSVs that list images.

    Columns: path (relative to the table's folder) and label; optionally split, frame (blank = all
    frames), image_id and the other columns of a manifest. Unknown columns are kept. The root is the
    folder of the tables or, if an image is not below it, the folder above all images.

    Raises:
        ManifestError: as `read_table`; no path or label; a name fits no file or several; several
            labels or boxes of an image without a rule for them.
    """
    found = Findings(Path(), pd.DataFrame())
    tables = [_read_one(source, rules, found, several=len(sources) > 1) for source in sources]
    images = pd.concat(tables).fillna("")
    folders = [os.path.abspath(rules.images or source.parent) for source in sources]
    found.root = sources[0].parent if len(sources) == 1 else Path(os.path.commonpath(folders))
    found.root = rules.images or found.root
    if not images["file"].str.startswith(os.path.join(os.path.abspath(found.root), "")).all():
        found.root = Path(os.path.commonpath(images["file"].map(os.path.dirname).tolist()))
        if found.root.parent == found.root:
            remedy = "add them as several datasets, or link them into one folder"
            raise ManifestError("the images have no folder in common", remedy=remedy)
        found.notes.append(f"the images' folder is {found.root}")
    images["path"] = [Path(os.path.relpath(f, found.root)).as_posix() for f in images["file"]]
    found.listed = set(images["path"])
    cells = zip(images.get("mask_path", ""), images["folder"], strict=False)
    masks = [_mask_cell(text, Path(folder), found) for text, folder in cells]
    images = Findings(found.root, images.assign(mask_path=masks or "")).images
    images["frame"] = images["frame"].str.strip()
    images = _one_row_each(images.drop(columns=["file", "folder"]), rules, sources[0], found)
    why = [why_skipped(found.root / path, path) for path in images["path"]]
    found.skipped.update(filter(None, why))
    found.images = images[[not reason for reason in why]]
    if found.images.empty:
        reasons = "".join(f"; {n}: {why.partition(' - ')[0]}" for why, n in found.skipped.items())
        remedy = remedy_for(found.skipped, "check its paths and labels")
        raise ManifestError(f"lists no images{reasons}", path=sources[0], remedy=remedy)
    if not (found.images["split"] != "").any():
        folders = [path.split("/")[:-1] for path in found.images["path"]]
        named = [next(filter(None, map(split_named, names)), "") for names in folders]
        if all(named) and len(set(named)) > 1:
            parts = shown(sorted(set(named)))
            what = f"no split is set, but all images are in folders named {parts}"
            found.warnings.append(f"{what}: add a column split if these are the parts")
    return found


def _read_one(source: Path, rules: TableRules, found: Findings, *, several: bool) -> pd.DataFrame:
    """Return a table with the columns labels (a list) instead of label, file (one that exists) and
    folder; what is missing or remarkable joins `found`."""
    folder = rules.images or source.parent
    table, taken = read_table(source, rules=rules)
    has = ", ".join(taken.get(name, name) for name in table)
    if "path" not in table:
        _take_path(table, taken, folder, source)
    found.warnings += take_units(table, taken) + _take_masks(table, taken)
    for name in {"patient_id", "group"} & {*table}:  # `12.0` is what pandas makes of 12 and a gap
        cells = table[name].str.strip()
        whole = cells.str.fullmatch(r"(\d+\.0)?").all()
        table[name] = cells.str.removesuffix(".0") if whole else cells
    split = _take_split(table, taken, source, rules, several=several)
    boxes = _take_boxes(table, rules, found)
    _take_labels(table, taken, source, rules, has)
    table = table.drop(columns=MEASURED, errors="ignore")
    names = table["path"]
    files, how, listed = find_files(names, folder, source)
    lost = [line for line, file in zip(table.index, files, strict=True) if file is None]
    _refuse_lost(names, lost, folder, source, listed)
    for at, line in enumerate(lost):
        near = nearest(names[line], listed) if at < 5 else ""
        found.failed[names[line]] = f"line {line} of {source.name}: no such file{near}"
    said = [f"{column} from {name!r}" for column, name in taken.items()]
    units = {n: len(set(table[n]) - {""}) for n in ("group", "fold") if n in table}
    said += [f"{count} {name}s" for name, count in units.items() if count]
    if said := list(filter(None, [*said, split, boxes, how and f"images found {how}"])):
        found.notes.append(f"{source.name}: {'; '.join(said)}")
    table["file"] = [file and os.path.abspath(file) for file in files]
    table["folder"] = str(folder)
    table.index = [f"{at} of {source.name}" for at in table.index] if several else table.index
    return table[table["file"].notna()]


# -- which column means what ----------------------------------------------------------------------


def plain(name: str) -> str:
    """Return a column's name in small letters without blanks, underscores and brackets."""
    return re.sub(r"[\W_]+", "", name.casefold())


def read_table(
    path: Path, *required: str, rules: TableRules = TableRules()
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read a CSV; return it with the manifest's names of columns, indexed by line number, and
    which of these are named otherwise in the file: column -> name.

    Raises ManifestError as `read_text_csv`, or where two columns mean the same, a required one is
    missing, or there are no rows.
    """
    csv = read_text_csv(path)
    has = f"(it has: {', '.join(csv.header)})"
    label = rules.label_column[0] if len(rules.label_column) == 1 else None
    options = {"label": label, "patient_id": rules.patient_column}
    meant = {name: column for column, name in options.items() if name}  # name in the file -> column
    if lacking := [n for n in (*meant, rules.path_column) if n and n not in csv.header]:
        what, remedy = f"no column {lacking[0]!r} {has}", "state one of these"
        raise ManifestError(what, path=path, remedy=remedy)
    for column in [*SYNONYMS, *(name for name in COLUMNS if name not in SYNONYMS)]:
        kinds = SYNONYMS.get(column, (plain(column), ""))
        if column == "mask_path" and column in required:
            kinds = kinds[0], MASKS
        if column in meant.values() or (column == "path" and rules.path_column):
            continue
        for names in kinds:
            hits = [n for n in csv.header if n not in meant and plain(n) in names.split()]
            if len(hits) > 1:
                what = f"two columns are {column!r}: {' and '.join(hits)} {has}"
                option = f", or pass --{column.split('_')[0]}-column"
                option = option if column in ("path", *options) else ""
                raise ManifestError(what, path=path, remedy=f"keep one of them{option}")
            meant |= dict.fromkeys(hits, column)
            if hits:
                break
    for name in (set(csv.header) & set(meant.values())) - set(meant):
        meant[name] = f"{name} (not used)"  # since an option names another column
    if lacking := [name for name in required if name not in meant.values()]:
        what = f"no column {lacking[0]!r} {has}"
        raise ManifestError(what, path=path, remedy=f"name the column {lacking[0]!r} in line 1")
    if any(map(has_image_suffix, " ".join(csv.header).split())):
        what = "line 1 names a file"
        remedy = "write the names of the columns above it, with commas between, as in all lines"
        raise ManifestError(f"{what} {has}", path=path, remedy=remedy)
    if not csv.rows:
        raise ManifestError("the table has no rows", path=path, remedy="check the file")
    columns = [meant.get(name, name.strip()) for name in csv.header]
    table = pd.DataFrame(csv.rows, csv.lines, columns, dtype=str)
    for at in range(len(columns)):  # blanks around all cells of a column are no part of them
        cells = [(cell, cell.strip()) for cell in table.iloc[:, at]]
        if all(cell != bare or not cell for cell, bare in cells):
            table.isetitem(at, [bare for _, bare in cells])
    known = {column: names[0].split() for column, names in SYNONYMS.items()}
    taken = {c: n for n, c in meant.items() if n.lower() not in (c, *known.get(c, ()))}
    taken = {c: n for c, n in taken.items() if c not in MEASURED}
    if rules.path_column:  # which may name the patient as well
        at = csv.header.index(rules.path_column)
        table["path"], taken["path"] = table.iloc[:, at], rules.path_column
    ids = next((n for n, c in meant.items() if c == "image_id"), "")
    if {"path", "image_id"} <= {*table} and plain(ids) != "imageid":
        several = (table.groupby("image_id")["path"].nunique() > 1).any()  # `ID` of two eyes
        table = table.rename(columns={"image_id": ids} if several else {})
    return table, taken


def _take_path(table: pd.DataFrame, taken: dict[str, str], folder: Path, source: Path) -> None:
    """Take image_id for the path, in place, or else the only column whose values all name files."""
    files, fits = look_through(folder)[0] if folder.is_dir() else [], {}
    for name in [n for n in table if not table[n].str.contains("://", regex=False).any()]:
        found = fitting([slashes(text, folder) for text in table[name].unique()], files)[0]
        fits[name] = any(found) if name == "image_id" else all(found)
    named = [name for name, fit in fits.items() if fit]
    if len(named) != 1 and "image_id" not in table:
        what = f"no column 'path' (it has: {', '.join(table)})"
        what += f"; files are named by {' and '.join(named)}" if named else ""
        remedy = "state the column of image files with --path-column, their folder with --images"
        raise ManifestError(what, path=source, remedy=remedy)
    taken["path"] = named[0] if len(named) == 1 else "image_id"
    table["path"] = table[taken["path"]]


def _take_masks(table: pd.DataFrame, taken: dict[str, str]) -> list[str]:
    """Take the column that is named like masks and holds names of images for mask_path, in place;
    return a warning if there are several."""
    named = [n for n in table if WORDS & {*words(n)} or plain(n) in MASKS.split()]
    cells = {n: set(table[n]) - {""} for n in named if n not in COLUMNS}
    hits = [n for n in cells if cells[n] and all(map(has_image_suffix, cells[n]))]
    if "mask_path" in table or not hits:
        return []
    if len(hits) > 1:
        what = f"columns {shown(map(repr, hits))} are named like masks, but are not used"
        return [f"{what}: rename the one that is ground truth to mask_path"]
    table["mask_path"], taken["mask_path"] = table[hits[0]], hits[0]
    return []


def _take_split(
    table: pd.DataFrame, taken: dict[str, str], source: Path, rules: TableRules, *, several: bool
) -> str:
    """Set the column split, in place: of the column of that name, else of one all of whose values
    name splits, else of the names of the file or, of several, of its folder; and return a note. A
    single table called train has no split, since all images may be in it.

    Raises ManifestError where only some values of a column name splits.
    """
    others = [n for n in table if n not in COLUMNS and 1 < table[n].nunique() <= FEW_SPLITS]
    others.sort(key=lambda name: not SPLIT.fullmatch(plain(name)))
    says = {n: {t: split_named(t, rules.split_names) for t in set(table[n])} for n in others}
    named = next((n for n in others if all(says[n].values())), "")
    if "split" in table or named:
        cells = table["split"] if "split" in table else table[named]
        taken |= {"split": named} if "split" not in table else {}
        table["split"] = [split_named(text, rules.split_names) or text for text in cells]
        return ""
    for name, splits in says.items():
        unknown = sorted(text for text, split in splits.items() if not split)
        if len({*splits.values()} - {""}) > 1:
            what = f"column {name!r} names splits, but {shown(map(repr, unknown))} is none"
            remedy = f"say which: --split-name '{unknown[0]}=test'; or rename the column"
            raise ManifestError(what, path=source, remedy=remedy)
    told = {split_named(word) for word in re.findall("[a-z]+", source.stem.lower())} - {""}
    told |= {split_named(source.parent.name)} - {""} if not told else set()
    split = split_named(source.stem) or (told.pop() if several and len(told) == 1 else "")
    table["split"] = "" if split == "train" and not several else split
    if split == "train" and not several:
        return "no split is set: images without one train as soon as others say test"
    like = [n for n in others if SPLIT.fullmatch(plain(n)) or any(says[n].values())]
    if like := [n for n in like if table[n].nunique() <= 4]:
        values = sorted(set(table[like[0]]))
        said = f"column {like[0]!r} looks like splits, but is not used ({shown(values)}): if it "
        return f"{said}says them, pass --split-name '{values[0]}=test' and so on"
    return split and f"split {split}, as the file's name says (a column split says otherwise)"


def take_units(table: pd.DataFrame, taken: dict[str, str], least: int = MIN_UNITS) -> list[str]:
    """Take columns that are named like patients or groups for `patient_id` and `group`, in place;
    return warnings on those that are not used: of fewer values than `least`, with several patients
    in one of them, or further ones."""
    warnings = []
    for column, pattern in (("patient_id", PATIENT), ("group", GROUP)):
        for name in [n for n in table if n not in COLUMNS]:
            if not re.fullmatch(pattern + ID, plain(name)):
                continue
            patients = table.get("patient_id", table[name])[table[name].str.strip() != ""]
            named = patients.groupby(table[name])
            if column in table:
                why = f"{taken.get(column, column)!r} is"
            elif len(named) < least:
                why = f"it has {len(named)} values"
            elif (named.nunique() > 1).any():
                why = "one value has several patients"
            else:
                table[column], taken[column] = table[name], name
                continue
            kind = "patients" if column == "patient_id" else "groups"
            warnings.append(
                f"column {name!r} is named like {kind}, but is not used ({why}): to keep images of "
                f"one value in one part of a split pass --patient-column {name!r}"
            )
    if warnings or {"patient_id", "group"} & {*table}:
        return warnings
    codes = table.apply(lambda column: pd.factorize(column)[0])
    for name in table:
        cells = table[name].str.strip()
        cells = cells[cells != ""]
        numbered = NUMBERED.fullmatch(plain(name))
        few = 2 if numbered else least
        many, rows = cells.nunique(), codes.loc[cells.index]
        if name in COLUMNS or NO_UNITS & {*words(name)} or not few <= many <= len(cells) / 2:
            continue
        # What the label decides, or an image has several of, is no patient.
        if "label" in rows and _pairs(rows, "label", name) == rows["label"].nunique():
            continue
        if "path" in rows and _pairs(rows, "path", name) > rows["path"].nunique():
            continue
        mixed = all(re.search("[A-Za-z]", one) and re.search("[0-9]", one) for one in set(cells))
        ids = mixed or numbered or _are_units(rows, name)
        if ids and not any(map(has_image_suffix, set(cells))):
            what = f"column {name!r} ({many} values such as {cells.iloc[0]!r}) may name"
            warnings.append(f"{what} patients: if so, pass --patient-column {name!r}")
    return warnings


def _are_units(codes: pd.DataFrame, name: str) -> bool:
    """Return whether the rows of one value of a column stand together in the table, or nearly all
    agree in another column, as those of a patient do whatever the column is called. Columns are
    given by the numbers of their values."""
    if (codes[name] != codes[name].shift()).sum() <= MOST_RUNS * codes[name].nunique():
        return True
    again = codes[codes[name].duplicated(keep=False)]
    units = again[name].nunique()
    return units >= MIN_UNITS and any(
        again[other].max() + 1 < units  # more values than units have is cheap to know
        and _pairs(again, name, other) <= (2 - MOST) * units
        and again[other].nunique() > 1
        for other in codes.columns.drop(name)
    )


def _pairs(codes: pd.DataFrame, one: str, other: str) -> int:
    """Return how many different pairs of values two columns have."""
    second = codes[other].to_numpy()
    return len(pd.unique(codes[one].to_numpy() * (second.max(initial=0) + 1) + second))


def _take_labels(
    table: pd.DataFrame, taken: dict[str, str], source: Path, rules: TableRules, has: str
) -> None:
    """Set the column labels, in place: the labels of each row, of one column or of columns of 0 and
    1: those that `rules` name, or all of them if every row has a single 1.

    Raises ManifestError where there is no label, or a row has several or none without a rule.
    """
    names = list(rules.label_column)
    if "label" in table and len(names) < 2:
        cells = table.pop("label")
        mark = rules.label_sep or _label_mark(cells, rules.label_rule)
        parts = cells.map(lambda cell: _parts(cell, mark) if mark else [cell])
        table["labels"] = parts.map(lambda labels: [label for label in labels if label.strip()])
        return
    cells = table.apply(lambda column: column.str.strip().str.lower())
    binary = cells.isin([*YES, *NO, *UNCERTAIN]).all()
    names = names or [
        n for n in table if binary[n] and n not in COLUMNS and plain(n) not in NO_CLASSES
    ]
    if lost := [n for n in names if not binary.get(n, False)]:
        what = f"column {lost[0]!r} is not one of 0 and 1 (it has: {has})"
        raise ManifestError(what, path=source, remedy="check --label-column")
    yes, unsure = cells[names].isin(YES), cells[names].isin(UNCERTAIN).any(axis=1)
    count = yes.sum(axis=1)
    if len(names) < 2 or yes.any().sum() < 2 - bool(rules.label_column):
        remedy = "name the column 'label' in line 1, or pass --label-column"
        raise ManifestError(f"no column 'label' (it has: {has})", path=source, remedy=remedy)
    if not rules.label_rule and (unsure.any() or (count != 1).any()):
        raise ManifestError(
            f"no column 'label'. The columns of 0 and 1 ({', '.join(names)}) may be classes, but "
            f"{(count > 1).sum()} rows have several 1, {(count == 0).sum()} have none and "
            f"{unsure.sum()} are uncertain (-1)",
            path=source,
            remedy="pass --label-column for each column that is a class, and --label-rule single, "
            "first or whole for rows with several; rows with none or -1 are then left out",
        )
    rows = yes.to_numpy() & ~unsure.to_numpy()[:, None]
    table["labels"] = [
        [name for name, is_one in zip(names, row, strict=True) if is_one] for row in rows
    ]
    for name in names:
        del table[name]
    taken["label"] = f"the columns {', '.join(names)}"


def _parts(cell: str, mark: str) -> list[str]:
    """Return the labels of a cell, which may be a list of Python: "['a', 'b']"."""
    inner = _LIST.sub(r"\1", cell)
    return [part.strip().strip("'\"") for part in inner.split(mark)]


def _label_mark(cells: pd.Series, rule: str | None) -> str:
    """Return what separates several labels in cells; "" = nothing does. `|` and `;` are in no name
    of a class, and the cells may be lists of Python; another mark is one if it separates only
    labels that other cells have alone."""
    values = set(cells.str.strip()) - {""}
    if values and all(map(_LIST.fullmatch, values)):
        return ","
    for mark in LABEL_MARKS if rule != "whole" else "":
        several = {value for value in values if mark in value}
        alone = {part for value in values - several for part in _parts(value, mark)}
        if several and (mark in "|;" or all(alone.issuperset(_parts(v, mark)) for v in several)):
            return mark
    return ""


# -- boxes ----------------------------------------------------------------------------------------


def _take_boxes(table: pd.DataFrame, rules: TableRules, found: Findings) -> str:
    """Set the column box to "x0,y0,x1,y1", in place, from a column of boxes or four of numbers,
    and return how they were read; boxes in 0..1 end with `RELATIVE`. A cell that is not a box
    stays, for `check_rows` to name."""
    short = {re.sub("^(bbox|box)(?=.)", "", plain(name)): name for name in table}
    kinds = [(form, names.split()) for form, several in BOXES.items() for names in several]
    form, names = next(((f, n) for f, n in kinds if set(n) <= set(short)), (None, []))
    alone = next((n for n in table if plain(n) in ("box", "bbox", "boundingbox")), None)
    own = [alone] if alone else [short[name] for name in names]
    if rules.box_format == "none" or not own:
        like = [n for n in table if n not in COLUMNS and BOXY.fullmatch(plain(n))]
        if rules.box_format != "none" and (len(like) > 1 or (like and len(plain(like[0])) > 2)):
            what = f"columns {shown(map(repr, like))} may be boxes, but are not used"
            found.warnings.append(f"{what}: name them x_min, y_min, x_max and y_max if they are")
        table["box"] = ""
        return ""
    cells = table[own].agg(",".join, axis=1)
    texts = cells.map(_NUMBER.findall)
    texts = texts[texts.map(len) == 4]
    boxes = np.array(texts.tolist(), float).reshape(-1, 4)
    relative = bool(len(boxes) and boxes.min() >= 0 and boxes.max() <= 1)
    ordered = (boxes[:, 2:] > boxes[:, :2]).all()
    form = rules.box_format or (form if not alone else "corners" if alone == "box" else "xywh")
    if alone and not rules.box_format and (relative or (alone != "box" and ordered)):
        what = f"boxes such as {cells[texts.index[0]]!r} may be corners, or x,y,width,height"
        how = "--box-format corners, xywh, or centre (none: leave boxes out)"
        if alone == "box":
            raise ManifestError(f"{what}, or centre and width,height", remedy=f"pass {how}")
        found.warnings.append(f"column {alone!r} is not used: its {what}: pass {how}")
        return ""
    if form != "corners":
        low = boxes[:, :2] - (boxes[:, 2:] / 2 if form == "centre" else 0)
        boxes = np.hstack([low, low + boxes[:, 2:]])
    if relative or form != "corners":
        texts[:] = [[f"{v:.10g}" for v in box] for box in boxes]
    blank = cells.str.fullmatch(r"(nan|none|[\s,\[\]])*", case=False)
    if not alone:  # rows without a finding may have 0,0,0,0
        blank |= cells.index.isin(texts.index)
        texts = texts[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
    table["box"] = cells.mask(blank, "")
    table.loc[texts.index, "box"] = texts.str.join(",") + RELATIVE * relative
    names = {"corners": "x0,y0,x1,y1", "xywh": "x,y,width,height", "centre": "centre,width,height"}
    unit = "shares of the sides" if relative else "pixels"
    said = f"{len(texts)} boxes are {names[form]} in {unit} (--box-format says otherwise)"
    return said if len(texts) else ""


def pixel_box(text: str, width: int, height: int) -> str:
    """Return a box in pixels of an image, of one that may be in shares of its sides; what is
    outside by less than a pixel is cut."""
    if not text.endswith(RELATIVE):
        return text
    ends = np.array([width, height] * 2)
    box = np.array(text.removesuffix(RELATIVE).split(","), float) * ends
    cut = np.clip(box, 0, ends)
    box = np.where(abs(cut - box) < 1, cut, box)
    return ",".join(f"{v:.10g}" for v in box.round(2))


def _one_box(texts: list[str], rule: str | None) -> str:
    """Return the box around all boxes, or the largest."""
    boxes = np.array([text.removesuffix(RELATIVE).split(",") for text in texts], float)
    if rule == "largest":
        return texts[int(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).argmax())]
    around = [*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)]
    return ",".join(f"{v:.10g}" for v in around) + RELATIVE * texts[0].endswith(RELATIVE)


# -- one row an image -----------------------------------------------------------------------------


def _one_row_each(
    images: pd.DataFrame, rules: TableRules, source: Path, found: Findings
) -> pd.DataFrame:
    """Join the rows of an image that differ in label, box, mask or unknown columns, and set its
    label by the rule; what is left out joins `found`. Wholly equal rows and those that differ in
    anything else stay, for `check_rows` to name.

    Raises ManifestError where an image has several labels or boxes without a rule.
    """
    images = images.reset_index(names="line")
    images = images.assign(**{n: images.get(n, "") for n in ("box", "mask_path")})
    decided = [n for n in ("split", "patient_id", "group", "fold", "synthetic") if n in images]
    texts = images.drop(columns="line").assign(labels=images["labels"].map(tuple))
    again = images.duplicated(["path", "frame"], keep=False) & ~texts.duplicated(keep=False)
    joined, several = [], []  # positions of rows; rows of images with several boxes
    for _, same in images[again].groupby(["path", "frame"], sort=False):
        if len(same) == 1 or len(set(same[decided].itertuples(index=False))) > 1:
            continue
        labels = list(dict.fromkeys(label for row in same["labels"] for label in row))
        fits = [rules.label_rule != "first" or row[:1] == labels[:1] for row in same["labels"]]
        boxes = [box for box in same["box"][fits].unique() if _BOX.fullmatch(box)]
        if rules.label_rule == "single" and len(labels) > 1:  # the image is left out
            boxes = boxes[:1]
        several += [same] if len(boxes) > 1 and not rules.box_rule else []
        masks = UNITED.join(dict.fromkeys(filter(None, same["mask_path"])))
        box = _one_box(boxes, rules.box_rule) if boxes else ""
        for name, value in (("labels", labels), ("box", box), ("mask_path", masks)):
            images.at[same.index[0], name] = value
        joined += list(same.index[1:])
    images = images.drop(index=joined)
    many, none = images["labels"].map(len) > 1, images["labels"].map(len) == 0
    problems, remedies = [], ["keep one row for each image"] * bool(joined)
    if many.any() and not rules.label_rule:
        row = images[many].iloc[0]
        example = f"{row['path']} (line {row['line']}): {' and '.join(map(repr, row['labels']))}"
        problems.append(f"{many.sum()} of {len(images)} images have several labels, e.g. {example}")
        remedies.append(
            "pass --label-rule first (the first label), single (leave these images out) or whole "
            "(each combination is a class of its own)"
        )
    if several:
        row, lines = several[0].iloc[0], ", ".join(map(str, several[0]["line"]))
        problems.append(f"{len(several)} have several boxes, e.g. {row['path']} (lines {lines})")
        remedies.append("pass --box-rule union (the box around them) or largest")
    if problems:
        noted = f" [{found.notes[0]}]" if found.notes else ""
        raise ManifestError("; ".join(problems) + noted, path=source, remedy=", or ".join(remedies))
    most = None if rules.label_rule == "whole" else 1
    images["label"] = [UNITED.join(row[:most]) for row in images["labels"]]
    left = many & (rules.label_rule == "single")
    if rules.label_rule:
        left |= none
        found.skipped["image without a label"] += int(none.sum())
    found.skipped["image of several labels"] += int((many & left).sum())
    if joined:
        found.notes.append(f"{len(joined)} further rows of an image are joined with its first")
    if count := int((many & ~left).sum()):
        how = "the first is taken" if most else "each combination is a class"
        found.notes.append(f"{count} images have several labels: {how}")
    found.skipped -= Counter()  # without the zeros
    return images[~left].drop(columns="labels").set_index("line")


# -- which file a name means ----------------------------------------------------------------------


def slashes(text: str, folder: Path) -> str:
    """Return a path with slashes: backslashes separate folders unless a file of that very name
    exists. Raises ManifestError for a web address."""
    if re.match(r"[a-zA-Z][\w+.-]+://", text):
        what = f"{text} is a web address"
        raise ManifestError(what, remedy="download the files, and name these in the table")
    return text.replace("\\", "/") if "\\" in text and not (folder / text).is_file() else text


def fitting(names: Sequence[str], files: Iterable[str]) -> tuple[list[list[str]], str]:
    """Return the files that each name of a table may mean, and the folders left out of the names.

    A name fits a file that ends in it, by whole folders, in any case, and also without the file's
    image suffix. Of the leading folders that all names share as many are left out as finds most
    names; when that is less than half of them, none is found.
    """
    index: dict[str, list[str]] = defaultdict(list)
    for file in files:
        for full in {file, stem(file)}:
            parts = full.casefold().split("/")
            for at in range(len(parts)):
                index["/".join(parts[at:])].append(file)
    split = [[part for part in name.split("/") if part not in ("", ".", "..")] for name in names]
    columns = zip(*(parts[:-1] for parts in split), strict=False)
    shared = [same[0] for same in takewhile(lambda same: len(set(same)) == 1, columns)]
    best, most, left_out = [[] for _ in names], (len(names) - 1) / 2, ""
    for leave in range(len(shared) + 1):
        ends = ["/".join(parts[leave:]) for parts in split]
        found = [index.get(end.casefold(), []) for end in ends]
        if sum(map(bool, found)) > most:
            pairs = zip(found, ends, strict=True)
            best = [[f for f in fits if f.endswith(end)] or fits for fits, end in pairs]
            most, left_out = sum(map(bool, found)), "/".join(shared[:leave])
    return best, left_out


def one_of_each(names: Sequence[str], files: Iterable[str], source: Path) -> tuple[list[str], str]:
    """Return the file that each name of a table means ("" = none) and how they are found, as
    `fitting`. Raises ManifestError where a name fits several files."""
    found, left_out = fitting(names, files)
    several = [(name, fits) for name, fits in zip(names, found, strict=True) if len(fits) > 1]
    if several:
        name, fits = several[0]
        raise ManifestError(
            f"{len(several)} names fit several files, e.g. {name!r} fits {shown(fits)}",
            path=source,
            remedy="write their folders into the table, or pass the images' folder as --images",
        )
    how = f"without the folders {left_out!r} of their names" if left_out else "by their names"
    return ["".join(fits) for fits in found], how


def nearest(name: str, files: Collection[str]) -> str:
    """Return words on the existing file whose path is most similar to a name; "" if none is."""
    near = difflib.get_close_matches(name.replace("\\", "/"), files, 1)
    return f"; the nearest file is {printable(near[0])}" if near else ""


def find_files(
    names: Iterable[str], folder: Path, source: Path, masks: bool = False
) -> tuple[list[Path | None], str, list[str]]:
    """Return the file that each name of a table means (None: there is none), how they are found
    ("" = as written), and the files below the folder if they were listed.

    Names are relative to `folder` (perhaps with its own name in front) or absolute. When none of
    them is a file so, files below the folder are taken as `one_of_each` says: outside of folders
    named like ground truth, or (of `masks`) in these, if all are found there.

    Raises ManifestError where most names of images fit only files in such folders.
    """
    names, top = [slashes(name, folder) for name in names], f"{folder.resolve().name}/"
    found: list[Path | None] = []
    for name in names:
        tried = (Path(os.path.normpath(folder / n)) for n in (name, name.removeprefix(top)))
        found.append(next((file for file in tried if name and file.is_file()), None))
    if all(found) or not folder.is_dir():
        return found, "", []
    files = look_through(folder)[0]
    if any(found):
        return found, "", files
    truth = {file for file in files if not NO_IMAGE.isdisjoint(words(os.path.dirname(file)))}
    likely = [file for file in files if (file in truth) == masks]
    meant, how = one_of_each(names, likely, source)
    if not all(meant):
        meant, how = one_of_each(names, files, source)
    truth &= {*meant}
    if likely and not masks and len(truth) > len(names) / 2:
        what = f"{len(truth)} names fit only files in folders named like ground truth"
        remedy = "write the names of the images as they are, or pass their folder as --images"
        raise ManifestError(f"{what}, e.g. {shown(sorted(truth))}", path=source, remedy=remedy)
    return [folder / name if name else None for name in meant], how, files


def _refuse_lost(
    names: pd.Series, lost: list[int], folder: Path, source: Path, files: Collection[str]
) -> None:
    """Raise ManifestError where all files are lost, or all of those outside of the folder."""
    outside = names.str.contains(r"^[a-zA-Z]:|^[/\\]|(?:^|[/\\])\.\.(?:[/\\]|$)|^$")
    away = outside & names.index.isin(lost)
    if not away.any() or not away.equals(outside):
        away = names.index.isin(lost)
        if not away.all():
            return
    first = "; ".join(f"line {line}: {printable(name)}" for line, name in names[away][:10].items())
    where = "" if not outside[away].all() else "outside the table's folder "
    raise ManifestError(
        f"{away.sum()} of {len(names)} paths lead to no file {where}(looked below {folder}): "
        f"{first}{nearest(names[away].iloc[0], files)}",
        path=source,
        remedy="correct them, state their column with --path-column, or the folder that they are "
        "relative to with --images",
    )


def known_names(
    findings: Findings, names: Sequence[str], known: Collection[str], source: Path
) -> list[str]:
    """Return the path (or id) in `known` that each name of a table means, "" = none.

    Names are relative to the images' folder or to the folder above it, with slashes or backslashes;
    when that finds none at all, they are taken as `one_of_each` says.
    """
    tops, found = (findings.root.resolve().name, (findings.home or findings.root).name), []
    for name in names:
        text = name.replace("\\", "/").removeprefix("./")
        tried = (name, text, *(text.removeprefix(f"{top}/") for top in tops))
        found.append(next((one for one in tried if one in known), None))
    if any(one is not None for one in found):
        return [one or "" for one in found]
    return one_of_each([slashes(name, findings.root) for name in names], known, source)[0]


def manifest_name(file: Path, findings: Findings) -> str:
    """Return a path relative to the images' folder if the file is below that or below the folder
    above it (so that both can be moved together), else an absolute one."""
    file, root = file.absolute(), findings.root.resolve()
    if file.is_relative_to(root):
        return file.relative_to(root).as_posix()
    if file.resolve().is_relative_to(findings.above):
        return "../" + file.resolve().relative_to(findings.above).as_posix()
    return file.as_posix()


def _mask_cell(text: str, folder: Path, found: Findings) -> str:
    """Return the cell mask_path of a manifest for that of a table in `folder`."""
    names = []
    for part in [text] if (folder / text).is_file() else text.split(UNITED):
        file = Path(os.path.normpath(folder / slashes(part, folder)))
        names.append(manifest_name(file, found) if part and file.is_file() else part)
    return UNITED.join(names)
