"""From pairs of contents to pairs of images, as audit_pairs.parquet holds them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.errors import ManifestError

if TYPE_CHECKING:
    from pipeline.audit.copies import Copies

COLUMNS = (
    "image_id_a",
    "image_id_b",
    "split_a",
    "split_b",
    "label_a",
    "label_b",
    "kind",  # byte | near | mirror | turn
    "score",  # correlation
    "straddles",
    "by",  # bytes | thumbnail | structure
)
_TYPES = dict.fromkeys(COLUMNS, "str") | {"score": "float64", "straddles": "bool"}
KINDS = ("byte", "near", "mirror", "turn")


def read_audit(path: Path, manifest: pd.DataFrame) -> pd.DataFrame | None:
    """Return audit.parquet; None where there is none.

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
        f"the leak audit is of other images or another split of {len(ids)} images, e.g. {ids[0]!r}",
        path=path,
        remedy=f"run: pipeline audit --dataset {path.parent.name}",
    )


def byte_pairs(manifest: pd.DataFrame, content: np.ndarray) -> pd.DataFrame:
    """Pair each image with the first byte-identical one of each part of the dataset."""
    several = np.bincount(content)[content] > 1
    rows = _rows(manifest, content)[several]
    pairs = rows.merge(_first_of_parts(rows), on="content", suffixes=("_a", "_b"))
    pairs = pairs[pairs["image_id_a"] != pairs["image_id_b"]]
    return _finish(pairs.assign(kind="byte", score=1.0, by="bytes"))


def pair_table(
    manifest_a: pd.DataFrame,
    content_a: np.ndarray,
    manifest_b: pd.DataFrame,
    content_b: np.ndarray,
    copies: Copies,
    *,
    every: bool = False,
) -> pd.DataFrame:
    """Pair images by their contents.

    One image per part of the dataset stands for all of the same bytes, which are pairs of their
    own within it; `every` names them all, as is needed across two datasets.
    """
    edges = pd.DataFrame(
        {
            "content_a": copies.left,
            "content_b": copies.right,
            "kind": copies.kind,
            "score": copies.score,
            "by": copies.by,
        }
    )
    a, b = _rows(manifest_a, content_a), _rows(manifest_b, content_b)
    if not every:
        a, b = _first_of_parts(a), _first_of_parts(b)
    a, b = a.add_suffix("_a"), b.add_suffix("_b")
    return _finish(
        edges.merge(a, on="content_a").merge(b, on="content_b"), swap=manifest_a is manifest_b
    )


def sort_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """Sort by kind (byte, near, mirror, turn), best score first, then by name."""
    rank = pairs["kind"].map({kind: at for at, kind in enumerate(KINDS)}).astype(int)
    order = pairs.assign(_rank=rank, _score=-pairs["score"])
    order = order.sort_values(["_rank", "_score", "image_id_a", "image_id_b"], kind="stable")
    return order.drop(columns=["_rank", "_score"]).reset_index(drop=True)


def _rows(manifest: pd.DataFrame, content: np.ndarray) -> pd.DataFrame:
    return manifest[["image_id", "split", "label"]].assign(content=content)


def _first_of_parts(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values("image_id").drop_duplicates(["content", "split"])


def _finish(pairs: pd.DataFrame, swap: bool = True) -> pd.DataFrame:
    """Bring to the table's columns; with `swap` the smaller image_id comes first, pairs once."""
    pairs = pairs.copy()
    if swap:
        turn = (pairs["image_id_a"] > pairs["image_id_b"]).to_numpy()
        for name in ("image_id", "split", "label"):
            a, b = pairs[f"{name}_a"].to_numpy(object), pairs[f"{name}_b"].to_numpy(object)
            pairs[f"{name}_a"], pairs[f"{name}_b"] = np.where(turn, b, a), np.where(turn, a, b)
        pairs = pairs.drop_duplicates(["image_id_a", "image_id_b"])
    test_a, test_b = pairs["split_a"].eq("test"), pairs["split_b"].eq("test")
    learned_a, learned_b = (pairs[f"split_{x}"].isin(("train", "val")) for x in "ab")
    pairs["straddles"] = (test_a & learned_b) | (test_b & learned_a)
    return sort_pairs(pairs)[list(COLUMNS)].astype(_TYPES)  # a table without rows has them too
