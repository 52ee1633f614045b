"""Tables that people bring: lists of images, masks and groups, as CSV from any program."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ManifestError
from pipeline.intake.folder import SPLIT_FOLDERS, Found, Scan, why_not
from pipeline.manifest import COLUMNS

# Other names of our columns, lower case.
ALIASES = {
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
GIVEN = ("patient_id", "group", "fold", "mask_path", "box", "points", "synthetic", "image_id")


@dataclass(frozen=True)
class Table:
    """A CSV as text: rows by column name (aliases replaced), and the line of each row."""

    path: Path
    columns: tuple[str, ...]
    rows: list[dict[str, str]]
    lines: list[int]

    def require(self, column: str) -> None:
        """Raise ManifestError when the table has no such column."""
        if column not in self.columns:
            known = ", ".join(self.columns)
            raise ManifestError(
                f"no column {column!r} (it has: {known})", path=self.path, remedy="name it so"
            )


def read_table(path: Path) -> Table:
    """Read a CSV with commas, semicolons or tabs, with or without BOM, any line ends.

    Every value stays text, byte for byte.

    Raises:
        ManifestError: not there, not UTF-8, broken quotes, doubled columns, rows that are longer
            or shorter than the header.
    """
    text = _decode(path)
    first = text.split("\n", 1)[0]
    # A name may hold any of these; the separator of the header is the most frequent one.
    separator = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows, lines = [], []
    try:
        written = [name.strip() for name in next(reader, [])]
        header = [_known(name) for name in written]
        start = reader.line_num + 1
        for row in reader:
            if row and len(row) != len(header):
                raise ManifestError(
                    f"line {start}: {len(row)} fields where the header has {len(header)}",
                    path=path,
                    remedy=f"quote fields that hold {separator!r}",
                )
            if row:
                rows.append(dict(zip(header, row, strict=True)))
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise ManifestError(
            f"line {reader.line_num}: not valid CSV ({error})", path=path, remedy="mend the quotes"
        ) from None
    if len(set(header)) != len(header):
        twice = next(name for name in header if header.count(name) > 1)
        names = [repr(name) for name, known in zip(written, header, strict=True) if known == twice]
        raise ManifestError(
            f"two columns are {twice!r}: {' and '.join(names)}",
            path=path,
            remedy="keep one of them",
        )
    if not rows:
        raise ManifestError("the table has no rows", path=path, remedy="check the file")
    return Table(path, tuple(header), rows, lines)


def _known(name: str) -> str:
    """Return the manifest's name of a column, whose capitals do not matter; else `name` itself."""
    low = name.lower()
    return ALIASES.get(low, low if low in COLUMNS else name)


def _decode(path: Path) -> str:
    if not path.is_file():
        raise ManifestError("no such table", path=path, remedy="check the path")
    raw = path.read_bytes()
    if raw[:4] == b"PK\x03\x04":
        raise ManifestError("is a workbook or zip, not a CSV", path=path, remedy="save it as CSV")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ManifestError("is UTF-16 text", path=path, remedy="save it as CSV in UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ManifestError(
            f"line {line}: not UTF-8 text", path=path, remedy="save it as CSV in UTF-8"
        ) from None


def scan_table(source: Path) -> Scan:
    """Read a CSV of images: columns path and label; split, patient_id, group, fold, mask_path,
    box, points, synthetic, frame (blank = all) and image_id where given. Paths are relative to
    its folder.

    Raises:
        ManifestError: as `read_table`; no path or label column; paths outside the folder.
    """
    table = read_table(source)
    table.require("path")
    table.require("label")
    root = source.parent
    scan = Scan(root)
    outside = []
    for row, line in zip(table.rows, table.lines, strict=True):
        path = relative_path(row["path"], root)
        if path is None:
            outside.append(f"line {line}: {row['path']}")
            continue
        file = root / path
        reason = why_not(file, path) if file.is_file() else ""
        if reason:
            scan.skipped[reason] += 1
            continue
        split = row.get("split", "")
        facts = {name: row[name] for name in GIVEN if row.get(name)}
        if frame := row.get("frame", "").strip():  # a blank cell means all, as no column does
            facts["frame"] = frame
        if "mask_path" in facts:
            facts["mask_path"] = relative_path(facts["mask_path"], root) or facts["mask_path"]
        facts |= {name: row[name] for name in table.columns if name not in (*COLUMNS, *GIVEN)}
        split = SPLIT_FOLDERS.get(split.strip().lower(), split)
        scan.found.append(Found(path, row["label"], split, facts, line))
    if outside:
        raise ManifestError(
            f"{len(outside)} paths lie outside the table's folder: " + "; ".join(outside[:10]),
            path=source,
            remedy="move the table to a folder above all its images, and use relative paths",
        )
    if not scan.found:
        raise ManifestError("the table lists no images", path=source, remedy="check its paths")
    return scan


def relative_path(text: str, root: Path) -> str | None:
    """Return a posix path below `root`, or None when it lies outside.

    Backslashes are folders where the file is there that way and not under the name itself.
    """
    if "\\" in text and not (root / text).is_file():
        text = text.replace("\\", "/")
    path = Path(text)
    if path.is_absolute():
        if not path.is_relative_to(root.absolute()):
            return None
        path = path.relative_to(root.absolute())
    parts = [part for part in path.parts if part != "."]
    return None if ".." in parts or not parts else "/".join(parts)
