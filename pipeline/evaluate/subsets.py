"""Which test images a figure is taken over, and which of them belong together."""

from __future__ import annotations

import numpy as np
import pandas as pd

SUBSETS = ("full", "clean", "clean_any")
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


def image_groups(manifest: pd.DataFrame) -> dict[str, str]:
    """Return what is resampled together: the patient, else the group, else the file's frames."""
    patient, group, own = (manifest[c] for c in ("patient_id", "group", "image_id"))
    frames = manifest["path"].duplicated(keep=False)
    alone = np.where(frames, "file " + manifest["path"], "image " + own)
    unit = np.where(patient != "", "patient " + patient, "group " + group)
    unit = np.where((patient == "") & (group == ""), alone, unit)
    return dict(zip(own, unit, strict=True))
