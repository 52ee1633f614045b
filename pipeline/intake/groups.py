"""Join what is known of the images from a table: patient, group, fold, the publisher's label."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ManifestError
from pipeline.intake.existing import merge_existing
from pipeline.intake.folder import Found, Scan
from pipeline.intake.table import read_table
from pipeline.io import manifest_lock
from pipeline.manifest import read_manifest, write_manifest
from pipeline.manifest_checks import find_problems, report_problems
from pipeline.paths import Paths

# The column that becomes `group`, the first that is there: what holds more images comes first,
# since a patient's neighbouring slices are as good as copies.
GROUP_COLUMNS = ("group", "series", "study", "slice")


def join_groups(scan: Scan, source: Path) -> int:
    """Fill patient_id, group and fold of the images of `scan` from a CSV.

    The CSV names an image by `path` (relative to the images' folder, or to the folder above it)
    or `image_id`.

    Args:
        scan: images found; changed in place, warnings included.
        source: the CSV.

    Returns:
        How many images it knows.

    Raises:
        ManifestError: no usable column, the same image twice with other values, or no image of
            the table is here.
    """
    table = read_table(source)
    key = "path" if "path" in table.columns else "image_id"
    table.require(key)
    chosen = next((name for name in GROUP_COLUMNS if name in table.columns), None)
    takes = {
        target: column
        for target, column in (("group", chosen), ("fold", "fold"), ("patient_id", "patient_id"))
        if column in table.columns
    }
    if not takes:
        raise ManifestError(
            f"no column that groups (it has: {', '.join(table.columns)})",
            path=source,
            remedy="name one group, series, slice, fold or patient_id",
        )
    by_name = {
        found.facts["image_id"]: [found] for found in scan.found if "image_id" in found.facts
    }
    by_path: dict[str, list[Found]] = {}  # a path means all frames of its file
    for found in scan.found:
        by_path.setdefault(found.path, []).append(found)
    by_name |= by_path
    known: dict[int, dict[str, str]] = {}  # by the id() of what was found
    names: set[str] = set()
    relabelled = 0
    for row, line in zip(table.rows, table.lines, strict=True):
        name = scan.relative(row[key], by_name)
        if name not in by_name:
            continue
        values = {target: row[column] for target, column in takes.items() if row[column]}
        names.add(name)
        publisher = row.get("publisher_label", "")
        for found in by_name[name]:
            if known.setdefault(id(found), values) != values:
                raise ManifestError(
                    f"line {line}: {row[key]!r} for the second time, with other values",
                    path=source,
                    remedy="keep one of the rows",
                )
            found.facts |= values
            relabelled += bool(publisher) and publisher != found.label
    if not known:
        raise ManifestError(
            f"knows none of the images (its first: {table.rows[0][key]!r}; "
            f"the images': {scan.found[0].path!r})",
            path=source,
            remedy="write paths relative to the images' folder, or to the folder above it",
        )
    missing = len(table.rows) - len(names)
    if missing:
        scan.warnings.append(f"{missing} rows of {source.name} name images that are not here")
    if relabelled:
        scan.warnings.append(
            f"{relabelled} images have another label in {source.name} (publisher_label) "
            "than in the folder names, which are kept"
        )
    return len(known)


def group_dataset(dataset: str, source: str | Path, *, paths: Paths) -> list[str]:
    """Join known groups to a manifest that is there; images and all else stay as they are.

    Args:
        dataset: its name.
        source: CSV as of `join_groups`.
        paths: the project folder.

    Returns:
        What was joined, and what the user should know.

    Raises:
        ManifestError: as `join_groups`; the manifest says otherwise of an image; or a patient
            would be in two splits. Nothing was written.
    """
    manifest = paths.manifest(dataset)
    with manifest_lock(manifest):
        frame = read_manifest(manifest)
        scan = Scan(paths.data(dataset))
        for row in frame.itertuples():
            facts = {"image_id": row.image_id} if row.image_id != row.path else {}
            scan.found.append(Found(row.path, row.label, row.split, facts))
        known = join_groups(scan, Path(source))
        for column in ("patient_id", "group", "fold"):
            joined = [found.facts.get(column, "") for found in scan.found]
            frame[column] = [new or old for new, old in zip(joined, frame[column], strict=True)]
        try:
            frame, _ = merge_existing(frame, manifest, same_source=True, force=False)
        except ManifestError as error:
            error.remedy = (
                "correct the table, or take its values by `pipeline data add --groups --force`"
            )
            raise
        problems = find_problems(frame.astype(str), list(range(2, len(frame) + 2)))
        if problems:
            raise report_problems(Path(source), problems)
        write_manifest(frame, manifest)
    return [f"{manifest}: groups of {known} of {len(frame)} images joined", *scan.warnings]
