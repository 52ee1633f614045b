"""Data that vanishes from a finished project: each command says so, or computes just its rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import open_features, open_masks
from tests.site import IMAGES, STORES, Site

LOST = "A lost or damaged shard is an error, or exactly its rows are computed again."


def lose_data(store: Path, array: str) -> None:
    """Delete the chunks of an array."""
    shutil.rmtree(store / array / "c")


def features(site: Site) -> dict[str, np.ndarray]:
    store = open_features(site.root / STORES["encode"])
    return {view: store.image_features(view, site.ids()) for view in store.views}


def masks(site: Site) -> dict[str, np.ndarray]:
    store = open_masks(site.root / STORES["segment"])
    return {image_id: store[image_id] for image_id in site.ids()}


@pytest.mark.promise(LOST)
def test_lost_features_stop_train_and_encode_computes_them_again(site: Site) -> None:
    before, trained = features(site), site.outputs("train")
    lose_data(site.root / STORES["encode"], "image_features")
    said = site.stage("train", "--force", code=2)
    assert "pipeline encode --dataset breast" in said
    assert site.outputs("train") == trained
    site.stage("encode")
    assert site.record("encode")["done"] == IMAGES
    for view, values in features(site).items():  # batches of another size round differently
        np.testing.assert_allclose(values, before[view], rtol=0, atol=1e-5)


@pytest.mark.promise(LOST)
def test_lost_masks_fail_their_images_in_encode_and_segment_computes_them_again(site: Site) -> None:
    before = masks(site)
    lose_data(site.root / STORES["segment"], "mask")
    kept = site.root / STORES["encode"]
    said = site.stage("encode", "--force", code=3)
    assert "pipeline segment --dataset breast" in said
    assert set(open_features(kept).table()["status"]) == {"ok"}  # a failed rebuild replaces nothing
    shutil.rmtree(kept)
    site.stage("encode", code=3)
    assert set(open_features(kept).table()["status"]) == {"failed"}  # no feature of an empty mask
    site.stage("segment")
    assert site.record("segment")["done"] == IMAGES
    assert all(np.array_equal(mask, before[i]) for i, mask in masks(site).items())
    site.stage("encode")
    assert site.record("encode")["done"] == IMAGES
