"""Stores in another precision, of inputs that were made again since, and whose data vanish: each
command says so, or computes just these rows."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from pipeline import open_features, open_masks
from tests.faults.conftest import rows
from tests.project import in_process
from tests.site import IMAGES, STORES, Site


def refuses(site: Site, *arguments: str, words: tuple[str, ...]) -> None:
    """Check that a command prints one error with these words and exits with 2."""
    code, out = in_process(site.root, *arguments)
    assert code == 2 and out.count("error: ") == 1, out
    assert all(word in out for word in words), out


@pytest.mark.promise("A store in one precision is never continued in another.")
def test_bf16_is_near_fp32_and_never_continues_its_store(half: Site, fresh: Site) -> None:
    given = ("--precision", "bf16", "--workers", "3", "--batch-size", "1")
    for stage in STORES:
        fresh.stage(stage, *fresh.only(half.ids()[1::-1]), *given)
        parameters = fresh.record(stage)["parameters"]
        assert (parameters["workers"], parameters["batch_size"]) == (3, 1)
        fp32 = (stage, "-d", "breast", "--precision", "fp32")
        refuses(fresh, *fp32, words=("model.precision", "bf16"))
    one, two = (open_masks(site.root / STORES["segment"]) for site in (half, fresh))
    assert len(list(two)) == 2
    assert np.median([(one[i] & two[i]).sum() / (one[i] | two[i]).sum() for i in two]) > 0.8
    one, two = (open_features(site.root / STORES["encode"]) for site in (half, fresh))
    assert two.identity["model"]["precision"] == "bf16"
    for view in one.views:
        a, b = (store.image_features(view, list(two)) for store in (one, two))
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert not np.array_equal(a, b) and (view != "whole" or (cosine > 0.99).all())


@pytest.mark.promise(
    "Masks, features, fits, predictions and the leak audit belong to each other, also when the "
    "stages are run by hand: a stage refuses inputs that were made again since."
)
def test_each_stage_refuses_what_an_earlier_stage_has_made_again_since(site: Site) -> None:
    image = f"data/breast/{site.rows()[0]['path']}"
    predict = ("predict", "-d", "breast", image)
    site.params(encode__fill="mean", encode__tokens=True)
    site.stage("encode", "--force")
    refuses(site, *predict, words=("cache/breast/runs/", "fill"))
    refuses(site, "evaluate", "-d", "breast", words=("features", "pipeline train"))
    site.params(segment__prompt="full")
    site.stage("segment", "--force")
    refuses(site, "train", "-d", "breast", words=("masks", "pipeline encode"))


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
