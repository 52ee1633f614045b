"""Manifests and audits of made-up images, for the tests of the splits."""

from __future__ import annotations

import pandas as pd

from tests.project import manifest_of


def table(labels, *, groups=None, patients=None, splits=None, folds=None, areas=None):
    given = {"group": groups, "patient_id": patients, "split": splits, "fold": folds}
    if areas is not None:
        given |= {"mask_area": areas, "mask_path": ["m.png" if area else "" for area in areas]}
    columns = {name: list(v) for name, v in given.items() if v is not None}
    return manifest_of([f"{i:03d}" for i in range(len(labels))], label=list(labels), **columns)


def audit_of(frame, copies):
    return pd.DataFrame(
        {"image_id": frame["image_id"], "sha256": frame["sha256"], "copy_group": copies}
    )
