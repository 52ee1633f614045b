"""`train` with heads that fail, diverge or stop it: told by their rows, all else is kept."""

from __future__ import annotations

import os

import pandas as pd
import pytest

from pipeline.errors import StageFailed
from pipeline.evaluate import evaluate_dataset
from pipeline.heads import register
from pipeline.heads.zero_shot import ZeroShot
from pipeline.train import train_dataset
from tests.heads.odd import Odd
from tests.heads.projects import make_manifest, small_params
from tests.heads.test_train import CLASSES, digests, make_project, told


def test_a_failed_or_diverged_fit_is_a_row_and_the_rest_goes_on(tmp_path):
    paths = make_project(tmp_path)
    heads = ["odd-diverges", "odd-fails", "linear-probe"]
    params = small_params(train__heads=heads, train__views={"official": ["masked"]})
    record = train_dataset("toy", params, paths)
    runs = pd.read_parquet(paths.runs("toy"))
    status = runs.groupby(["head", "seed"])["status"].unique().map(list).to_dict()
    assert status["odd-diverges", 1] == ["diverged"] and status["odd-fails", 1] == ["failed"]
    assert {s[0] for k, s in status.items() if k[1] == 0 or k[0] == "linear-probe"} == {"ok"}
    assert set(runs.loc[runs["status"] == "failed", "error"]) == {"ValueError: cannot"}
    assert len(record.failed) == 4


def test_a_head_of_which_every_fit_failed_fails_the_run_and_the_others_are_kept(tmp_path):
    paths = make_project(tmp_path)
    heads = ["odd-fails", "linear-probe"]
    params = small_params(
        train__heads=heads, train__seeds=[1], train__views={"official": ["masked"]}
    )
    with pytest.raises(StageFailed, match=r"2 of 4 fits .* every one of odd-fails: .*cannot"):
        train_dataset("toy", params, paths)
    assert (told(paths)["status"], told(paths)["failed"], told(paths)["total"]) == ("failed", 2, 4)
    runs = pd.read_parquet(paths.runs("toy"))
    assert set(runs.loc[runs["head"] == "linear-probe", "status"]) == {"ok"}
    evaluate_dataset("toy", params, paths)


@register("odd-stops")
class Stops(Odd):
    """Ends the process's run at seed 1 for as long as the environment says so."""

    def fit(self, X, y, *, T, X_val, y_val):
        if self.seed == 1 and os.environ.get("STOP_TRAINING"):
            raise KeyboardInterrupt
        return ZeroShot.fit(self, T=T)


def test_a_stopped_run_loses_none_of_its_fits(tmp_path, monkeypatch):
    paths = make_project(tmp_path)
    params = small_params(
        train__heads=["linear-probe", "odd-stops"], train__views={"official": ["masked"]}
    )
    monkeypatch.setenv("STOP_TRAINING", "1")
    with pytest.raises(KeyboardInterrupt):
        train_dataset("toy", params, paths)
    assert not paths.runs("toy").exists() and told(paths)["status"] == "interrupted"
    monkeypatch.delenv("STOP_TRAINING")
    record = train_dataset("toy", params, paths)
    assert record.skipped > 0 and record.skipped + record.done == record.total
    assert not list(paths.heads("toy").glob("partial-*"))
    fresh = make_project(tmp_path / "fresh")
    train_dataset("toy", params, fresh)
    assert digests(fresh) == digests(paths)


@register("odd-counts")
class Counts(Odd):
    """Counts its fits, and cannot predict six images."""

    fits = 0

    def fit(self, X, y, *, T, X_val, y_val):
        Counts.fits += 1
        return ZeroShot.fit(self, T=T)

    def predict_proba(self, X):
        if len(X) == 6:
            raise ValueError("no six")
        return super().predict_proba(X)


def test_cells_of_the_same_training_images_share_one_fit_and_none_shares_a_failed_prediction(
    tmp_path,
):
    manifest = make_manifest([CLASSES[i % 3] for i in range(24)], ["train"] * 12 + ["test"] * 12)
    truth = manifest.assign(mask_path="masks/" + manifest["image_id"])
    paths = make_project(tmp_path / "all", manifest=truth)
    views = {"official": ["masked"], "ground_truth": ["masked"]}
    params = small_params(train__heads=["odd-counts"], train__views=views)
    Counts.fits = 0
    record = train_dataset("toy", params, paths)
    assert (Counts.fits, record.total) == (4, 8)
    probabilities = pd.read_parquet(paths.predictions("toy")).drop(columns="protocol")
    twice = probabilities.groupby(list(probabilities.columns)).size()
    assert set(twice) == {2}

    # Six test images have ground truth: the same images train, and their protocol cannot predict.
    truth.loc[18:, "mask_path"] = ""
    paths = make_project(tmp_path / "six", manifest=truth)
    Counts.fits = 0
    train_dataset("toy", params, paths)
    runs = pd.read_parquet(paths.runs("toy"))
    assert Counts.fits == 4
    assert runs.groupby("protocol")["status"].unique().map(list).to_dict() == {
        "ground_truth": ["failed"],
        "official": ["ok"],
    }
