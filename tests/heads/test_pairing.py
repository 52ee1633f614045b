"""Predictions and runs are of one training; the journal keeps every fit that waits for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.errors import PipelineError
from pipeline.evaluate import evaluate_dataset
from pipeline.paths import Paths
from pipeline.train import train_dataset
from pipeline.training.cell import Fit
from pipeline.training.journal import Journal
from tests.heads.projects import blobs, make_manifest, small_params, write_features
from tests.heads.test_train import CLASSES, digests, head_digests

PARAMS = small_params(train__heads=["linear-probe"], train__views={"official": ["masked"]})


def trained(folder: Path, *, moved: float) -> Paths:
    """Train on images of which those of the test part show something else where `moved`."""
    labels = [CLASSES[i % 3] for i in range(48)]
    manifest = make_manifest(labels, ["test" if i % 4 == 3 else "train" for i in range(48)])
    X, text = blobs(labels, CLASSES)
    X[manifest["split"] == "test"] += moved
    paths = Paths(folder)
    write_features(paths, "toy", manifest, {"masked": X}, text, CLASSES)
    train_dataset("toy", PARAMS, paths)
    return paths


def test_predictions_of_other_images_are_not_taken_for_those_of_the_runs(tmp_path):
    # As a kill leaves them between the two files, after which the images are put back.
    paths, other = trained(tmp_path / "a", moved=0), trained(tmp_path / "b", moved=3)
    whole = digests(paths)
    assert head_digests(paths) == head_digests(other)
    old, new = (pd.read_parquet(p.predictions("toy")) for p in (paths, other))
    assert len(old) == len(new) and (old["image_id"] == new["image_id"]).all()
    assert (old["p:cyst"] != new["p:cyst"]).any()
    shutil.copy(other.predictions("toy"), paths.predictions("toy"))
    with pytest.raises(PipelineError, match="run: pipeline train --dataset toy"):
        evaluate_dataset("toy", PARAMS, paths)
    record = train_dataset("toy", PARAMS, paths)
    assert (record.done, record.skipped) == (record.total, 0)
    assert digests(paths) == whole


def test_predictions_that_do_not_say_of_which_runs_they_are_are_computed_again(tmp_path):
    paths = trained(tmp_path, moved=0)
    whole = digests(paths)
    table = pq.read_table(paths.predictions("toy"))
    pq.write_table(table.replace_schema_metadata(None), paths.predictions("toy"))
    assert train_dataset("toy", PARAMS, paths).skipped == 0
    assert digests(paths) == whole


def test_a_journal_of_which_a_kill_left_some_files_writes_over_none_of_them(tmp_path):
    journal = Journal(tmp_path)
    for number in range(3):
        place = ("head", "official", "masked", 1.0, number)
        fit = Fit(*place, 1, 1, 1, "", str(number), proba=np.zeros((1, 2), np.float32))
        journal.append([fit])
        journal.flush()
        if number == 1:
            (tmp_path / "partial-0000.safetensors").unlink()
    assert [fit.digest for fit in journal.read()] == ["1", "2"]
    journal.clear()
    assert not list(tmp_path.iterdir())
