"""Features and labels of the images that the splits name, and the digests that date a fit."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import StoreError
from pipeline.training.grid import Cell

if TYPE_CHECKING:
    from os import PathLike

    from pipeline.stores import FeatureStore


@dataclass(frozen=True)
class ViewData:
    """One view of all images that any of its cells needs.

    Attributes:
        ids: image_id, sorted.
        X: float32 (n, d), row i for ids[i].
        y: int64 (n,).
        digests: bytes (n,), the SHA-256 of each row of X.
    """

    ids: np.ndarray
    X: np.ndarray
    y: np.ndarray
    digests: np.ndarray

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows of some ids, int64."""
        return np.searchsorted(self.ids, ids)


def check_features(store: FeatureStore, cells: list[Cell], path: str | PathLike) -> None:
    """Refuse to train when an image of a split has no features in a view that needs them.

    Raises:
        StoreError: counts by protocol, part and reason, and what to do.
    """
    asked = {cell.view for cell in cells}
    unknown = sorted(asked - set(store.views))
    if unknown:
        raise StoreError(
            f"has no view {', '.join(unknown)} (it has {', '.join(store.views)})",
            path=path,
            remedy="add it to encode.views and run: pipeline encode; or take it out of train.views",
        )
    table = store.table()
    failed = set(table.index[table["status"] == "failed"])
    known = set(table.index) - failed
    absent = {view: _absent(store, view, sorted(known)) for view in sorted(asked)}
    reasons: Counter[str] = Counter()
    examples: list[str] = []
    seen: set[tuple[str, str, str]] = set()
    for cell in cells:
        for part in ("train", "val", "test"):
            for image_id in getattr(cell, part):
                if image_id in known and image_id not in absent[cell.view]:
                    continue
                if (cell.protocol, cell.view, image_id) in seen:
                    continue
                seen.add((cell.protocol, cell.view, image_id))
                why = "are missing"
                if image_id in failed:
                    why = "failed in encode"
                elif image_id in known:
                    why = f"have no view {cell.view}"
                part_name = "test" if part == "test" else "train and validation"
                reasons[f"{cell.protocol}, {part_name}: {why}"] += 1
                if len(examples) < 3 and image_id not in examples:
                    examples.append(str(image_id))
    if reasons:
        counts = "; ".join(f"{n} image(s) {why}" for why, n in sorted(reasons.items()))
        raise StoreError(
            f"features are not complete: {counts}; for example {', '.join(examples)}",
            path=path,
            remedy="run: pipeline encode (it computes what is missing and retries what failed), "
            "or take these images out of the manifest",
        )


def _absent(store: FeatureStore, view: str, ids: list[str]) -> set[str]:
    if not ids:
        return set()
    lacking = np.isnan(store.image_features(view, ids)).any(axis=1)
    return {image_id for image_id, gone in zip(ids, lacking, strict=True) if gone}


def load_view(
    store: FeatureStore, view: str, cells: list[Cell], labels: dict[str, int]
) -> ViewData:
    """Read the features of one view for all images of the cells that use it."""
    ids = np.array(
        sorted({i for c in cells if c.view == view for i in (*c.train, *c.val, *c.test)}),
        dtype=object,
    )
    X = np.ascontiguousarray(store.image_features(view, list(ids)), dtype=np.float32)
    y = np.array([labels[i] for i in ids], dtype=np.int64)
    digests = np.array([hashlib.sha256(row.tobytes()).digest() for row in X], dtype="V32")
    return ViewData(ids, X, y, digests)


def fit_digest(data: ViewData, cell: Cell, decides: str) -> str:
    """Return the digest of all that decides a fit: train and validation rows, and `decides`."""
    digest = hashlib.sha256(decides.encode())
    for part in (cell.train, cell.val):
        rows = data.rows(part)
        digest.update(b"|" + str(len(rows)).encode())
        digest.update("\0".join(map(str, part)).encode())
        digest.update(data.digests[rows].tobytes())
        digest.update(data.y[rows].tobytes())
    return digest.hexdigest()


def run_digest(data: ViewData, cell: Cell, fit: str) -> str:
    """Return the digest of a fit and of the images it is tested on (not of their labels)."""
    digest = hashlib.sha256(fit.encode())
    digest.update("\0".join(map(str, cell.test)).encode())
    digest.update(data.digests[data.rows(cell.test)].tobytes())
    return digest.hexdigest()
