"""Learners that fail, diverge or stop the run: their rows say so, all else is kept."""

from __future__ import annotations

import os
from typing import ClassVar

import numpy as np
import pytest

from pipeline.errors import StageFailed
from pipeline.evaluate import evaluate_dataset
from pipeline.learners import register
from tests.learners.faulty import Faulty
from tests.learners.projects import make_manifest, read_tables, small_params
from tests.learners.test_train import (
    CLASSES,
    MASKED,
    digests,
    last_record,
    make_project,
    train,
)

OTHERS = "A learner that fails or diverges is reported in its own rows; the others go on."


@pytest.mark.promise(OTHERS)
def test_a_failed_or_diverged_fit_is_a_row_and_the_rest_goes_on(tmp_path):
    paths = make_project(tmp_path)
    names = ["faulty-diverges", "faulty-fails", "linear-probe"]
    counts = train(paths, small_params(*names, train__views=MASKED))
    runs = read_tables(paths)[0]
    status = runs.groupby(["learner", "seed"])["status"].unique().map(list).to_dict()
    assert status["faulty-diverges", 1] == ["diverged"] and status["faulty-fails", 1] == ["failed"]
    assert {s[0] for k, s in status.items() if k[1] == 0 or k[0] == "linear-probe"} == {"ok"}
    assert set(runs.loc[runs["status"] == "failed", "error"]) == {"ValueError: cannot"}
    assert counts["failed"] == 4
    assert set(last_record(paths, "faulty-fails")["failures"].values()) == {
        "failed: ValueError: cannot"
    }


@pytest.mark.promise(OTHERS)
def test_a_learner_of_which_every_fit_failed_fails_the_run_and_the_others_are_kept(tmp_path):
    paths = make_project(tmp_path)
    params = small_params("faulty-fails", "linear-probe", train__seeds=[1], train__views=MASKED)
    with pytest.raises(StageFailed, match=r"all 2 fits of faulty-fails failed: .*cannot") as caught:
        train(paths, params)
    assert caught.value.exit_code == 3
    told = last_record(paths, "faulty-fails")
    assert (told["status"], told["failed"], told["total"]) == ("failed", 2, 2)
    assert last_record(paths, "linear-probe")["status"] == "ok"
    assert set(read_tables(paths)[0].query("learner == 'linear-probe'")["status"]) == {"ok"}
    evaluate_dataset("toy", params, paths)


@register("faulty-stops")
class Stops(Faulty):
    """Interrupts the run at seed 1 for as long as the environment says so."""

    def fit(self, train, val):
        if self.seed == 1 and os.environ.get("STOP_TRAINING"):
            raise KeyboardInterrupt
        return super().fit(train, val)


@pytest.mark.promise("A stopped or killed training loses no finished fit, and repeats none.")
def test_a_stopped_run_loses_none_of_its_fits(tmp_path, monkeypatch):
    paths = make_project(tmp_path / "stopped")
    params = small_params("linear-probe", "faulty-stops", train__views=MASKED)
    monkeypatch.setenv("STOP_TRAINING", "1")
    with pytest.raises(KeyboardInterrupt):
        train(paths, params)
    assert last_record(paths, "faulty-stops")["status"] == "interrupted"
    assert any("partial" in name for name in digests(paths))
    monkeypatch.delenv("STOP_TRAINING")
    assert train(paths, params) == {"done": 3, "skipped": 5, "failed": 0, "total": 8}
    assert not any("partial" in name for name in digests(paths))
    fresh = make_project(tmp_path / "fresh")
    train(fresh, params)
    assert digests(fresh) == digests(paths)


@register("faulty-counts")
class Counts(Faulty):
    """Counts its fits, and cannot predict six images."""

    fits = 0

    def fit(self, train, val):
        Counts.fits += 1
        return super().fit(train, val)

    def predict_proba(self, samples):
        if len(samples) == 6:
            raise ValueError("no six")
        return super().predict_proba(samples)


def test_runs_with_the_same_training_images_share_a_fit_but_not_a_failed_prediction(tmp_path):
    manifest = make_manifest([CLASSES[i % 3] for i in range(24)], ["train"] * 12 + ["test"] * 12)
    truth = manifest.assign(mask_path="masks/" + manifest["image_id"])
    views = {"official": ["masked"], "ground_truth": ["masked"]}
    params = small_params("faulty-counts", train__views=views)
    paths = make_project(tmp_path / "all", manifest=truth)
    Counts.fits = 0
    assert (train(paths, params)["total"], Counts.fits) == (8, 4)
    probabilities = read_tables(paths)[1].drop(columns="protocol").astype({"image_id": str})
    assert set(probabilities.groupby(["fraction", "seed", "image_id"]).size()) == {2}
    assert len(probabilities.drop_duplicates()) == len(probabilities) / 2

    # Six test images have ground truth: the same images train, and one protocol cannot predict.
    truth.loc[18:, "mask_path"] = ""
    paths = make_project(tmp_path / "six", manifest=truth)
    Counts.fits = 0
    train(paths, params)
    assert Counts.fits == 4
    statuses = read_tables(paths)[0].groupby("protocol")["status"].unique().map(list).to_dict()
    assert statuses == {"ground_truth": ["failed"], "official": ["ok"]}


@register("faulty-leaves")
class Leaves(Faulty):
    """Fits well, and at seed 1 leaves something that no file can hold."""

    what: ClassVar = ("chosen", None)

    def fit(self, train, val):
        super(Faulty, self).fit(train, val)
        self.val_score = np.float32(0.5)
        name, value = self.what
        if self.seed == 1 and name == "error":
            raise value
        if self.seed == 1:
            setattr(self, name, value)
        return self


@pytest.mark.promise(OTHERS)
@pytest.mark.parametrize(
    "what",
    [
        ("chosen", {"C": float("inf")}),
        ("val_score", "good"),
        ("weight_", None),
        ("weight_", np.array(["text"])),
        ("error", ValueError("\ud800")),
    ],
    ids=lambda what: f"{what[0]} {str(what[1])!a}",
)
def test_what_no_file_can_hold_is_a_failed_fit_and_stops_no_other(tmp_path, monkeypatch, what):
    monkeypatch.setattr(Leaves, "what", what)
    paths = make_project(tmp_path)
    params = small_params(
        "zero-shot", "faulty-leaves", train__views=MASKED, splits__fractions=[1.0]
    )
    assert train(paths, params)["failed"] == 1
    runs = read_tables(paths)[0].query("learner == 'faulty-leaves'").set_index("seed")
    assert runs["status"].to_dict() == {0: "ok", 1: "failed"}
    assert (runs.loc[0, "val_score"], runs.loc[1, "chosen"]) == (0.5, "{}")
    again = train(paths, params)
    assert (again["skipped"], again["total"]) == (2, 3)
