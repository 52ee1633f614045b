"""Features and labels of the images that the splits name."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import StoreError
from pipeline.manifest import class_names
from pipeline.store import FeatureStore, MaskStore, open_masks
from pipeline.store.layout import GOOD

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.paths import Paths


@dataclass(frozen=True)
class Features:
    """Features and labels of all images that some run names.

    Attributes:
        ids: image ids, sorted, (n,).
        y: class numbers, int64 (n,).
        X: features by view, each float32 (n, d); a row is NaN where an image has no such view.
        text: text features of all classes, float32 (C, d).
        classes: class names, sorted.
        sums: by view, the SHA-256 of each row of X, bytes (n,).
    """

    ids: np.ndarray
    y: np.ndarray
    X: dict[str, np.ndarray]
    text: np.ndarray
    classes: tuple[str, ...]
    sums: dict[str, np.ndarray]

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows of some image ids, int64."""
        return np.searchsorted(self.ids, ids).astype(np.int64)

    def digest(self, ids: np.ndarray, views: tuple[str, ...]) -> str:
        """Return a digest of some images: of their ids, classes and features of some views."""
        rows = self.rows(ids)
        digest = hashlib.sha256("\0".join(ids).encode() + self.y[rows].tobytes())
        for view in views:
            digest.update(self.sums[view][rows].tobytes())
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
    dataset: str,
    paths: Paths,
    store: FeatureStore,
    manifest: pd.DataFrame,
    needed: Mapping[str, set[str]],
) -> Features:
    """Read features, and refuse those that are not of today's images and masks.

    Args:
        dataset: its name.
        paths: of the project.
        store: the feature store.
        manifest: labels, and the SHA-256 of each image file as it is now.
        needed: view -> ids of the images that need it.

    Raises:
        StoreError: a view was not encoded; or images have no features in a view that they need,
            or features of other image bytes or of another mask. They are counted by reason.
    """
    ids = np.array(sorted(set().union(*needed.values())), dtype=object)
    table = store.table().reindex(ids)
    of = manifest.set_index("image_id").loc[ids]
    # A user may have the features alone; where there are masks too, they must agree.
    masks = paths.masks(dataset)
    other = encoded_with_other_masks(store, open_masks(masks)) if masks.is_dir() else set()
    reasons = {
        "not encoded": table["status"].isna(),
        "failed in encode": table["status"] == "failed",
        "of older image bytes": table["sha256"] != of["sha256"],
        "of other masks than segment has made since": table.index.isin(other),
    }
    unusable = np.select(list(reasons.values()), list(reasons), "")
    good = unusable == ""
    X, gaps = {}, {}
    for view, wanted in needed.items():
        X[view] = np.full((len(ids), store.dim), np.nan, dtype=np.float32)
        X[view][good] = store.image_features(view, ids[good])
        lacking = np.isnan(X[view]).any(axis=1) & table.index.isin(wanted)
        gaps |= {ids[k]: unusable[k] or f"without view {view}" for k in np.flatnonzero(lacking)}
    if gaps:
        counts = "; ".join(f"{n} {why}" for why, n in sorted(Counter(gaps.values()).items()))
        raise StoreError(
            f"features of {len(gaps)} image(s) cannot be used: {counts}; for example "
            f"{', '.join(sorted(gaps)[:3])}",
            path=store.path,
            remedy="run: pipeline encode (it computes what is missing or outdated and retries what "
            "failed), or remove these images from the manifest",
        )
    classes = tuple(class_names(manifest))
    return Features(
        ids,
        np.array([classes.index(label) for label in of["label"]], dtype=np.int64),
        X,
        np.ascontiguousarray(store.class_features(classes), dtype=np.float32),
        classes,
        {v: np.array([hashlib.sha256(r).digest() for r in x], dtype="V32") for v, x in X.items()},
    )
