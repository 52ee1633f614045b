"""From pairs of contents to the audit's tables: pairs of images, and groups of copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.errors import ManifestError
from pipeline.manifest import LABELLED

COLUMNS = {
    "image_id_a": "str",
    "image_id_b": "str",
    "split_a": "str",
    "split_b": "str",
    "label_a": "str",
    "label_b": "str",
    "kind": "str",  # byte | near | mirror | turn
    "score": "float64",  # correlation
    "leak": "bool",  # one image is in test, the other in train or val
    "by": "str",  # bytes | thumbnail | structure: what found the pair
}
KINDS = ("byte", "near", "mirror", "turn")


def read_audit(path: Path, manifest: pd.DataFrame) -> pd.DataFrame | None:
    """Return audit.parquet; None when it does not exist.

    Raises:
        ManifestError: images or splits have changed since, and with them which test image has a
            copy in train.
    """
    if not path.exists():
        return None
    audit = pd.read_parquet(path)
    columns = ["image_id", "sha256", "split"]
    if audit.reindex(columns=columns).equals(manifest[columns].reset_index(drop=True)):
        return audit  # as a rule; no sets of a million rows
    then, now = (set(t.reindex(columns=columns).itertuples(index=False)) for t in (audit, manifest))
    if then == now:
        return audit
    ids = sorted({str(row[0]) for row in then ^ now})
    raise ManifestError(
        f"the leak audit is of other images or splits than the manifest: {len(ids)} images differ, "
        f"e.g. {ids[0]!r}",
        path=path,
        remedy=f"run: pipeline audit --dataset {path.parent.name}",
    )


def image_pairs(
    a: pd.DataFrame, b: pd.DataFrame, copies: pd.DataFrame, *, within: bool
) -> pd.DataFrame:
    """Pair images (rows of two manifests and their content) of the same bytes and frame, and those
    whose contents are `copies` (of `find_copies`).

    Returns:
        `COLUMNS`, each pair once: byte-identical ones first, then near, mirror and turn; the best
        score first, then by name. `within` one dataset the smaller image_id comes first, and of the
        images of one content the first of each split stands for the others.
    """
    columns = ["image_id", "split", "label", "sha256", "frame", "content"]
    a, b = a[columns], b[columns]
    first = b.sort_values("image_id").drop_duplicates(["content", "split"]) if within else b
    several = a[a.duplicated(["sha256", "frame"], keep=False)] if within else a
    same = several.merge(first, on=["sha256", "frame"], suffixes=("_a", "_b"))
    left = first if within else a
    found = copies.merge(left.add_suffix("_a"), left_on="left", right_on="content_a")
    found = found.merge(first.add_suffix("_b"), left_on="right", right_on="content_b")
    pairs = pd.concat([same.assign(kind="byte", score=1.0, by="bytes"), found], ignore_index=True)
    if within:
        pairs = pairs[pairs["image_id_a"] != pairs["image_id_b"]].copy()
        turn = (pairs["image_id_a"] > pairs["image_id_b"]).to_numpy()
        for name in ("image_id", "split", "label"):
            x, y = pairs[f"{name}_a"].to_numpy(object), pairs[f"{name}_b"].to_numpy(object)
            pairs[f"{name}_a"], pairs[f"{name}_b"] = np.where(turn, y, x), np.where(turn, x, y)
    split_a, split_b = pairs["split_a"], pairs["split_b"]
    pairs["leak"] = split_a.eq("test") & split_b.isin(LABELLED)
    pairs["leak"] |= split_b.eq("test") & split_a.isin(LABELLED)
    order = pairs.assign(rank=pairs["kind"].map(KINDS.index).astype(int), less=-pairs["score"])
    order = order.sort_values(["rank", "less", "image_id_a", "image_id_b"])
    pairs = order.drop_duplicates(["image_id_a", "image_id_b"], ignore_index=True)
    return pairs[list(COLUMNS)].astype(COLUMNS)  # the types hold without rows too


def connect(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the component of each of `count` nodes under the edges left[k] - right[k], int64."""
    edges = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(count, count))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def joined_to(marked: np.ndarray, left: np.ndarray, right: np.ndarray, cut) -> np.ndarray:
    """Return which nodes are marked, or joined to a marked one by an edge, (count,) bool.

    Not all edges of the nodes in `cut` are known: in a component that has one of these, a chain of
    edges joins as well.
    """
    joined = marked.copy()
    joined[left[marked[right]]] = True
    joined[right[marked[left]]] = True
    part = connect(len(marked), left, right)
    return joined | (np.isin(part, part[marked]) & np.isin(part, part[cut]))


def name_groups(ids: pd.Series, component: np.ndarray) -> np.ndarray:
    """Name each component by its first image_id in sorted order, (n,) object."""
    return ids.astype(object).groupby(component).transform("min").to_numpy(object)
