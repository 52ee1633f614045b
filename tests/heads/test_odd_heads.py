"""`train` with heads that fail, diverge or stop it: told by their rows, all else is kept."""

from __future__ import annotations

import os
from typing import ClassVar

import numpy as np
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


@register("odd-leaves")
class Leaves(Odd):
    """Fits well, and at seed 1 leaves what no file holds."""

    what: ClassVar = ("config", None)

    def fit(self, X, y, *, T, X_val, y_val):
        super(Odd, self).fit(X, y, T=T)
        self.chosen, self.val_score = {}, np.float32(0.5)
        if self.seed == 1 and self.what[0] in ("chosen", "val_score"):
            setattr(self, *self.what)
        if self.seed == 1 and self.what[0] == "error":
            raise self.what[1]
        return self

    def to_config(self):
        odd = self.seed == 1 and self.what[0] == "config"
        return self.what[1] if odd else super().to_config()

    def to_tensors(self):
        odd = self.seed == 1 and self.what[0] == "tensors"
        return self.what[1] if odd else super().to_tensors()


@pytest.mark.parametrize(
    "what",
    [
        ("chosen", {"C": np.float32(1)}),
        ("chosen", {"C": float("inf")}),
        ("val_score", "good"),
        ("config", {"scale": np.float32(1)}),
        ("config", {"scale": float("nan")}),
        ("config", {"name": "\ud800"}),
        ("config", {"a": 1, 2: 3}),
        ("tensors", None),
        ("tensors", {"w": None}),
        ("tensors", {"w": np.array(["text"])}),
        ("tensors", {"w": np.zeros(2, np.complex128)}),
        ("tensors", {"w": [[1.0], [1.0, 2.0]]}),
        ("tensors", {1: np.zeros(2)}),
        ("error", ValueError("\ud800")),
    ],
    ids=lambda what: f"{what[0]} {str(what[1])!a}",
)
def test_what_no_file_holds_is_a_failed_fit_of_its_head_and_of_no_other(
    tmp_path, monkeypatch, what
):
    monkeypatch.setattr(Leaves, "what", what)
    paths = make_project(tmp_path)
    heads = ["zero-shot", "odd-leaves"]
    params = small_params(
        train__heads=heads, train__views={"official": ["masked"]}, splits__fractions=[1.0]
    )
    assert len(train_dataset("toy", params, paths).failed) == 1
    runs = pd.read_parquet(paths.runs("toy")).set_index(["head", "seed"])
    assert runs["status"].to_dict() == {
        ("zero-shot", 0): "ok",
        ("odd-leaves", 0): "ok",
        ("odd-leaves", 1): "failed",
    }
    assert runs.loc[("odd-leaves", 0), "val_score"] == 0.5
    assert runs.loc[("odd-leaves", 1), "chosen"] == "{}"
    again = train_dataset("toy", params, paths)
    assert (again.skipped, again.total) == (2, 3)
