"""Copies across two datasets, which training on one and testing on the other would leak."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.audit.copies import Copies, find_copies
from pipeline.audit.table import pair_table, sort_pairs
from pipeline.audit.thumbnails import load_thumbnails
from pipeline.config import Params
from pipeline.manifest import read_manifest
from pipeline.paths import Paths


def compare_datasets(a: str, b: str, params: Params, paths: Paths) -> pd.DataFrame:
    """Find images of one dataset that are copies of images of another.

    Args:
        a, b: names of the datasets.
        params: `params.audit` holds the thresholds.
        paths: the project folder; thumbnails are cached there as `audit_dataset` does.

    Returns:
        the columns of audit_pairs.parquet, image_id_a of dataset a, image_id_b of dataset b, best
        first. `straddles`: one is a test image, the other a training image. Images that cannot be
        read are named in `.attrs["unreadable"]` (dataset -> image_id -> reason); all are counted
        in `.attrs["images"]` (dataset -> count).
    """
    manifests = [read_manifest(paths.manifest(name)) for name in (a, b)]
    sets = [
        load_thumbnails(manifest, paths.data(name), paths.thumbnails(name))
        for name, manifest in zip((a, b), manifests, strict=True)
    ]
    # Bytes and frame, numbered alike in both.
    both = pd.concat([m[["sha256", "frame"]] for m in manifests], ignore_index=True)
    joint = both.groupby(["sha256", "frame"]).ngroup().to_numpy()
    contents = np.split(joint, [len(manifests[0])])
    byte = np.intersect1d(*contents)
    same = Copies(
        byte,
        byte,
        np.full(len(byte), "byte", object),
        np.ones(len(byte)),
        np.full(len(byte), "bytes", object),
    )
    exact = pair_table(manifests[0], contents[0], manifests[1], contents[1], same, every=True)
    close = pair_table(
        manifests[0],
        sets[0].content,
        manifests[1],
        sets[1].content,
        find_copies(sets[0], sets[1], params.audit),
        every=True,
    )
    pairs = sort_pairs(pd.concat([exact, close])).drop_duplicates(["image_id_a", "image_id_b"])
    pairs = pairs.reset_index(drop=True)
    named = list(zip((a, b), manifests, sets, strict=True))
    pairs.attrs["unreadable"] = {
        name: {manifest["image_id"].iloc[row]: why for row, why in sorted(part.failures.items())}
        for name, manifest, part in named
    }
    pairs.attrs["images"] = {name: len(manifest) for name, manifest, _ in named}
    return pairs
