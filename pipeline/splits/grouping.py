"""Units: images that must stay together in one part of a split."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

import numpy as np
import pandas as pd

from pipeline.errors import ManifestError

TIES = ("patient_id", "group", "copy_group", "path")
"""Columns whose equal values tie images together. `path`: pages, frames and slices of one file are
of one patient, whether or not the manifest says so."""


def units(table: pd.DataFrame, columns: tuple[str, ...]) -> np.ndarray:
    """Return the unit of each row, object (n,), named after the smallest image_id in it.

    Images that share a non-empty value in any of the columns, also through other images, are one
    unit. It depends neither on the order of the rows nor on the names of groups.
    """
    codes, ids = pd.factorize(table["image_id"].astype(object), sort=True)
    unit, before = pd.Series(codes), None
    while before is None or not unit.equals(before):  # the smallest id spreads from tie to tie
        before = unit
        for column in columns:
            tie = table[column].to_numpy()
            unit = unit.groupby(tie).transform("min").where(tie != "", unit)
    return np.asarray(ids, dtype=object)[unit]


def with_copies(manifest: pd.DataFrame, audit: pd.DataFrame | None) -> pd.DataFrame:
    """Return the manifest sorted by id, with column copy_group of the leak audit ("" = no copies).

    Raises:
        ManifestError: an image is not in the audit, or was audited with other bytes.
    """
    table = manifest.sort_values("image_id", key=lambda ids: ids.astype(object), kind="stable")
    table = table.reset_index(drop=True)
    if audit is None:
        return table.assign(copy_group="")
    known = audit.set_index("image_id").reindex(table["image_id"])
    other = (known["sha256"] != table["sha256"].to_numpy()).to_numpy()
    if other.any():
        raise ManifestError(
            f"the leak audit is of other images: {other.sum()} are new or have other bytes, e.g. "
            f"{known.index[other][0]!r}",
            remedy="run: pipeline audit --dataset NAME (or dvc repro)",
        )
    return table.assign(copy_group=known["copy_group"].to_numpy(object))


def shuffled(ids: np.ndarray, *salt: object) -> np.ndarray:
    """Return the order that sorts ids by a hash of (salt, id): random, but the same everywhere."""
    keys = [
        hashlib.sha256("\0".join([*map(str, salt), image_id]).encode()).digest() for image_id in ids
    ]
    return np.array(sorted(range(len(ids)), key=keys.__getitem__), dtype=np.int64)


def content(values: np.ndarray, groups: np.ndarray) -> dict[str, Counter]:
    """Return unit -> value -> number of images."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for value, group in zip(values, groups, strict=True):
        counts[group][value] += 1
    return counts
