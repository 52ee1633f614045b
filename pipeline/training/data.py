"""Features and labels of the images that the splits name, and the digests that date a fit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import StoreError
from pipeline.store.layout import GOOD
from pipeline.training.grid import Cell

if TYPE_CHECKING:
    from os import PathLike

    from pipeline.store import FeatureStore, MaskStore


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


def of_other_masks(features: FeatureStore, masks: MaskStore) -> set[str]:
    """Return the ids of good rows that were encoded with another mask than there is now.

    Images that have no mask now, since segment failed, are not among them; nor are rows of a store
    of an earlier version, which does not know its masks.
    """
    now, then = masks.table(), features.table()
    now = now.loc[now["status"].isin(GOOD), "crc"]
    then = then.loc[then["status"].isin(GOOD) & (then["mask_crc"] >= 0), "mask_crc"]
    both = then.index.intersection(now.index)
    return set(both[(then[both] != now[both]).to_numpy()])


def read_views(
    store: FeatureStore,
    cells: list[Cell],
    labels: dict[str, int],
    hashes: dict[str, str],
    path: str | PathLike,
    masks: MaskStore | None = None,
) -> dict[str, ViewData]:
    """Read what the cells need, each view once.

    Args:
        store: the features.
        cells: what is to be trained.
        labels: image_id -> class number.
        hashes: image_id -> the SHA-256 of the file that the manifest states.
        path: of the store, for messages.
        masks: of the dataset; None where there are none.

    Raises:
        StoreError: a view was not encoded, or an image of a split has no features in a view that
            needs them, or those of other bytes or another mask: counts by protocol, part and
            reason, and what to do.
    """
    asked = sorted({cell.view for cell in cells})
    unknown = [view for view in asked if view not in store.views]
    if unknown:
        raise StoreError(
            f"has no view {', '.join(unknown)} (it has {', '.join(store.views)})",
            path=path,
            remedy="add it to encode.views and run: pipeline encode; or take it out of train.views",
        )
    table = store.table()
    failed = set(table.index[table["status"] == "failed"])
    encoded = table["sha256"].to_dict()
    stale = {i for i, now in hashes.items() if encoded.get(i, now) != now} - failed
    other = set() if masks is None else of_other_masks(store, masks) - failed - stale
    known = set(table.index) - failed - stale - other
    views: dict[str, ViewData] = {}
    complete: dict[str, set[str]] = {}
    for view in asked:
        wanted = {i for c in cells if c.view == view for i in (*c.train, *c.val, *c.test)}
        ids = np.array(sorted(wanted & known), dtype=object)
        X = store.image_features(view, list(ids)) if len(ids) else np.zeros((0, store.dim))
        X = np.ascontiguousarray(X, dtype=np.float32)
        complete[view] = set(ids[~np.isnan(X).any(axis=1)])
        y = np.array([labels[i] for i in ids], dtype=np.int64)
        digests = np.array([hashlib.sha256(row.tobytes()).digest() for row in X], dtype="V32")
        views[view] = ViewData(ids, X, y, digests)
    reasons = {"failed in encode": failed, "are of older image bytes": stale}
    reasons["are of other masks than segment has made since"] = other
    _refuse_gaps(cells, reasons, known, complete, path)
    return views


def _refuse_gaps(
    cells: list[Cell],
    reasons: dict[str, set[str]],
    known: set[str],
    complete: dict[str, set[str]],
    path: str | PathLike,
) -> None:
    """Raise StoreError when a cell names an image that its view lacks; each counts once.

    Args:
        reasons: images whose features are of no use, by why.
        known: the others that the store has; `complete`: those that have a view, by view.
    """
    gaps: dict[str, set[str]] = {}
    for cell in cells:
        for part, name in (
            (cell.train, "train and validation"),
            (cell.val, "train and validation"),
            (cell.test, "test"),
        ):
            for image_id in set(part) - complete[cell.view]:
                absent = f"have no view {cell.view}" if image_id in known else "are missing"
                why = next((why for why, ids in reasons.items() if image_id in ids), absent)
                gaps.setdefault(f"{cell.protocol}, {name}: {why}", set()).add(image_id)
    if not gaps:
        return
    counts = "; ".join(f"{len(ids)} image(s) {why}" for why, ids in sorted(gaps.items()))
    examples = sorted(set().union(*gaps.values()))[:3]
    raise StoreError(
        f"features are not complete: {counts}; for example {', '.join(examples)}",
        path=path,
        remedy="run: pipeline encode (it computes what is missing or older and retries what "
        "failed), or take these images out of the manifest",
    )


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
