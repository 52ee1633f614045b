"""`train` does with copies across train and test what splits.on_leak says."""

from __future__ import annotations

import pandas as pd
import pytest

from pipeline.manifest import read_manifest
from pipeline.train import train_dataset
from tests.heads.projects import small_params
from tests.heads.test_train import make_project


@pytest.fixture
def leaky(tmp_path):
    """A project whose audit knows three test images to be copies of training images."""
    paths = make_project(tmp_path)
    manifest = read_manifest(paths.manifest("toy"))
    groups = manifest.set_index("image_id")["label"] * 0 + manifest["image_id"].to_numpy()
    copies = {}
    for name, rows in manifest.groupby("label"):
        train = rows.loc[rows["split"] == "train", "image_id"].iloc[0]
        test = rows.loc[rows["split"] == "test", "image_id"].iloc[0]
        copies[test] = train
        groups[test] = groups[train] = f"copies of {name}"
    audit = manifest[["image_id", "sha256", "split"]].assign(copy_group=groups.to_numpy())
    audit["copy_in_train"] = audit["copy_in_train_any"] = audit["image_id"].isin(copies)
    audit.to_parquet(paths.audit("toy"), index=False)
    return paths, copies


@pytest.mark.parametrize(
    ("on_leak", "trained", "tested"),
    [("warn", 36, 12), ("drop-test", 36, 9), ("drop-train", 33, 12)],
)
def test_train_leaves_out_the_copies_of_the_side_that_on_leak_names(
    leaky, on_leak, trained, tested
):
    paths, copies = leaky
    params = small_params(splits__on_leak=on_leak, train__heads=["linear-probe"])
    train_dataset("toy", params, paths, jobs=1)
    runs = pd.read_parquet(paths.runs("toy")).query("protocol == 'official' and fraction == 1")
    assert set(runs["n_train"] + runs["n_val"]) == {trained}
    table = pd.read_parquet(paths.predictions("toy"))
    ids = set(table.loc[table["protocol"] == "official", "image_id"])
    assert len(ids) == tested
    assert (set(copies) <= ids) == (on_leak != "drop-test")


def test_train_never_tests_a_copy_of_what_it_learned_after_regroup(leaky):
    paths, copies = leaky
    params = small_params(splits__on_leak="regroup", train__heads=["linear-probe"])
    train_dataset("toy", params, paths, jobs=1)
    table = pd.read_parquet(paths.predictions("toy"))
    ids = set(table.loc[table["protocol"] == "official", "image_id"])
    for test, train in copies.items():
        assert (test in ids) == (train in ids)
