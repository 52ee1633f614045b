"""`train` while another train runs, killed, or ended by a signal: finished fits are kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.learners import register
from pipeline.learners.train import train_dataset
from pipeline.paths import Paths
from tests.learners.faulty import Faulty
from tests.learners.projects import small_params
from tests.learners.test_train import MASKED, digests, last_record, make_project, train

PARAMS = small_params("linear-probe", "faulty-waits", train__views=MASKED, splits__fractions=[1.0])
TRAIN = """
import sys
from pathlib import Path
from pipeline.cli.common import guarded
from pipeline.paths import Paths
from pipeline.learners import train
from tests.learners.test_stopped import PARAMS
guarded(lambda standalone_mode: train.train_dataset("toy", PARAMS, Paths(Path(sys.argv[1]))))
"""
KEPT = "A stopped or killed training loses no finished fit, and repeats none."


@register("faulty-waits")
class Waits(Faulty):
    """Waits at seed 1, and says so by a file, where the environment names one."""

    def fit(self, train, val):
        if self.seed == 1 and os.environ.get("WAIT_TRAINING"):
            Path(os.environ["WAIT_TRAINING"]).touch()
            time.sleep(600)
        return super().fit(train, val)


@pytest.fixture
def waiting(tmp_path, repo) -> Iterator[tuple[Paths, subprocess.Popen]]:
    """A project, and a process that has fitted three of its four fits and waits in the last."""
    paths, sign = make_project(tmp_path / "project"), tmp_path / "waits"
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(paths.root)],
        env={**os.environ, "WAIT_TRAINING": str(sign)},
        stderr=subprocess.PIPE,
        text=True,
        cwd=repo,
    )
    end = time.monotonic() + 240
    while not sign.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    with process:
        yield paths, process
        process.kill()


@pytest.mark.promise(KEPT)
@pytest.mark.promise("A second train of the same learner is refused in one line.")
def test_a_second_train_is_refused_and_after_a_kill_the_next_one_goes_on(waiting, tmp_path):
    paths, process = waiting
    lock = paths.run("toy", "faulty-waits").with_suffix(".lock")
    with pytest.raises(StoreError, match=f"by process {process.pid} .* wait for it") as caught:
        train_dataset("toy", PARAMS, paths, ["faulty-waits"])
    assert "\n" not in str(caught.value) and str(lock) in str(caught.value)
    assert last_record(paths, "faulty-waits")["status"] == "running"  # the first's record stands
    assert json.loads(lock.read_text())["pid"] == process.pid
    process.kill()
    process.wait()
    assert train(paths, PARAMS) == {"done": 1, "skipped": 3, "failed": 0, "total": 4}
    assert not lock.exists()
    fresh = make_project(tmp_path / "fresh")
    train(fresh, PARAMS)
    assert digests(paths) == digests(fresh)
