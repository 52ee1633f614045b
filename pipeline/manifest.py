"""The manifest: one CSV file per dataset with one row per image; everything else joins it by id.

Every value is text and is kept byte for byte ("007", "NA", "1e5", "True"), except frame, width
and height, which are integers.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline import remote
from pipeline.errors import ManifestError
from pipeline.io import UNITED, atomic_write, read_text_csv

REQUIRED = ("image_id", "path", "frame", "label", "split", "sha256", "width", "height")
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
    "mask_path",  # ground truth, relative to the dataset's folder or absolute, of several files
    # joined by "|"; "" = none. How it is read: the optional column `mask_rule`, see `MaskFiles`
    "mask_area",  # pixels of the ground truth; "0" = an empty mask; "" = not counted
    "box",  # prompt "x0,y0,x1,y1" in pixels of the upright frame
    "points",  # prompt "x,y,1;x,y,0" in pixels of the upright frame; 1 = inside, 0 = outside
    "synthetic",  # "1" = phantom, "0" = real image
)
INTEGERS = ("frame", "width", "height")
SPLITS = ("", "train", "val", "test")
LABELLED = ("train", "val")  # parts whose labels are used: a copy of them in test is a leak
MAX_LISTED = 100  # problems of one kind that an error lists


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
        One row per image in the order of the file, index 0, 1, ...: `COLUMNS` and any others of
        the file; text columns are str, `INTEGERS` are int64.

    Raises:
        ManifestError: the file is missing or not a manifest; or rows are wrong: then the message
            lists every problem with its line and remedy.
    """
    path = remote.as_path(path)
    remedy = f"run `pipeline data add {path.stem} --from ...`"
    if not remote.exists(path):
        known = ", ".join(sorted(file.stem for file in path.parent.glob("[!.]*.csv")))
        remedy = f"the datasets are {known or '(none yet)'}; for another one {remedy}"
        raise ManifestError("no such manifest", path=path, remedy=remedy)
    table = read_text_csv(path)
    missing = [name for name in REQUIRED if name not in table.header]
    if missing:
        raise ManifestError(f"no column {', '.join(missing)}", path=path, remedy=remedy)
    frame = pd.DataFrame(table.rows, columns=table.header, dtype=str)
    for name in set(COLUMNS) - set(frame):
        frame[name] = "0" if name == "synthetic" else ""
    check_rows(frame, table.lines, path, classes=classes, data=data)
    return frame[_ordered(frame)].astype(dict.fromkeys(INTEGERS, "int64"))


