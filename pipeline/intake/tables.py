"""Tables that users bring: lists of images and of groups, as CSV from any program.

`SYNONYMS` is the one list of column names that are understood.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd

from pipeline.errors import ManifestError
from pipeline.intake.findings import Findings, why_skipped
from pipeline.intake.layout import split_named
from pipeline.io import read_text_csv
from pipeline.manifest import COLUMNS

SYNONYMS = {
    "image": "path",
    "file": "path",
    "filename": "path",
    "file_name": "path",
    "filepath": "path",
    "image_path": "path",
    "id": "image_id",
    "class": "label",
    "target": "label",
    "diagnosis": "label",
    "patient": "patient_id",
    "mask": "mask_path",
}
MEASURED = ["sha256", "width", "height", "mask_area"]  # never taken from a table
# The first of these columns becomes `group`. Larger units come first: neighbouring slices of a
# patient are nearly copies.
GROUP_COLUMNS = ("group", "series", "study", "slice")


def read_table(path: Path, *required: str) -> pd.DataFrame:
    """Read a CSV and give its columns the manifest's names; the index holds the line numbers.

    Raises:
        ManifestError: as `read_text_csv`; two columns mean the same; a required one is missing; or
            no rows.
    """
    csv = read_text_csv(path)
    columns = [_column(name) for name in csv.header]
    for name in columns:
        written = [w for w, known in zip(csv.header, columns, strict=True) if known == name]
        if len(written) > 1:
            what = f"two columns are {name!r}: {' and '.join(map(repr, written))}"
            raise ManifestError(what, path=path, remedy="keep one of them")
    if lacking := [name for name in required if name not in columns]:
        raise ManifestError(
            f"no column {lacking[0]!r} (it has: {', '.join(columns)})",
            path=path,
            remedy=f"name the column {lacking[0]!r} in the first line",
        )
    if not csv.rows:
        raise ManifestError("the table has no rows", path=path, remedy="check the file")
    return pd.DataFrame(csv.rows, csv.lines, columns, dtype=str)


def _column(name: str) -> str:
    low = name.strip().lower()
    return SYNONYMS.get(low, low if low in COLUMNS else name.strip())


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
    outside = [f"line {line}: {text}" for line, text, path in rows if not path]
    if outside:
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
    """Return a POSIX path below `root`, or "" when it is outside.

    Backslashes separate folders unless a file of that very name exists.
    """
    if "\\" in text and not (root / text).is_file():
        text = text.replace("\\", "/")
    path = Path(text)
    if path.is_absolute():
        if not path.is_relative_to(root.absolute()):
            return ""
        path = path.relative_to(root.absolute())
    return "" if ".." in path.parts or not path.parts else path.as_posix()


def join_groups(findings: Findings, source: Path) -> None:
    """Fill in patient_id, group and fold from a CSV.

    Args:
        findings: changed in place, warnings included.
        source: CSV that names images by `path` (relative to the images' folder or to the folder
            above it; all frames of the file) or `image_id`.

    Raises:
        ManifestError: no usable column, an image listed twice with different values, or no image
            of the table is here.
    """
    table, images = read_table(source), findings.images
    key = "path" if "path" in table else "image_id"
    table = read_table(source, key)
    group = next((name for name in GROUP_COLUMNS if name in table), None)
    columns = {"group": group, "fold": "fold", "patient_id": "patient_id"}
    columns = {target: column for target, column in columns.items() if column in table}
    if not columns:
        raise ManifestError(
            f"no column that groups (it has: {', '.join(table.columns)})",
            path=source,
            remedy="name a column group, series, slice, fold or patient_id",
        )
    named: dict[str, list[int]] = {}  # path or id -> positions of its images
    for at, path in enumerate(images["path"]):
        named.setdefault(path, []).append(at)
    named = {name: [at] for at, name in enumerate(images["image_id"]) if name} | named
    table["image"] = [findings.local_name(name, named) for name in table[key]]
    table["at"] = table["image"].map(named)  # a list; NaN = not here
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
    elsewhere = int(table["at"].isna().sum())
    if elsewhere:
        findings.warnings.append(f"{elsewhere} rows of {source.name} name images that are not here")
