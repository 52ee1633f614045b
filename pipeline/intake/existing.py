"""What a manifest says already: never lost or replaced without being asked."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from pipeline.errors import ManifestError
from pipeline.manifest import COLUMNS, read_manifest

# Where the old and the new manifest both say something, these must agree.
DECIDED = ("label", "split", "patient_id", "group", "fold", "synthetic")
SHOWN = 5


def described(manifest: Path) -> str:
    """Return what a manifest describes: "nothing" (there is none), "phantoms" or "images"."""
    if not manifest.exists():
        return "nothing"
    try:
        synthetic = set(read_manifest(manifest)["synthetic"])
    except ManifestError:
        return "images"  # unreadable: somebody's work, not ours to delete
    return "phantoms" if synthetic == {"1"} else "images"


def merge_existing(
    new: pd.DataFrame,
    manifest: Path,
    *,
    same_source: bool,
    force: bool,
    without_mask: Collection[str] = (),
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Compare a new manifest with the one that is there, and keep what only the old one knows.

    Adding from the same source again brings new, gone and changed files; boxes, points, groups
    and masks that only the old manifest has are kept.

    Args:
        new: the rows to be written.
        manifest: file of the manifest that may be there.
        same_source: the old one describes the same folder.
        force: take the new rows as they are.
        without_mask: ids of images whose mask was found and cannot be used: the old manifest's
            is not put back.

    Returns:
        The rows to write, and the number of rows "added", "removed" and "changed" (bytes).

    Raises:
        ManifestError: the old one has other content, and `force` is not given; says what differs.
    """
    if not manifest.exists():
        return new, {"added": len(new), "removed": 0, "changed": 0}
    try:
        old = read_manifest(manifest)
    except ManifestError as error:
        if force:
            return new, {"added": len(new), "removed": 0, "changed": 0}
        raise ManifestError(
            f"a manifest is there that cannot be read: {error.message}",
            path=manifest,
            remedy="mend it, or pass --force to replace it",
        ) from None
    old = old.set_index("image_id", drop=False)
    shared = [image_id for image_id in new["image_id"] if image_id in old.index]
    table = new.set_index("image_id", drop=False)
    changed = (table.loc[shared, "sha256"] != old.loc[shared, "sha256"]).sum()
    counts = {
        "added": len(new) - len(shared),
        "removed": len(old) - len(shared),
        "changed": int(changed),
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
    unknown = same_mask & (table.loc[shared, "mask_area"] == "")
    table.loc[unknown.index[unknown], "mask_area"] = old.loc[unknown.index[unknown], "mask_area"]
    return table.reset_index(drop=True), counts


def _refuse_contradictions(new: pd.DataFrame, old: pd.DataFrame, manifest: Path) -> None:
    differ = []
    for name in DECIDED:
        both = (new[name] != old[name]) & (
            (name == "split") | ((new[name] != "") & (old[name] != ""))
        )
        ids = list(new.index[both])
        if ids:
            example = "; ".join(
                f"{image_id}: {old.at[image_id, name]!r} -> {new.at[image_id, name]!r}"
                for image_id in ids[:SHOWN]
            )
            differ.append(f"{name} of {len(ids)} images ({example})")
    if differ:
        raise ManifestError(
            "would be changed: " + ", ".join(differ),
            path=manifest,
            remedy="give the options of the last time again (--patient-regex, --groups, "
            "--masks), or pass --force to take the new values",
        )
