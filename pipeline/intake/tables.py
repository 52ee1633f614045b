"""Tables that users bring: lists of images and of groups, as CSV from any program.

`SYNONYMS` is the one list of column names that are understood.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipeline.errors import ManifestError
from pipeline.intake.findings import Findings, FoundImage, why_skipped
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
# Columns of a manifest that are not taken from a table: they are measured, or are not facts.
MEASURED = ("path", "label", "split", "sha256", "width", "height", "mask_area")
# The first of these columns becomes `group`. Larger units come first: neighbouring slices of a
# patient are nearly copies.
GROUP_COLUMNS = ("group", "series", "study", "slice")


def read_table(path: Path, *required: str) -> pd.DataFrame:
    """Read a CSV and give its columns the manifest's names.

    Args:
        path: the file.
        required: columns that it must have.

    Returns:
        Text columns; the index holds the line number of each row.

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
    name = name.strip()
    low = name.lower()
    return SYNONYMS.get(low, low if low in COLUMNS else name)


def read_image_table(source: Path) -> Findings:
    """Read a CSV that lists images.

    Columns: path (relative to the table's folder) and label; optionally split, frame (blank = all
    frames), image_id and the other columns of a manifest. Unknown columns are kept.

    Raises:
        ManifestError: as `read_table`; no path or label column; paths outside the folder.
    """
    table = read_table(source, "path", "label")
    findings = Findings(source.parent)
    outside = []
    for line, row in zip(table.index, table.to_dict("records"), strict=True):
        path = _relative_path(row["path"], findings.root)
        if path is None:
            outside.append(f"line {line}: {row['path']}")
            continue
        file = findings.root / path
        reason = why_skipped(file, path) if file.is_file() else ""
        if reason:
            findings.skipped[reason] += 1
            continue
        mask = row.get("mask_path", "")
        row["mask_path"] = _relative_path(mask, findings.root) or mask
        row["frame"] = row.get("frame", "").strip()
        facts = {
            name: text
            for name, text in row.items()
            if name not in MEASURED and (text or name not in COLUMNS)
        }
        split = row.get("split", "")
        split = split_named(split) or split
        findings.images.append(FoundImage(path, row["label"], split, facts, line))
    if outside:
        raise ManifestError(
            f"{len(outside)} paths are outside the table's folder: " + "; ".join(outside[:10]),
            path=source,
            remedy="move the table to a folder above all its images, and use relative paths",
        )
    if not findings.images:
        raise ManifestError("the table lists no images", path=source, remedy="check its paths")
    return findings


def _relative_path(text: str, root: Path) -> str | None:
    """Return a POSIX path below `root`, or None when it is outside.

    Backslashes separate folders unless a file of that very name exists.
    """
    if "\\" in text and not (root / text).is_file():
        text = text.replace("\\", "/")
    path = Path(text)
    if path.is_absolute():
        if not path.is_relative_to(root.absolute()):
            return None
        path = path.relative_to(root.absolute())
    return None if ".." in path.parts or not path.parts else path.as_posix()


def join_groups(findings: Findings, source: Path) -> int:
    """Fill in patient_id, group and fold from a CSV.

    Args:
        findings: changed in place, warnings included.
        source: CSV that names images by `path` (relative to the images' folder or to the folder
            above it; all frames of the file) or `image_id`.

    Returns:
        The number of images it knows.

    Raises:
        ManifestError: no usable column, an image listed twice with different values, or no image
            of the table is here.
    """
    table = read_table(source)
    key = "path" if "path" in table.columns else "image_id"
    table = read_table(source, key)
    group = next((name for name in GROUP_COLUMNS if name in table.columns), None)
    columns = {
        target: column
        for target, column in (("group", group), ("fold", "fold"), ("patient_id", "patient_id"))
        if column in table.columns
    }
    if not columns:
        raise ManifestError(
            f"no column that groups (it has: {', '.join(table.columns)})",
            path=source,
            remedy="name a column group, series, slice, fold or patient_id",
        )
    by_name: dict[str, list[FoundImage]] = {}
    for image in findings.images:
        by_name.setdefault(image.path, []).append(image)
    stated = {i.facts["image_id"]: [i] for i in findings.images if "image_id" in i.facts}
    by_name = stated | by_name
    values_of: dict[int, dict[str, str]] = {}  # by id() of the image
    elsewhere = 0
    for line, row in zip(table.index, table.to_dict("records"), strict=True):
        name = findings.local_name(row[key], by_name)
        elsewhere += name not in by_name
        values = {target: row[column] for target, column in columns.items() if row[column]}
        for image in by_name.get(name, []):
            if values_of.setdefault(id(image), values) != values:
                raise ManifestError(
                    f"line {line}: {row[key]!r} for the second time, with other values",
                    path=source,
                    remedy="keep one of the rows",
                )
            image.facts |= values
    if not values_of:
        raise ManifestError(
            f"knows none of the images (its first: {table[key].iloc[0]!r}; "
            f"the images': {findings.images[0].path!r})",
            path=source,
            remedy="write paths relative to the images' folder, or to the folder above it",
        )
    if elsewhere:
        findings.warnings.append(f"{elsewhere} rows of {source.name} name images that are not here")
    return len(values_of)
