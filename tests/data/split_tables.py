"""Manifests and audits of made-up images, for the tests of the splits."""

from __future__ import annotations

import pandas as pd

from pipeline.manifest import COLUMNS


def table(labels, *, groups=None, patients=None, splits=None, folds=None, areas=None):
    n = len(labels)
    frame = pd.DataFrame({name: [""] * n for name in COLUMNS}, dtype=str)
    frame["image_id"] = [f"{i:03d}" for i in range(n)]
    frame["path"] = [f"{i}.png" for i in range(n)]
    frame["label"] = list(labels)
    frame["sha256"] = [f"{i:064x}" for i in range(n)]
    for name, values in (
        ("group", groups),
        ("patient_id", patients),
        ("split", splits),
        ("fold", folds),
        ("mask_area", areas),
    ):
        if values is not None:
            frame[name] = list(values)
    if areas is not None:
        frame["mask_path"] = ["" if area == "" else "m.png" for area in areas]
    return frame


def audit_of(frame, copies):
    return pd.DataFrame(
        {"image_id": frame["image_id"], "sha256": frame["sha256"], "copy_group": copies}
    )


def units_of(plan, ids):
    """Return the name of the unit that a plan takes each image for."""
    names = dict(zip(plan._table["image_id"], plan._table["unit"], strict=True))
    return [names[image_id] for image_id in ids]
