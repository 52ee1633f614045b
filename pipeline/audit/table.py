"""From pairs of contents to the audit's tables: pairs of images, and groups of copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.errors import ManifestError

COLUMNS = (
    "image_id_a",
    "image_id_b",
    "split_a",
    "split_b",
    "label_a",
    "label_b",
    "kind",  # byte | near | mirror | turn
    "score",  # correlation
    "straddles",  # one image is in test, the other in train or val
    "by",  # bytes | thumbnail | structure: what found the pair
)
_TYPES = dict.fromkeys(COLUMNS, "str") | {"score": "float64", "straddles": "bool"}
KINDS = ("byte", "near", "mirror", "turn")
LEARNED = ("train", "val")  # parts that a model has seen: a copy of them in test is a leak


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
    then, now = (
        t.reindex(columns=columns).set_index("image_id").sort_index() for t in (audit, manifest)
    )
    if then.equals(now):
        return audit
    both = then.index.intersection(now.index)
    changed = both[(then.loc[both] != now.loc[both]).any(axis=1)]
    ids = [*then.index.symmetric_difference(now.index), *changed]
    raise ManifestError(
        f"the leak audit is of other images or splits than the manifest: {len(ids)} images differ, "
        f"e.g. {ids[0]!r}",
        path=path,
        remedy=f"run: pipeline audit --dataset {path.parent.name}",
    )


# -- pairs ------------------------------------------------------------------------------------


def image_rows(manifest: pd.DataFrame, content: np.ndarray) -> pd.DataFrame:
    """Return the columns image_id, split, label and content of a manifest's images."""
    return manifest[["image_id", "split", "label"]].assign(content=content)


def first_of_splits(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the images of one content keep the first of each split, which stands for the others."""
    return rows.sort_values("image_id").drop_duplicates(["content", "split"])


def byte_pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """Pair each of `image_rows` with the first byte-identical one of each split."""
    rows = rows[rows["content"].duplicated(keep=False)]
    pairs = rows.merge(first_of_splits(rows), on="content", suffixes=("_a", "_b"))
    pairs = pairs[pairs["image_id_a"] != pairs["image_id_b"]]
    return _finish(pairs.assign(kind="byte", score=1.0, by="bytes"))


def byte_pairs_across(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Pair the images of two manifests that have the same bytes and frame."""
    names = ["image_id", "split", "label", "sha256", "frame"]
    pairs = a[names].merge(b[names], on=["sha256", "frame"], suffixes=("_a", "_b"))
    return _finish(pairs.assign(kind="byte", score=1.0, by="bytes"), swap=False)


def copy_pairs(
    a: pd.DataFrame, b: pd.DataFrame, copies: pd.DataFrame, *, swap: bool
) -> pd.DataFrame:
    """Pair images by pairs of their contents.

    Args:
        a, b: `image_rows`.
        copies: left and right contents, kind, score and by, from `find_copies`.
        swap: a and b are of one dataset: the smaller image_id comes first, each pair once.
    """
    pairs = copies.merge(a.add_suffix("_a"), left_on="left", right_on="content_a")
    pairs = pairs.merge(b.add_suffix("_b"), left_on="right", right_on="content_b")
    return _finish(pairs, swap=swap)


def sort_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """Sort by kind (byte, near, mirror, turn), best score first, then by name."""
    rank = pairs["kind"].map({kind: at for at, kind in enumerate(KINDS)}).astype(int)
    order = pairs.assign(_rank=rank, _score=-pairs["score"])
    order = order.sort_values(["_rank", "_score", "image_id_a", "image_id_b"], kind="stable")
    return order.drop(columns=["_rank", "_score"]).reset_index(drop=True)


def _finish(pairs: pd.DataFrame, swap: bool = True) -> pd.DataFrame:
    """Bring pairs to `COLUMNS`; with `swap` the smaller image_id comes first, each pair once."""
    pairs = pairs.copy()
    if swap:
        turn = (pairs["image_id_a"] > pairs["image_id_b"]).to_numpy()
        for name in ("image_id", "split", "label"):
            a, b = pairs[f"{name}_a"].to_numpy(object), pairs[f"{name}_b"].to_numpy(object)
            pairs[f"{name}_a"], pairs[f"{name}_b"] = np.where(turn, b, a), np.where(turn, a, b)
        pairs = pairs.drop_duplicates(["image_id_a", "image_id_b"])
    test_a, test_b = pairs["split_a"].eq("test"), pairs["split_b"].eq("test")
    learned_a, learned_b = (pairs[f"split_{x}"].isin(LEARNED) for x in "ab")
    pairs["straddles"] = (test_a & learned_b) | (test_b & learned_a)
    return sort_pairs(pairs)[list(COLUMNS)].astype(_TYPES)  # the types hold without rows too


# -- groups -----------------------------------------------------------------------------------


def connect(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the connected component of each of `count` nodes under the edges left[k] - right[k].

    Returns:
        (count,) int64 component numbers.
    """
    edges = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(count, count))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def joined_to(
    marked: np.ndarray, left: np.ndarray, right: np.ndarray, cut: np.ndarray
) -> np.ndarray:
    """Return which nodes are marked, or joined to a marked one by an edge left[k] - right[k].

    Not all edges of the nodes in `cut` are known: in a component that has one of these, a chain of
    edges joins as well.

    Args:
        marked: (count,) bool.
        left, right: (n,) int64 nodes.
        cut: (m,) int64 nodes.

    Returns:
        (count,) bool.
    """
    joined = marked.copy()
    joined[left[marked[right]]] = True
    joined[right[marked[left]]] = True
    part = connect(len(marked), left, right)
    return joined | (np.isin(part, part[marked]) & np.isin(part, part[cut]))


def name_groups(ids: Sequence[str], component: np.ndarray) -> np.ndarray:
    """Name each component by its first image_id in sorted order, whatever the order of the rows.

    Returns:
        (n,) object array; the group of an image on its own is its own image_id.
    """
    return pd.Series(np.asarray(ids, object)).groupby(component).transform("min").to_numpy(object)
