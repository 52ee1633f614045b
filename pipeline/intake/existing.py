"""What a project has already: the manifest and data/<dataset>, neither lost without being asked."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from pipeline.errors import ManifestError
from pipeline.intake.findings import Findings
from pipeline.io import writing
from pipeline.manifest import COLUMNS, read_manifest
from pipeline.paths import Paths

# Columns in which the old and the new manifest must not contradict each other.
DECIDED = ("label", "split", "patient_id", "group", "fold", "synthetic")
SHOWN = 5


def described(manifest: Path) -> str:
    """Return what a manifest describes: "nothing" (it does not exist), "phantoms" or "images"."""
    if not manifest.exists():
        return "nothing"
    try:
        synthetic = set(read_manifest(manifest)["synthetic"])
    except ManifestError:
        return "images"  # unreadable: somebody's work all the same
    return "phantoms" if synthetic == {"1"} else "images"


# -- the manifest -----------------------------------------------------------------------------


def merge_existing(
    new: pd.DataFrame,
    manifest: Path,
    *,
    same_source: bool,
    force: bool,
    without_mask: Collection[str] = (),
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Merge new rows with an existing manifest.

    Files may be new, gone or changed. Boxes, points, groups and masks that only the old manifest
    has are kept.

    Args:
        new: the rows to write.
        manifest: the CSV file, which may not exist.
        same_source: whether the old manifest describes the same folder.
        force: take the new rows as they are.
        without_mask: ids of images whose mask exists but cannot be used; the old one is not kept.

    Returns:
        The merged rows; and the number of rows "added", "removed" and "changed" (other bytes).

    Raises:
        ManifestError: the old manifest is unreadable, of another folder, or contradicts the new
            rows, and `force` is not set; the message says what differs.
    """
    everything_new = new, {"added": len(new), "removed": 0, "changed": 0}
    if not manifest.exists():
        return everything_new
    try:
        old = read_manifest(manifest).set_index("image_id", drop=False)
    except ManifestError as error:
        if force:
            return everything_new
        raise ManifestError(
            f"the existing manifest cannot be read: {error.message}",
            path=manifest,
            remedy="correct it, or pass --force to replace it",
        ) from None
    table = new.set_index("image_id", drop=False)
    shared = [image_id for image_id in new["image_id"] if image_id in old.index]
    counts = {
        "added": len(new) - len(shared),
        "removed": len(old) - len(shared),
        "changed": int((table.loc[shared, "sha256"] != old.loc[shared, "sha256"]).sum()),
    }
    if force:
        return new, counts
    if not same_source:
        kind = "phantoms" if set(old["synthetic"]) == {"1"} else "images"
        raise ManifestError(
            f"describes {len(old)} {kind} of another folder; the new one would keep "
            f"{len(shared)} of its ids, add {counts['added']} and drop {counts['removed']}",
            path=manifest,
            remedy="use another dataset name, or pass --force to replace it",
        )
    _refuse_contradictions(table.loc[shared], old.loc[shared], manifest)
    extra = [name for name in old.columns if name not in table.columns]
    for name in extra:
        table[name] = ""
    for name in [*COLUMNS, *extra]:
        if table[name].dtype.kind in "iu" or name in ("split", "mask_area"):
            continue
        known = old.loc[shared, name]
        empty = table.loc[shared, name] == ""
        if name == "mask_path":
            empty &= ~empty.index.isin(without_mask)
        table.loc[known.index[empty], name] = known[empty]
    same_mask = table.loc[shared, "mask_path"] == old.loc[shared, "mask_path"]
    uncounted = same_mask & (table.loc[shared, "mask_area"] == "")
    kept = uncounted.index[uncounted]
    table.loc[kept, "mask_area"] = old.loc[kept, "mask_area"]
    return table.reset_index(drop=True), counts


def _refuse_contradictions(new: pd.DataFrame, old: pd.DataFrame, manifest: Path) -> None:
    differences = []
    for name in DECIDED:
        differs = new[name] != old[name]
        if name != "split":  # where an empty cell is a statement too
            differs &= (new[name] != "") & (old[name] != "")
        ids = list(new.index[differs])
        if ids:
            examples = "; ".join(
                f"{image_id}: {old.at[image_id, name]!r} -> {new.at[image_id, name]!r}"
                for image_id in ids[:SHOWN]
            )
            differences.append(f"{name} of {len(ids)} images ({examples})")
    if differences:
        raise ManifestError(
            "would be changed: " + ", ".join(differences),
            path=manifest,
            remedy="give the options of the last time again (--patient-regex, --groups, "
            "--masks), or pass --force to take the new values",
        )


# -- data/<dataset>: a link to the images, so that manifests hold no path of a machine ------------


def same_folder(a: Path, b: Path) -> bool:
    """Return whether both paths exist and are the same folder."""
    return a.exists() and b.exists() and a.samefile(b)


def same_content(a: Path, b: Path) -> bool:
    """Return whether two folders (not links) hold files of the same names and bytes only."""
    if a.is_symlink() or not a.is_dir():
        return False
    names, others = ({p.relative_to(f) for p in f.rglob("*") if p.is_file()} for f in (a, b))
    return names == others and all(filecmp.cmp(a / n, b / n, shallow=False) for n in names)


def is_in_place(paths: Paths, dataset: str, findings: Findings) -> bool:
    """Return whether data/<dataset> holds the images found.

    Raises:
        ManifestError: it was extracted from another version of the zip; only the user may replace
            its images.
    """
    place = paths.data(dataset)
    if findings.staging is None:
        return same_folder(place, findings.root)
    if place.is_symlink() or not place.is_dir():
        return False
    if same_content(place, findings.root):
        return True
    if described(paths.manifest(dataset)) == "images":
        raise ManifestError(
            "holds other images than this zip; they are not replaced, even by --force",
            path=place,
            remedy="unpack the zip into it and pass it as --from, use another dataset name, or "
            "move it away",
        )
    return False


def put_in_place(paths: Paths, dataset: str, findings: Findings, *, force: bool) -> None:
    """Make data/<dataset> a link to the images, or move the extracted images there.

    Raises:
        ManifestError: something else is there and `force` is not set, or it is a folder of images
            that only the user may delete.
        DiskError: the folder cannot be written.
    """
    place = paths.data(dataset)
    with writing(place):
        # A run that was killed before it wrote the manifest may have moved them already.
        if findings.staging is not None and same_content(place, findings.root):
            return
        _clear(place, paths.manifest(dataset), force=force)
        place.parent.mkdir(parents=True, exist_ok=True)
        if findings.staging is not None:
            findings.root.rename(place)
        else:
            place.symlink_to(findings.root.resolve(), target_is_directory=True)


def _clear(place: Path, manifest: Path, *, force: bool) -> None:
    """Remove a link, or a folder of phantoms; errors as `put_in_place`."""
    if not place.exists() and not place.is_symlink():
        return
    if place.is_symlink() and (force or not place.exists()):
        place.unlink()  # the link only; the images stay
        return
    if not force:
        what = f"is a link to {place.readlink()}" if place.is_symlink() else "exists already"
        raise ManifestError(
            f"{what}, which is not --from",
            path=place,
            remedy="use another dataset name, or pass --force to replace it",
        )
    if described(manifest) != "phantoms":
        raise ManifestError(
            "is a folder of images; it is not deleted, even by --force",
            path=place,
            remedy="move it away, or pass it as --from",
        )
    shutil.rmtree(place)
