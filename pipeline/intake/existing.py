"""What a project has already: the manifest and data/<dataset>, neither lost without being asked."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

import pandas as pd

from pipeline.errors import ManifestError
from pipeline.intake.findings import Findings
from pipeline.io import writing
from pipeline.manifest import read_manifest

# Columns in which the old and the new manifest must not contradict each other.
DECIDED = ("label", "split", "patient_id", "group", "fold", "synthetic")
SHOWN = 5


def merge_existing(
    new: pd.DataFrame, manifest: Path, *, same_source: bool, force: bool
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Merge new rows with those of a manifest that may exist.

    Files may be new, gone or changed. Boxes, points, groups and masks that only the old manifest
    has are kept. With `force` the new rows are taken as they are.

    Returns:
        The merged rows; and the number of rows "added", "removed" and "changed" (other bytes).

    Raises:
        ManifestError: without `force`, the old manifest is unreadable, of another folder (not of
            the `same_source`), or contradicts the new rows; the message says what differs.
    """
    try:
        old = read_manifest(manifest) if manifest.exists() else new.iloc[:0]
    except ManifestError as error:
        if not force:
            error.remedy = "correct it, or pass --force to replace it"
            raise
        old = new.iloc[:0]
    table = new.set_index("image_id", drop=False)
    before = old.set_index("image_id", drop=False).reindex(table.index)
    shared = before["image_id"].notna()
    counts = {
        "added": int((~shared).sum()),
        "removed": len(old) - int(shared.sum()),
        "changed": int((shared & (table["sha256"] != before["sha256"])).sum()),
    }
    if force or old.empty:
        return new, counts
    if not same_source:
        raise ManifestError(
            f"describes {len(old)} images of another folder; the new one would keep "
            f"{shared.sum()} of its ids, add {counts['added']} and drop {counts['removed']}",
            path=manifest,
            remedy="use another dataset name, or pass --force to replace it",
        )
    _refuse_contradictions(table[shared], before[shared], manifest)
    known = before.drop(columns=["split", "mask_area", "frame", "width", "height"]).fillna("")
    for name in known:
        mine = table.get(name, pd.Series("", table.index))
        table[name] = mine.mask(mine == "", known[name])
    uncounted = (table["mask_area"] == "") & (table["mask_path"] == before["mask_path"])
    table["mask_area"] = table["mask_area"].mask(uncounted, before["mask_area"])
    return table.reset_index(drop=True), counts


def _refuse_contradictions(new: pd.DataFrame, old: pd.DataFrame, manifest: Path) -> None:
    differences = []
    for name in DECIDED:
        differs = new[name] != old[name]
        if name != "split":  # where an empty cell is a statement too
            differs &= (new[name] != "") & (old[name] != "")
        if differs.any():
            examples = "; ".join(
                f"{image_id}: {old.at[image_id, name]!r} -> {new.at[image_id, name]!r}"
                for image_id in new.index[differs][:SHOWN]
            )
            differences.append(f"{name} of {differs.sum()} images ({examples})")
    if differences:
        raise ManifestError(
            "would be changed: " + ", ".join(differences),
            path=manifest,
            remedy="give the options of the last time again (--patient-regex, --groups, "
            "--masks), or pass --force to `pipeline data add` to take the new values",
        )


# -- data/<dataset>: a link to the images, so that manifests hold no path of a machine ------------


def holds_phantoms(manifest: Path) -> bool:
    """Return whether all images of a manifest are phantoms; not if it is missing or unreadable."""
    try:
        return set(read_manifest(manifest)["synthetic"]) == {"1"}
    except ManifestError:
        return False


def same_folder(a: Path, b: Path) -> bool:
    """Return whether both paths exist and are the same folder."""
    return a.exists() and b.exists() and a.samefile(b)


def _same_content(a: Path, b: Path) -> bool:
    """Return whether two folders hold files of the same names and bytes only."""
    names, others = ({p.relative_to(f) for p in f.rglob("*") if p.is_file()} for f in (a, b))
    return names == others and all(filecmp.cmp(a / n, b / n, shallow=False) for n in names)


def is_in_place(place: Path, findings: Findings, *, manifest: Path, force: bool) -> bool:
    """Return whether data/<dataset> holds the images found already; else it can be replaced.

    Raises:
        ManifestError: it is a folder of other images, which only the user may replace.
    """
    if findings.home is None and same_folder(place, findings.root):
        return True
    if place.is_symlink() or not place.exists():
        return False
    # A run that was killed before it wrote the manifest may have moved the images of a zip.
    if findings.home is not None and _same_content(place, findings.root):
        return True
    phantoms = holds_phantoms(manifest)
    if phantoms and force:
        return False
    remedy = "unpack the new images into it and pass it as --from, use another dataset name, "
    raise ManifestError(
        "holds phantoms" if phantoms else "holds other images, which --force does not replace",
        path=place,
        remedy=remedy + ("or pass --force" if phantoms else "or move it away"),
    )


def put_in_place(place: Path, findings: Findings) -> None:
    """Make data/<dataset>, checked by `is_in_place`, a link to the images, or move those of a zip
    there. Raises DiskError."""
    with writing(place):
        if place.is_symlink():
            place.unlink()  # the link only; the images stay
        elif place.exists():
            shutil.rmtree(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        if findings.home is not None:
            findings.root.rename(place)
        else:
            place.symlink_to(findings.root.resolve(), target_is_directory=True)
