"""`evaluate` where seeds are more or fewer than folds, and where a fraction has many decimals."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline.evaluate import evaluate_dataset
from pipeline.learners.train import train_dataset
from pipeline.paths import Paths
from tests.learners.projects import read_tables, small_params
from tests.learners.test_train import make_project

LONG = 0.50005
"""Rounded to four decimals this is another number than as a float32."""


def evaluated(folder: Path, *, seeds: list[int], folds: int, fraction: float = 1.0) -> Paths:
    paths = make_project(folder)
    params = small_params(
        "linear-probe",
        train__views={"grouped": ["masked"]},
        train__seeds=seeds,
        splits__folds=folds,
        splits__fractions=[fraction],
    )
    train_dataset("toy", params, paths)
    evaluate_dataset("toy", params, paths)
    return paths


def pooled(paths: Paths) -> tuple[pd.Series, int]:
    """The pooled row of accuracy, and how many predictions its confusion matrix counts."""
    table = pd.read_parquet(paths.metrics_table("toy"))
    where = (table["protocol"] == "grouped-pooled") & (table["metric"] == "accuracy")
    (row,) = table[where].to_dict("records")
    cells = pd.read_csv(paths.plots("toy") / "confusion.csv")
    return row, int(cells.loc[cells["protocol"] == "grouped-pooled", "n"].sum())


def test_more_seeds_than_folds_pool_each_image_once_with_the_first_seed_that_tested_it(tmp_path):
    paths = evaluated(tmp_path, seeds=[0, 1, 2], folds=2)
    row, counted = pooled(paths)
    assert row["n_images"] == counted == 48 and row["note"] == ""
    table = read_tables(paths)[1].rename(columns={"learner": "head"})
    assert len(table) > 48
    first = table.sort_values("seed", kind="stable").drop_duplicates("image_id")
    hit = first["y_true"].astype(str) == first["y_pred"].astype(str)
    assert row["value"] == pytest.approx(hit.mean())


def test_fewer_seeds_than_folds_are_noted_with_the_images_that_no_seed_tests(tmp_path):
    paths = evaluated(tmp_path, seeds=[0, 2], folds=4)
    row, counted = pooled(paths)
    tested = read_tables(paths)[1].rename(columns={"learner": "head"})["image_id"].nunique()
    assert row["n_images"] == counted == tested < 48
    assert row["note"].startswith(f"{48 - tested} of 48 images lacking: no seed")


def test_the_predictions_of_a_fraction_of_five_decimals_are_found(tmp_path):
    paths = evaluated(tmp_path, seeds=[0, 1], folds=2, fraction=LONG)
    table = pd.read_parquet(paths.metrics_table("toy"))
    assert set(table["fraction"]) == {LONG} and table["value"].notna().any()
