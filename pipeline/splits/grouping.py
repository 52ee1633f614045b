"""Which images must stay together: one patient, one group, one picture and its copies."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from pipeline.errors import ManifestError

# `path`: the pages, frames and slices of one file are one patient's, whether or not it says so.
TIES = ("patient_id", "group", "copy_group", "path")


def units(table: pd.DataFrame, columns: tuple[str, ...]) -> np.ndarray:
    """Join the images that share a non-empty value in any of the columns, through any chain.

    Args:
        table: rows with image_id and `columns` (text; "" = not known).
        columns: what ties images together.

    Returns:
        The name of each row's unit: the smallest image_id in it. It does not depend on the
        order of the rows, nor on how the groups are called.
    """
    n = len(table)
    ends: list[np.ndarray] = []
    starts: list[np.ndarray] = []
    for column in columns:
        codes, _ = pd.factorize(table[column].where(table[column] != ""))
        known = np.flatnonzero(codes >= 0)
        first = np.full(codes.max(initial=-1) + 1, n)
        np.minimum.at(first, codes[known], known)
        starts.append(known)
        ends.append(first[codes[known]])
    row, col = np.concatenate(starts), np.concatenate(ends)
    graph = coo_matrix((np.ones(len(row), np.int8), (row, col)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    names = table["image_id"].groupby(component).transform("min")
    return names.to_numpy(object)


def with_copies(manifest: pd.DataFrame, audit: pd.DataFrame | None) -> pd.DataFrame:
    """Return the manifest sorted by id, with the audit's column copy_group ("" = no copies).

    Raises:
        ManifestError: the audit does not know an image, or knows other bytes of it.
    """
    table = manifest.sort_values("image_id", key=lambda ids: ids.astype(object), kind="stable")
    table = table.reset_index(drop=True)
    if audit is None:
        return table.assign(copy_group="")
    known = audit.set_index("image_id")
    missing = [i for i in table["image_id"] if i not in known.index]
    stale = (
        []
        if missing
        else list(
            table["image_id"][known.loc[table["image_id"], "sha256"].to_numpy() != table["sha256"]]
        )
    )
    if missing or stale:
        what = "does not know" if missing else "is of other bytes of"
        ids = missing or stale
        raise ManifestError(
            f"the leak audit {what} {len(ids)} images, e.g. {ids[0]!r}",
            remedy="run `pipeline data check` again (or `dvc repro`)",
        )
    return table.assign(copy_group=known.loc[table["image_id"], "copy_group"].to_numpy(object))


def shuffled(ids: np.ndarray, *salt: object) -> np.ndarray:
    """Return the order that sorts ids by a hash of (salt, id): random, yet fixed for ever."""
    keys = [
        hashlib.sha256("\0".join([*map(str, salt), image_id]).encode()).digest() for image_id in ids
    ]
    return np.array(sorted(range(len(ids)), key=keys.__getitem__), dtype=np.int64)
