"""The manifest: one CSV per dataset, one row per image. Everything else is joined to it by id.

All values are text and survive byte for byte ("007", "NA", "1e5", "True"), but frame, width and
height, which are integers.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from pipeline.errors import ManifestError
from pipeline.io import atomic_write
from pipeline.manifest_checks import Problem, find_problems, report_problems

REQUIRED = ("image_id", "path", "frame", "label", "split", "sha256", "width", "height")
OPTIONAL = ("patient_id", "group", "fold", "mask_path", "mask_area", "box", "points", "synthetic")
COLUMNS = (
    "image_id",  # unique; posix path relative to the dataset's folder, "#<frame>" after the first
    "path",  # posix, relative to the dataset's folder
    "frame",  # int >= 0: page of a TIFF, frame of a DICOM, slice of a NIfTI
    "label",  # class name
    "split",  # "" (in no official part) | train | val | test
    "patient_id",  # "" = not known
    "group",  # images that belong together (a slice series, ...); "" = not known
    "fold",  # the publisher's fold; "" = not known
    "sha256",  # of the file's bytes
    "width",  # int, pixels, of the upright frame
    "height",  # int, pixels, of the upright frame
    "mask_path",  # ground truth, relative to the dataset's folder or absolute; "" = none
    "mask_area",  # pixels of the ground truth; "0" = it says "nothing here"; "" = not counted
    "box",  # prompt "x0,y0,x1,y1", pixels of the upright frame
    "points",  # prompt "x,y,1;x,y,0", pixels of the upright frame; 1 = inside, 0 = outside
    "synthetic",  # "1" = a phantom, "0" = a real image
)
INTEGERS = ("frame", "width", "height")


def read_manifest(
    path: str | Path,
    *,
    data: str | Path | None = None,
    check_files: bool = False,
    classes: Iterable[str] | None = None,
) -> pd.DataFrame:
    """Read and validate a manifest.

    Args:
        path: the CSV.
        data: folder of the dataset's images; needed for `check_files`.
        check_files: also see that every image and mask file is there.
        classes: the labels that are known; None = any.

    Returns:
        One row per image with the columns `COLUMNS` (and any others the file has), in the
        file's order; text columns are str, `INTEGERS` are int64. Index 0, 1, ...

    Raises:
        ManifestError: the file is missing or not a manifest; or rows are wrong: then the
            message lists every problem with its line and remedy, and `.problems` holds them.
    """
    path = Path(path)
    header, rows, lines = read_rows(path)
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise ManifestError(
            f"no column {', '.join(missing)}",
            path=path,
            remedy=f"make it with `pipeline data add {path.stem} --from ...`",
        )
    frame = pd.DataFrame(rows, columns=header, dtype=str)
    for name in OPTIONAL:
        if name not in frame:
            frame[name] = "0" if name == "synthetic" else ""
    problems = find_problems(frame, lines, classes=classes)
    if check_files:
        if data is None:
            raise ValueError("check_files needs the data folder")
        problems += missing_files(frame, lines, Path(data))
    if problems:
        raise report_problems(path, problems)
    for name in INTEGERS:
        frame[name] = frame[name].astype("int64")
    others = [name for name in frame.columns if name not in COLUMNS]
    return frame[[*COLUMNS, *others]]


def read_rows(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Read a CSV as text: header, rows, and the line on which each row starts.

    Line numbers are those an editor shows, also after a quoted field with a line break.

    Raises:
        ManifestError: missing, unreadable, not UTF-8, no header, doubled columns, or rows of
            another length.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(
            "no such manifest", path=path, remedy=f"run `pipeline data add {path.stem} --from ...`"
        ) from None
    except IsADirectoryError:
        raise ManifestError("is a folder, not a CSV", path=path, remedy="name a file") from None
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"not UTF-8 text (byte {error.start})", path=path, remedy="save it as UTF-8 CSV"
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    problems: list[Problem] = []
    try:
        header = next(reader, [])
        start = reader.line_num + 1
        for row in reader:
            if row:
                rows.append(row)
                lines.append(start)
                if len(row) != len(header):
                    what = f"{len(row)} fields where the header has {len(header)}"
                    problems.append(Problem(start, "", what, "quote fields that hold commas"))
            start = reader.line_num + 1
    except csv.Error as error:
        raise ManifestError(
            f"line {reader.line_num}: not valid CSV ({error})", path=path, remedy="mend the quotes"
        ) from None
    if not header:
        raise ManifestError(
            "the file is empty", path=path, remedy="make it with `pipeline data add`"
        )
    if len(set(header)) != len(header):
        twice = sorted({name for name in header if header.count(name) > 1})
        raise ManifestError(f"column {twice[0]!r} twice", path=path, remedy="keep one of them")
    if problems:
        raise report_problems(path, problems)
    return header, rows, lines


def unreadable(path: Path, error: OSError) -> ManifestError:
    """Return what the system said of a list of images, or an archive of them, with its remedy."""
    return ManifestError(
        f"cannot be read: {os.strerror(error.errno or 0)}",
        path=path,
        remedy="check its owner and mode, and the disk",
    )


def write_manifest(
    frame: pd.DataFrame, path: str | Path, *, first: Callable[[], None] = lambda: None
) -> None:
    """Write a manifest atomically: UTF-8, Unix line ends, columns in the order of `COLUMNS`.

    Args:
        frame: its rows.
        path: the CSV.
        first: called when all is on the disk and the file has but to take its place; when it
            raises, the manifest stays as it was.

    Raises:
        DiskError: it cannot be written; it is as it was.
    """
    others = [name for name in frame.columns if name not in COLUMNS]
    table = frame[[*COLUMNS, *others]]
    with atomic_write(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        # A lone carriage return is only safe inside quotes, whatever the Python version.
        plain = csv.writer(file, lineterminator="\n")
        quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        plain.writerow(table.columns)
        for row in table.itertuples(index=False):
            (quoted if any("\r" in str(value) for value in row) else plain).writerow(row)
        file.flush()
        os.fsync(file.fileno())
        first()


def missing_files(frame: pd.DataFrame, lines: list[int], data: Path) -> list[Problem]:
    """Return a problem for each image or mask file that is not there."""
    problems = []
    for line, path, mask in zip(lines, frame["path"], frame["mask_path"], strict=True):
        for column, name, otherwise in (
            ("path", path, "run `pipeline data add` again"),
            ("mask_path", mask, "empty the cell"),
        ):
            if name and not (file := data / name).is_file():
                what = "a link to nothing" if file.is_symlink() else "no such file"
                remedy = f"put it back, or {otherwise}"
                problems.append(Problem(line, column, f"{what}: {file}", remedy))
    return problems


def row_file(row, data: str | Path) -> Path:
    """Return the file of a manifest row (a Series, dict or named tuple) below folder `data`."""
    return Path(data) / (row["path"] if not hasattr(row, "_fields") else row.path)


def mask_file(row, data: str | Path) -> Path | None:
    """Return the ground-truth file of a manifest row, or None where it has none."""
    name = row["mask_path"] if not hasattr(row, "_fields") else row.mask_path
    return Path(data) / name if name else None


def class_names(frame: pd.DataFrame) -> list[str]:
    """Return the labels of a manifest, sorted by code point, each once."""
    return sorted(set(frame["label"]))
