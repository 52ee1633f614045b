"""What a head of `train` is made of: the training rows, and what the validation part chooses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipeline.heads import load_head
from pipeline.heads.registry import make_head
from pipeline.splits import load_split_plan
from pipeline.store import open_features
from pipeline.train import train_dataset
from tests.heads.projects import make_manifest, small_params
from tests.heads.test_train import CLASSES, digests, make_project

PLACE = {"protocol": "official", "view": "masked", "fraction": 1.0, "seed": 0}


@pytest.mark.parametrize("name", ("linear-probe", "medfocus", "medfocus-probe"))
def test_validation_features_change_no_head_where_nothing_is_to_choose(tmp_path, name):
    params = small_params(  # one candidate for C and one epoch
        train__heads=[name],
        train__seeds=[0],
        train__views={"official": ["masked"]},
        train__c_steps=1,
        train__epochs=1,
        splits__fractions=[1.0],
    )
    manifest = make_manifest(
        [CLASSES[i % 3] for i in range(48)], ["train", "val", "train", "test"] * 12
    )
    other = manifest.copy()  # a project shows of an image what its id says: here another class
    val = other["split"] == "val"
    turn = dict(zip(CLASSES, CLASSES[1:] + CLASSES[:1], strict=True))
    other.loc[val, "image_id"] = [
        f"{turn[i.split('/')[0]]}/v{i[-8:]}" for i in other["image_id"][val]
    ]
    heads, scores = [], []
    for folder, table in (("a", manifest), ("b", other)):
        paths = make_project(tmp_path / folder, manifest=table)
        train_dataset("toy", params, paths)
        heads.append(load_head(paths.heads("toy"), name, **PLACE)[0].to_tensors())
        scores.append(pd.read_parquet(paths.runs("toy"))["val_score"].item())
    for tensor, values in heads[0].items():
        np.testing.assert_array_equal(heads[1][tensor], values)
    assert scores[0] != scores[1]


def test_a_saved_head_is_fitted_on_the_training_rows_of_its_split_and_no_others(tmp_path):
    paths = make_project(tmp_path)
    params = small_params(train__heads=["linear-probe"], train__views={"official": ["masked"]})
    train_dataset("toy", params, paths)
    split = load_split_plan("toy", params, paths).get("official", 1, 0.2)
    store = open_features(paths.features("toy"))
    X, y = store.xy("masked", ids=split.train, classes=CLASSES)
    X_val, y_val = store.xy("masked", ids=split.val, classes=CLASSES)
    own = make_head("linear-probe", params.train, seed=1)
    own.fit(X, y, T=store.class_features(CLASSES), X_val=X_val, y_val=y_val)
    place = {**PLACE, "fraction": 0.2, "seed": 1}
    saved, _ = load_head(paths.heads("toy"), "linear-probe", **place)
    for tensor, values in own.to_tensors().items():
        np.testing.assert_allclose(saved.to_tensors()[tensor], values, rtol=1e-4, atol=1e-6)


def test_a_run_that_takes_half_of_its_fits_from_another_writes_the_bits_of_a_fresh_one(tmp_path):
    params, other = (
        small_params(
            train__heads=["linear-probe", "medfocus"],
            train__seeds=[0, 1],
            train__views={"official": ["masked"]},
            train__epochs=1,
            train__c_steps=1,
            train__lambda=weight,
        )
        for weight in (0.5, 0.25)
    )
    paths, fresh = make_project(tmp_path / "a"), make_project(tmp_path / "b")
    train_dataset("toy", other, paths)
    assert train_dataset("toy", params, paths).skipped == 4
    train_dataset("toy", params, fresh)
    assert digests(paths) == digests(fresh)
