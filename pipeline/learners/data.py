"""Features and labels of the images that the splits name, and the digests that date a fit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import StoreError
from pipeline.learners.grid import Cell
from pipeline.manifest import class_names
from pipeline.store.layout import GOOD

if TYPE_CHECKING:
    from os import PathLike

    import pandas as pd

    from pipeline.store import FeatureStore, MaskStore


@dataclass(frozen=True)
class Features:
    """Features and labels of all images that any cell names.

    Attributes:
        ids: image ids, sorted, (n,).
        y: class numbers, int64 (n,).
        X: features by view, each float32 (n, d); a row is NaN where an image has no such view.
        row_digests: by view, the SHA-256 of each row of X, bytes (n,).
        text: text features of all classes, float32 (C, d).
        classes: class names, sorted.
    """

    ids: np.ndarray
    y: np.ndarray
    X: dict[str, np.ndarray]
    row_digests: dict[str, np.ndarray]
    text: np.ndarray
    classes: tuple[str, ...]

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows of some image ids, int64."""
        return np.searchsorted(self.ids, ids).astype(np.int64)

    def fit_digest(self, cell: Cell, views: tuple[str, ...], decides: str) -> str:
        """Return the digest of all that decides a fit.

        Args:
            cell: its view, seed, training and validation images count.
            views: the views that are read.
            decides: digest of everything else (code, parameters, versions).
        """
        digest = hashlib.sha256(f"{decides} {cell.view} {cell.seed}".encode())
        for part in (cell.train, cell.val):
            rows = self.rows(part)
            digest.update(f"|{len(rows)}|".encode() + "\0".join(part).encode())
            digest.update(self.y[rows].tobytes())
            for view in views:
                digest.update(self.row_digests[view][rows].tobytes())
        return digest.hexdigest()

    def run_digest(self, cell: Cell, views: tuple[str, ...], fit_digest: str) -> str:
        """Return the digest of a fit together with its run and the features that it tests."""
        run = f"{fit_digest} {cell.protocol}/{cell.view}/{cell.fraction:g}/{cell.seed}"
        digest = hashlib.sha256(run.encode() + "\0".join(cell.test).encode())
        for view in views:
            digest.update(self.row_digests[view][self.rows(cell.test)].tobytes())
        return digest.hexdigest()


def encoded_with_other_masks(features: FeatureStore, masks: MaskStore) -> set[str]:
    """Return the ids of images whose features were made with another mask than the present one.

    Left out are images that have no mask now, because segment failed, and rows from before
    features knew their mask.
    """
    now, then = masks.table(), features.table()
    now = now.loc[now["status"].isin(GOOD), "crc"]
    then = then.loc[then["status"].isin(GOOD) & (then["mask_crc"] >= 0), "mask_crc"]
    both = then.index.intersection(now.index)
    return set(both[(then[both] != now[both]).to_numpy()])


def read_features(
    store: FeatureStore,
    manifest: pd.DataFrame,
    cells: list[tuple[Cell, tuple[str, ...]]],
    path: str | PathLike,
    masks: MaskStore | None = None,
) -> Features:
    """Read what the cells need.

    Args:
        store: the feature store.
        manifest: labels, and the SHA-256 of each image file as it is now.
        cells: each cell with the stored views that it reads.
        path: path of the store, for messages.
        masks: the mask store, if there is one.

    Raises:
        StoreError: a view was not encoded, or an image of a split has no features in a view that
            needs them, or features of other image bytes or of another mask. The message counts
            them by protocol, part and reason.
    """
    asked = sorted({view for _, views in cells for view in views})
    unknown = [view for view in asked if view not in store.views]
    if unknown:
        raise StoreError(
            f"has no view {', '.join(unknown)} (it has {', '.join(store.views)})",
            path=path,
            remedy="add it to encode.views and run: pipeline encode; or remove it from train.views",
        )
    table = store.table()
    failed = set(table.index[table["status"] == "failed"])
    encoded = table["sha256"].to_dict()
    files = dict(zip(manifest["image_id"], manifest["sha256"], strict=True))
    stale = {i for i, now in files.items() if encoded.get(i, now) != now} - failed
    other = set() if masks is None else encoded_with_other_masks(store, masks) - failed - stale
    known = set(table.index) - failed - stale - other

    wanted = {i for cell, _ in cells for part in (cell.train, cell.val, cell.test) for i in part}
    ids = np.array(sorted(wanted & known), dtype=object)
    X = {view: _read_view(store, view, ids) for view in asked}
    complete = {view: set(ids[~np.isnan(x).any(axis=1)]) for view, x in X.items()}
    reasons = {
        "failed in encode": failed,
        "are of older image bytes": stale,
        "are of other masks than segment has made since": other,
    }
    _refuse_gaps(cells, reasons, known, complete, path)

    classes = tuple(class_names(manifest))
    label = dict(zip(manifest["image_id"], manifest["label"], strict=True))
    return Features(
        ids,
        np.array([classes.index(label[i]) for i in ids], dtype=np.int64),
        X,
        {v: np.array([hashlib.sha256(r).digest() for r in x], dtype="V32") for v, x in X.items()},
        np.ascontiguousarray(store.class_features(classes), dtype=np.float32),
        classes,
    )


def _read_view(store: FeatureStore, view: str, ids: np.ndarray) -> np.ndarray:
    X = store.image_features(view, list(ids)) if len(ids) else np.zeros((0, store.dim))
    return np.ascontiguousarray(X, dtype=np.float32)


def _refuse_gaps(
    cells: list[tuple[Cell, tuple[str, ...]]],
    reasons: dict[str, set[str]],
    known: set[str],
    complete: dict[str, set[str]],
    path: str | PathLike,
) -> None:
    """Raise StoreError if a cell names an image without usable features.

    Args:
        cells: each cell with the views that it reads.
        reasons: images whose features cannot be used, by reason.
        known: the other images of the store.
        complete: images that have a view, by view.
    """
    gaps: dict[str, set[str]] = {}
    for cell, views in cells:
        parts = (("train and validation", (*cell.train, *cell.val)), ("test", cell.test))
        for name, ids in parts:
            for view in views:
                for image_id in set(ids) - complete[view]:
                    absent = f"have no view {view}" if image_id in known else "are missing"
                    why = next((why for why, bad in reasons.items() if image_id in bad), absent)
                    gaps.setdefault(f"{cell.protocol}, {name}: {why}", set()).add(image_id)
    if not gaps:
        return
    counts = "; ".join(f"{len(ids)} image(s) {why}" for why, ids in sorted(gaps.items()))
    examples = sorted(set().union(*gaps.values()))[:3]
    raise StoreError(
        f"features are not complete: {counts}; for example {', '.join(examples)}",
        path=path,
        remedy="run: pipeline encode (it computes what is missing or outdated and retries what "
        "failed), or remove these images from the manifest",
    )
