"""Whether two projects hold the same results."""

from __future__ import annotations

import numpy as np

from pipeline import open_features, open_masks
from pipeline.store import verify_store
from tests.site import STORES, Site


def rows(site: Site, stage: str) -> dict[str, list]:
    """Return image id -> what a store holds of it: [mask] or one vector for each view."""
    path = site.root / STORES[stage]
    assert verify_store(path).ok
    if stage == "segment":
        masks = open_masks(path)
        return {image_id: [masks[image_id]] for image_id in masks}
    features = open_features(path)
    ids = list(features)
    views = [features.image_features(view, ids) for view in features.views]
    return {image_id: list(vectors) for image_id, *vectors in zip(ids, *views, strict=True)}


def assert_same(stage: str, site: Site, other: Site) -> None:
    """Check that a stage wrote the same: bit for bit, features to 1e-5 (batches round them)."""
    if stage not in STORES:
        assert site.outputs(stage) == other.outputs(stage)
        return
    one, two = rows(site, stage), rows(other, stage)
    assert one.keys() == two.keys()
    for image_id, values in one.items():
        for a, b in zip(values, two[image_id], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 if stage == "encode" else 0)
