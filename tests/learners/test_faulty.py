"""Learners that fail or diverge, and training that is killed: rows say so, all else is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from pipeline.errors import StageFailed, StoreError
from pipeline.evaluate import evaluate_dataset
from pipeline.learners.train import train_dataset
from pipeline.paths import Paths
from tests import warm
from tests.learners.faulty import Six
from tests.learners.projects import make_manifest, read_tables, small_params
from tests.learners.test_train import CLASSES, MASKED, digests, last_record, make_project, train

OTHERS = "A learner that fails or diverges is reported in its own rows; the others go on."
WAITING = small_params("linear-probe", "faulty-waits", train__views=MASKED, splits__fractions=[1.0])
TRAIN = """
from pipeline.learners.train import train_dataset
from pipeline.paths import Paths
from tests.learners.test_faulty import WAITING
train_dataset("toy", WAITING, Paths())
"""


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


@pytest.fixture
def waiting(tmp_path) -> Iterator[tuple[Paths, warm.Running]]:
    """A project, and a process that has fitted three of its four fits and waits in the last."""
    paths, sign = make_project(tmp_path / "project"), tmp_path / "waits"
    variables = {**os.environ, "WAIT_TRAINING": str(sign)}
    running = warm.start("", (), paths.root, variables, tmp_path / "log", first=TRAIN)
    assert running.until(sign.exists), running.output
    yield paths, running
    running.process.kill()


@pytest.mark.promise("A stopped or killed training loses no finished fit, and repeats none.")
@pytest.mark.promise("A second train of the same learner is refused in one line.")
def test_a_second_train_is_refused_and_after_a_kill_the_next_one_goes_on(waiting, tmp_path):
    paths, running = waiting
    lock = paths.run("toy", "faulty-waits").with_suffix(".lock")
    with pytest.raises(StoreError, match=f"by process {running.pid} .* wait for it") as caught:
        train_dataset("toy", WAITING, paths, ["faulty-waits"])
    assert "\n" not in str(caught.value) and str(lock) in str(caught.value)
    assert last_record(paths, "faulty-waits")["status"] == "running"  # the first's record stands
    assert json.loads(lock.read_text())["pid"] == running.pid
    running.process.kill()
    running.wait()
    assert train(paths, WAITING) == {"done": 1, "skipped": 3, "failed": 0, "total": 4}
    assert not lock.exists()
    fresh = make_project(tmp_path / "fresh")
    train(fresh, WAITING)
    assert digests(paths) == digests(fresh)