def write_manifest(
    frame: pd.DataFrame, path: str | Path, *, before_replace: Callable[[], None] = lambda: None
) -> None:
    """Write a manifest atomically: UTF-8, Unix line ends, columns in the order of `COLUMNS`.

    `before_replace` is called once the new file is on the disk, just before it replaces the old
    one. If it raises, or with DiskError when nothing can be written, the old one is unchanged.
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
    return [*COLUMNS, *(name for name in frame.columns if name not in COLUMNS)]


def row_file(row, data: str | Path) -> Path:
    """Return the image file of a row (a Series, dict or named tuple) below the folder `data`."""
    return remote.as_path(data) / (row["path"] if not hasattr(row, "_fields") else row.path)


@dataclass(frozen=True)
class MaskFiles:
    """The ground truth of an image: files whose regions are united, and how they are read."""

    files: tuple[Path, ...]
    rule: str = ""  # words of `mask_rule`: `pipeline.images.region.MaskRule`
    image: Path | None = None  # of which it is the ground truth

    def __str__(self) -> str:
        return UNITED.join(map(str, self.files))


def mask_file(row, data: str | Path | Callable[[str], Path]) -> MaskFiles | None:
    """Return the ground truth of a row (a Series, dict or named tuple), below a folder or located
    by a function; None when it has none."""
    cells = row if isinstance(row, Mapping | pd.Series) else row._asdict()
    if not cells["mask_path"]:
        return None
    locate = data if callable(data) else partial(remote.join, remote.as_path(data))
    files = map(locate, cells["mask_path"].split(UNITED))
    return MaskFiles(tuple(files), cells.get("mask_rule", ""), locate(cells["path"]))


def class_names(frame: pd.DataFrame) -> list[str]:
    """Return the distinct labels of a manifest, sorted by code point."""
    return sorted(set(frame["label"]))


# Validation: every problem is found and reported at once, as line, column, what is wrong, remedy.
Problem = tuple[int | str, str, str, str]


def check_rows(
    frame: pd.DataFrame,
    lines: Sequence[int | str],
    path: str | Path,
    *,
    classes: Iterable[str] | None = None,
    data: str | Path | None = None,
) -> None:
    """Check the rows of a manifest (all of `COLUMNS`; index 0, 1, ...), whose lines in the file
    `path` are `lines`: numbers, or text such as "3 of test.csv". `classes` and `data`: see
    `read_manifest`.

    Raises:
        ManifestError: no rows; or the message lists every problem with its line and remedy, of one
            kind at most `MAX_LISTED`, and the number of further ones.
    """
    if frame.empty:
        remedy = "add some with `pipeline data add`"
        raise ManifestError("has no images", path=path, remedy=remedy)
    frame, rules = frame.astype(str).assign(line=lines), dict(_RULES)
    if classes is not None:
        known = sorted(set(classes))
        rules["label"] = (known.__contains__, "an unknown label", f"known: {', '.join(known)}")
    kinds = [_broken(frame, column, *rule) for column, rule in rules.items()]
    kinds.append(_duplicates(frame, ["image_id"], "change one of them"))
    kinds.append(_duplicates(frame, ["path", "frame"], "keep one of the rows"))
    kinds += [_patients_in_two_splits(frame), _prompts_outside(frame)]
    if data is not None:
        data = remote.as_path(data)
        kinds.append(_missing_files(frame, data, "path", "run `pipeline data add` again"))
        kinds.append(_missing_files(frame, data, "mask_path", "empty the cell"))
    found = [sorted(kind, key=_by_line) for kind in kinds]
    listed = sorted((problem for kind in found for problem in kind[:MAX_LISTED]), key=_by_line)
    if not listed:
        return
    total = sum(map(len, found))
    text = [f"  line {line}, {column}: {what} - {how}" for line, column, what, how in listed]
    text += [f"  ... and {total - len(listed)} more of these kinds"] * (total > len(listed))
    raise ManifestError("\n".join([f"{total} problem{'s' * (total > 1)}", *text]), path=path)


def _by_line(problem: Problem) -> tuple:
    number, _, source = str(problem[0]).partition(" ")
    return source, int(number), *problem[1:]


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts


def _re(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


_REFRESH = "run `pipeline data refresh`"
_XY = r"\s*(\d+\.?\d*|\.\d+)\s*,\s*(\d+\.?\d*|\.\d+)\s*"
_XYI = rf"{_XY},\s*[01]\s*"
# column: (is the value valid?, what an invalid one is, remedy)
_RULES: dict[str, tuple[Callable[[str], bool], str, str]] = {
    "image_id": (bool, "an empty id", "give it an id"),
    "path": (_is_inside, "not a path below the data folder", "use a relative path without '..'"),
    "frame": (_re("0|[1-9][0-9]{0,8}"), "not a whole number from 0", "use 0 for one frame"),
    "label": (bool, "an empty label", "fill it in, or remove the row"),
    "split": (SPLITS.__contains__, "not a split", "use train, val, test or leave it empty"),
    "sha256": (_re("[0-9a-f]{64}"), "not a sha256", _REFRESH),
    "width": (_re("[1-9][0-9]{0,8}"), "not a width in pixels", _REFRESH),
    "height": (_re("[1-9][0-9]{0,8}"), "not a height in pixels", _REFRESH),
    "mask_area": (_re("[0-9]{0,18}"), "not a pixel count", _REFRESH),
    "box": (_re(f"({_XY},{_XY})?"), "not a box", "write x0,y0,x1,y1 in pixels"),
    "points": (_re(f"({_XYI}(;{_XYI})*)?"), "not points", "write x,y,1;x,y,0 (1 = inside)"),
    "synthetic": (("0", "1").__contains__, "neither 0 nor 1", "use 1 for a phantom, else 0"),
}


def _broken(frame: pd.DataFrame, column: str, valid: Callable, what: str, remedy: str) -> list:
    wrong = [value for value in frame[column].unique() if not valid(value)]
    rows = frame.loc[frame[column].isin(wrong), ["line", column]].itertuples(index=False)
    return [(line, column, f"{what}: {value!r}", remedy) for line, value in rows]


def _duplicates(frame: pd.DataFrame, columns: list[str], remedy: str) -> Iterator[Problem]:
    first = frame.groupby(columns)["line"].transform("first")
    for at in frame.index[frame.duplicated(columns)]:
        what = f"{' and '.join(map(repr, frame.loc[at, columns]))} is on line {first[at]} too"
        yield frame.at[at, "line"], " and ".join(columns), what, remedy


def _patients_in_two_splits(frame: pd.DataFrame) -> Iterator[Problem]:
    known = frame[(frame["patient_id"] != "") & (frame["split"] != "")]
    remedy = "move the patient to one split, or add again with `--on-shared-patient drop-train`"
    for patient, first in known.groupby(["patient_id", "split"])["line"].first().groupby(level=0):
        if len(first) > 1:
            where = "; ".join(f"{split} (line {line})" for (_, split), line in first.items())
            what = f"patient {patient!r} is in {where}"
            yield first.min(), "patient_id", what, remedy


def _prompts_outside(frame: pd.DataFrame) -> Iterator[Problem]:
    remedy = (
        "use pixels of the upright image, the smaller first in a box (or pass --box-format: xywh "
        "for x,y,width,height; none leaves boxes out)"
    )
    for row in frame[(frame["box"] != "") | (frame["points"] != "")].itertuples():
        for column, text in (("box", row.box), ("points", row.points)):
            try:
                w, h = int(row.width), int(row.height)
                numbers = [[float(x) for x in part.split(",")] for part in text.split(";") if part]
                if column == "box":  # it may end at the image's edge, width
                    inside = all(0 <= a < c <= w and 0 <= b < d <= h for a, b, c, d in numbers)
                else:  # the last pixel of a click is width - 1
                    inside = all(x <= w - 1 and y <= h - 1 for x, y, _ in numbers)
            except ValueError:
                continue  # `_RULES` has reported it
            if not inside:
                what = f"{text} is not inside the image of {w} x {h}"
                yield row.line, column, what, remedy


def _missing_files(
    frame: pd.DataFrame, data: Path, column: str, otherwise: str
) -> Iterator[Problem]:
    cells = frame.set_index("line")[column]
    names = cells.str.split(UNITED).explode() if column == "mask_path" else cells
    for line, name in names.items():
        if name and not (file := remote.join(data, name)).is_file():
            what = "a broken link" if file.is_symlink() else "no such file"
            yield line, column, f"{what}: {file}", f"put it back, or {otherwise}"
