"""Which test images a figure is taken over, and which of them belong together."""

from __future__ import annotations

import pandas as pd

from pipeline.splits.grouping import TIES, units, with_copies

_LEAK = {"clean": "copy_in_train", "clean_any": "copy_in_train_any"}


def subset_ids(audit: pd.DataFrame | None, protocol: str) -> dict[str, set[str] | None]:
    """Return the images of each subset; None stands for all.

    `clean` lacks the images with an exact or near copy in train, `clean_any` also those whose
    copy is mirrored or turned. In grouped cross-validation copies never straddle, so there is
    only `full`; the same where no audit was made.
    """
    found: dict[str, set[str] | None] = {"full": None}
    if audit is None or protocol.startswith("grouped"):
        return found
    for name, column in _LEAK.items():
        found[name] = set(audit.loc[~audit[column].astype(bool), "image_id"])
    return found


def fold_ids(manifest: pd.DataFrame, protocol: str) -> set[str]:
    """Return the images that some fold of a cross-validated protocol should test: all, or with
    ground truth those whose mask is not empty (as `pipeline.splits` takes them)."""
    taken = pd.Series(True, index=manifest.index)
    if protocol == "grouped_truth":
        taken = (manifest["mask_path"] != "") & (manifest["mask_area"] != "0")
    return set(manifest.loc[taken, "image_id"])


def image_groups(manifest: pd.DataFrame, audit: pd.DataFrame | None) -> dict[str, str]:
    """Return what is resampled together, by image_id: the units that the splits keep together.

    A unit is a patient, a group, the frames of one file and, with an audit, their copies (mirrored
    and turned ones too), joined; it bears the smallest image_id in it. Copies are no independent
    witnesses: drawn one by one they make an interval too narrow.

    Raises:
        ManifestError: the audit does not know an image, or knows other bytes of it.
    """
    table = with_copies(manifest, audit)
    return dict(zip(table["image_id"], units(table, TIES), strict=True))
