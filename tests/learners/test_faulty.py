"""Learners that fail, diverge or stop the run: their rows say so, all else is kept."""

from __future__ import annotations

import pytest

from pipeline.errors import StageFailed
from pipeline.evaluate import evaluate_dataset
from tests.learners.faulty import Six
from tests.learners.projects import make_manifest, read_tables, small_params
from tests.learners.test_train import CLASSES, MASKED, last_record, make_project, train

OTHERS = "A learner that fails or diverges is reported in its own rows; the others go on."


@pytest.mark.promise(OTHERS)
def test_a_failed_or_diverged_fit_is_a_row_and_the_rest_goes_on(tmp_path):
    paths = make_project(tmp_path)
    names = ["faulty-diverges", "faulty-fails", "faulty-unsaved", "linear-probe"]
    counts = train(paths, small_params(*names, train__views=MASKED))
    runs = read_tables(paths)[0]
    status = runs.groupby(["learner", "seed"])["status"].unique().map(list).to_dict()
    assert status["faulty-diverges", 1] == ["diverged"]
    assert status["faulty-fails", 1] == status["faulty-unsaved", 1] == ["failed"]
    assert {s[0] for k, s in status.items() if k[1] == 0 or k[0] == "linear-probe"} == {"ok"}
    assert "ValueError: cannot" in set(runs["error"])
    assert counts["failed"] == 6
    told = last_record(paths, "faulty-fails")["failures"]
    assert set(told.values()) == {"failed: ValueError: cannot"}


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


def test_runs_with_the_same_training_images_share_a_fit_but_not_a_failed_prediction(tmp_path):
    manifest = make_manifest([CLASSES[i % 3] for i in range(24)], ["train"] * 12 + ["test"] * 12)
    # Six test images have ground truth: the same images train, and one protocol cannot predict.
    manifest["mask_path"] = ["m.png"] * 18 + [""] * 6
    views = {"official": ["masked"], "ground_truth": ["masked"]}
    paths = make_project(tmp_path, manifest=manifest)
    Six.fits = 0
    assert train(paths, small_params("faulty-six", train__views=views))["total"] == 8
    assert Six.fits == 4
    statuses = read_tables(paths)[0].groupby("protocol")["status"].unique().map(list).to_dict()
    assert statuses == {"ground_truth": ["failed"], "official": ["ok"]}
