"""Data that vanishes from a finished project: each command says so, or computes just its rows."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from pipeline import open_features
from tests.faults.conftest import rows
from tests.project import in_process
from tests.site import IMAGES, STORES, Site

LOST = "A lost or damaged shard is an error, or exactly its rows are computed again."
VERIFY = "`pipeline verify` walks a store and names what is lost."


def lose_data(site: Site, stage: str, array: str) -> None:
    """Delete the chunks of an array; `verify`, which found no fault before, names all rows."""
    code, said = in_process(site.root, "verify", STORES[stage])
    assert code == 0 and f"ok: {IMAGES} rows, 0 lost" in said
    shutil.rmtree(site.root / STORES[stage] / array / "c")
    code, said = in_process(site.root, "verify", STORES[stage])
    assert code == 3 and all(image_id in said for image_id in site.ids())


@pytest.mark.promise(LOST)
@pytest.mark.promise(VERIFY)
def test_lost_features_stop_train_and_encode_computes_them_again(site: Site) -> None:
    before, trained = rows(site, "encode"), site.outputs("train")
    lose_data(site, "encode", "image_features")
    said = site.stage("train", "--force", code=2)
    assert "pipeline encode --dataset breast" in said
    assert site.outputs("train") == trained
    site.stage("encode")
    assert site.record("encode")["done"] == IMAGES
    for i, vectors in rows(site, "encode").items():  # batches of another size round differently
        np.testing.assert_allclose(vectors, before[i], rtol=0, atol=1e-5)


@pytest.mark.promise(LOST)
@pytest.mark.promise(VERIFY)
def test_lost_masks_fail_their_images_in_encode_and_segment_computes_them_again(site: Site) -> None:
    before = rows(site, "segment")
    lose_data(site, "segment", "mask")
    kept = site.root / STORES["encode"]
    said = site.stage("encode", "--force", code=3)
    assert "pipeline segment --dataset breast" in said
    assert set(open_features(kept).table()["status"]) == {"ok"}  # a failed rebuild replaces nothing
    shutil.rmtree(kept)
    site.stage("encode", code=3)
    assert set(open_features(kept).table()["status"]) == {"failed"}  # no feature of an empty mask
    site.stage("segment")
    assert site.record("segment")["done"] == IMAGES
    for i, masks in rows(site, "segment").items():
        np.testing.assert_array_equal(masks, before[i])
    site.stage("encode")
    assert site.record("encode")["done"] == IMAGES
