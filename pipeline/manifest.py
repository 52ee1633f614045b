"""The manifest: one CSV file per dataset with one row per image; everything else joins it by id.

Every value is text and is kept byte for byte ("007", "NA", "1e5", "True"), except frame, width
and height, which are integers.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.errors import ManifestError
from pipeline.io import atomic_write, read_text_csv

REQUIRED = ("image_id", "path", "frame", "label", "split", "sha256", "width", "height")
OPTIONAL = ("patient_id", "group", "fold", "mask_path", "mask_area", "box", "points", "synthetic")
COLUMNS = (
    "image_id",  # unique; the path, with "#<frame>" for the images of a file with several frames
    "path",  # POSIX path relative to the dataset's folder
    "frame",  # int >= 0: page of a TIFF, frame of a DICOM, slice of a NIfTI
    "label",  # class name
    "split",  # train | val | test | "" (in no official part)
    "patient_id",  # "" = unknown
    "group",  # images that belong together, e.g. one slice series; "" = unknown
    "fold",  # the publisher's fold; "" = unknown
    "sha256",  # of the file's bytes
    "width",  # int, pixels of the upright frame
    "height",  # int, pixels of the upright frame
    "mask_path",  # ground truth, relative to the dataset's folder or absolute; "" = none
    "mask_area",  # pixels of the ground truth; "0" = an empty mask; "" = not counted
    "box",  # prompt "x0,y0,x1,y1" in pixels of the upright frame
    "points",  # prompt "x,y,1;x,y,0" in pixels of the upright frame; 1 = inside, 0 = outside
    "synthetic",  # "1" = phantom, "0" = real image
)
INTEGERS = ("frame", "width", "height")
SPLITS = ("", "train", "val", "test")
MAX_LISTED = 100  # problems of one kind listed in an error; further ones are counted


def read_manifest(
    path: str | Path,
    *,
    data: str | Path | None = None,
    classes: Iterable[str] | None = None,
) -> pd.DataFrame:
    """Read and validate a manifest.

    Args:
        path: the CSV file.
        data: folder in which every image and mask file must exist; None = files are not checked.
        classes: the known labels; None = any label is valid.

    Returns:
        One row per image in the order of the file, index 0, 1, ... The columns are `COLUMNS`,
        then any others of the file; text columns are str, `INTEGERS` are int64.

    Raises:
        ManifestError: the file is missing or not a manifest; or rows are wrong: then the message
            lists every problem with its line and remedy.
    """
    path = Path(path)
    remedy = f"run `pipeline data add {path.stem} --from ...`"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("[!.]*.csv")))
        remedy = f"the datasets are {known or '(none yet)'}; for another one {remedy}"
        raise ManifestError("no such manifest", path=path, remedy=remedy)
    table = read_text_csv(path)
    missing = [name for name in REQUIRED if name not in table.header]
    if missing:
        raise ManifestError(f"no column {', '.join(missing)}", path=path, remedy=remedy)
    frame = pd.DataFrame(table.rows, columns=table.header, dtype=str)
    for name in OPTIONAL:
        if name not in frame:
            frame[name] = "0" if name == "synthetic" else ""
    check_rows(frame, table.lines, path, classes=classes, data=data)
    for name in INTEGERS:
        frame[name] = frame[name].astype("int64")
    return frame[_ordered(frame)]


def write_manifest(
    frame: pd.DataFrame, path: str | Path, *, before_replace: Callable[[], None] = lambda: None
) -> None:
    """Write a manifest atomically: UTF-8, Unix line ends, columns in the order of `COLUMNS`.

    Args:
        frame: the rows.
        path: the CSV file.
        before_replace: called once the new file is on the disk, just before it replaces the old
            one; if it raises, the old manifest is unchanged.

    Raises:
        DiskError: the file cannot be written; the old manifest is unchanged.
    """
    table = frame[_ordered(frame)]
    with atomic_write(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        # Python's csv module quotes a lone carriage return only in some versions.
        plain = csv.writer(file, lineterminator="\n")
        quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        plain.writerow(table.columns)
        for row in table.itertuples(index=False):
            (quoted if any("\r" in str(value) for value in row) else plain).writerow(row)
        file.flush()
        os.fsync(file.fileno())
        before_replace()


def _ordered(frame: pd.DataFrame) -> list[str]:
    """Return the columns of a manifest in the order in which they are written."""
    return [*COLUMNS, *(name for name in frame.columns if name not in COLUMNS)]


def row_file(row, data: str | Path) -> Path:
    """Return the image file of a row (a Series, dict or named tuple) below the folder `data`."""
    return Path(data) / (row["path"] if not hasattr(row, "_fields") else row.path)


def mask_file(row, data: str | Path) -> Path | None:
    """Return the ground-truth file of a row; None when it has none."""
    name = row["mask_path"] if not hasattr(row, "_fields") else row.mask_path
    return Path(data) / name if name else None


def class_names(frame: pd.DataFrame) -> list[str]:
    """Return the distinct labels of a manifest, sorted by code point."""
    return sorted(set(frame["label"]))


# -- validation: every problem is found and reported at once -------------------------------------

Problem = tuple[int, str, str, str]  # line (0 = the whole file), column, what is wrong, remedy


def check_rows(
    frame: pd.DataFrame,
    lines: Sequence[int],
    path: str | Path,
    *,
    classes: Iterable[str] | None = None,
    data: str | Path | None = None,
) -> None:
    """Check the rows of a manifest.

    Args:
        frame: all of `COLUMNS`; index 0, 1, ...
        lines: line number of each row.
        path: the file that the lines are of.
        classes: the known labels; None = any label is valid.
        data: folder in which every image and mask file must exist; None = files are not checked.

    Raises:
        ManifestError: the message lists every problem with its line and remedy; of one kind at
            most `MAX_LISTED`, and the number of further ones.
    """
    frame = frame.astype(str)
    rules = dict(_RULES)
    if classes is not None:
        known = sorted(set(classes))
        rules["label"] = (known.__contains__, "an unknown label", f"known: {', '.join(known)}")
    problems = []
    for column, (valid, what, remedy) in rules.items():
        wrong = {value for value in frame[column].unique() if not valid(value)}
        problems += [
            (lines[at], column, f"{what}: {frame.at[at, column]!r}", remedy)
            for at in frame.index[frame[column].isin(wrong)]
        ]
    problems += _duplicates(frame, lines, ["image_id"], "change one of them")
    problems += _duplicates(frame, lines, ["path", "frame"], "keep one of the rows")
    problems += _patients_in_two_splits(frame, lines)
    problems += _prompts_outside(frame, lines)
    if data is not None:
        problems += _missing_files(frame, lines, Path(data))
    if frame.empty:
        problems.append((0, "rows", "no images", "add some with `pipeline data add`"))
    if not problems:
        return
    counts: Counter[tuple[str, str]] = Counter()
    text = [f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'}"]
    for line, column, what, remedy in sorted(problems):
        counts[column, remedy] += 1
        if counts[column, remedy] <= MAX_LISTED:
            text.append(f"  line {line}, {column}: {what} - {remedy}")
    text += [
        f"  ... and {count - MAX_LISTED} more of this kind ({column}: {remedy})"
        for (column, remedy), count in counts.items()
        if count > MAX_LISTED
    ]
    raise ManifestError("\n".join(text), path=path)


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


_REFRESH = "run `pipeline data refresh`"
_XY = r"\s*(\d+\.?\d*|\.\d+)\s*,\s*(\d+\.?\d*|\.\d+)\s*"
# column: (is the value valid?, what an invalid one is, remedy)
_RULES: dict[str, tuple[Callable[[str], bool], str, str]] = {
    "image_id": (bool, "an empty id", "give it an id"),
    "path": (_is_inside, "not a path below the data folder", "use a relative path without '..'"),
    "frame": (_matches("0|[1-9][0-9]{0,8}"), "not a whole number from 0", "use 0 for one frame"),
    "label": (bool, "an empty label", "fill it in, or remove the row"),
    "split": (SPLITS.__contains__, "not a split", "use train, val, test or leave it empty"),
    "sha256": (_matches("[0-9a-f]{64}"), "not a sha256", _REFRESH),
    "width": (_matches("[1-9][0-9]{0,8}"), "not a width in pixels", _REFRESH),
    "height": (_matches("[1-9][0-9]{0,8}"), "not a height in pixels", _REFRESH),
    "mask_area": (_matches("[0-9]{0,18}"), "not a pixel count", _REFRESH),
    "box": (_matches(f"({_XY},{_XY})?"), "not a box", "write x0,y0,x1,y1 in pixels"),
    "points": (
        _matches(rf"({_XY},\s*[01]\s*(;{_XY},\s*[01]\s*)*)?"),
        "not points",
        "write x,y,1;x,y,0 (1 = inside, 0 = outside)",
    ),
    "synthetic": (("0", "1").__contains__, "neither 0 nor 1", "use 1 for a phantom, else 0"),
}


def _duplicates(
    frame: pd.DataFrame, lines: Sequence[int], columns: list[str], remedy: str
) -> list[Problem]:
    line = pd.Series(list(lines), frame.index)
    first = line.groupby([frame[name] for name in columns]).transform("first")
    problems = []
    for at in frame.index[frame.duplicated(columns)]:
        what = f"{' and '.join(map(repr, frame.loc[at, columns]))} is on line {first[at]} too"
        problems.append((line[at], " and ".join(columns), what, remedy))
    return problems


def _patients_in_two_splits(frame: pd.DataFrame, lines: Sequence[int]) -> list[Problem]:
    known = frame.assign(line=lines)[(frame["patient_id"] != "") & (frame["split"] != "")]
    several = known.groupby("patient_id")["split"].transform("nunique") > 1
    remedy = "move the patient to one split, or add again with `--on-shared-patient drop-train`"
    problems = []
    for patient, rows in known[several].groupby("patient_id"):
        first = rows.groupby("split")["line"].first()
        where = "; ".join(f"{split} (line {line})" for split, line in first.items())
        what = f"patient {patient!r} is in {where}"
        problems.append((int(first.min()), "patient_id", what, remedy))
    return problems


def _prompts_outside(frame: pd.DataFrame, lines: Sequence[int]) -> list[Problem]:
    problems = []
    for column in ("box", "points"):
        for at in frame.index[frame[column] != ""]:
            text, w, h = frame.loc[at, [column, "width", "height"]]
            try:
                width, height = int(w), int(h)
                numbers = [list(map(float, part.split(","))) for part in text.split(";")]
                if column == "box":  # it may end at the image's edge, width
                    inside = all(
                        0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
                        for x0, y0, x1, y1 in numbers
                    )
                else:  # the last pixel of a click is width - 1
                    inside = all(x <= width - 1 and y <= height - 1 for x, y, _ in numbers)
            except ValueError:
                continue  # `_RULES` has reported it
            if not inside:
                what = f"{text} is not inside the image of {w} x {h}"
                remedy = "use pixels of the upright image, the smaller first in a box"
                problems.append((lines[at], column, what, remedy))
    return problems


def _missing_files(frame: pd.DataFrame, lines: Sequence[int], data: Path) -> list[Problem]:
    """Return a problem for each image or mask file that does not exist."""
    problems = []
    for column, otherwise in (
        ("path", "run `pipeline data add` again"),
        ("mask_path", "empty the cell"),
    ):
        for line, name in zip(lines, frame[column], strict=True):
            if name and not (file := data / name).is_file():
                what = "a broken link" if file.is_symlink() else "no such file"
                remedy = f"put it back, or {otherwise}"
                problems.append((line, column, f"{what}: {file}", remedy))
    return problems
