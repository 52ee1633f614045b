"""The flags of the commands: precision, workers, batch size; inputs that were made again."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline import open_features, open_masks
from tests.project import in_process
from tests.site import STORES, Site


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
