"""`train` beside another train, killed, or ended by SIGTERM: told, and what was done is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.cli.running import guarded
from pipeline.engine.signals import Interrupts
from pipeline.errors import DiskError, StoreError
from pipeline.heads import register
from pipeline.heads.zero_shot import ZeroShot
from pipeline.paths import Paths
from pipeline.train import train_dataset
from tests.heads.odd import Odd
from tests.heads.projects import small_params
from tests.heads.test_train import digests, make_project, told

PARAMS = small_params(
    train__heads=["linear-probe", "odd-waits"],
    train__views={"official": ["masked"]},
    splits__fractions=[1.0],
)
TRAIN = """
import sys
from pathlib import Path
from pipeline.cli.running import guarded
from pipeline.paths import Paths
from pipeline.train import train_dataset
from tests.heads.test_stopped_train import PARAMS
guarded(lambda standalone_mode: train_dataset("toy", PARAMS, Paths(Path(sys.argv[1]))))
"""


@register("odd-waits")
class Waits(Odd):
    """Waits at seed 1, and says so by a file, where the environment names one."""

    def fit(self, X, y, *, T, X_val, y_val):
        if self.seed == 1 and os.environ.get("WAIT_TRAINING"):
            Path(os.environ["WAIT_TRAINING"]).touch()
            time.sleep(600)
        return ZeroShot.fit(self, T=T)


@pytest.fixture
def waiting(tmp_path, repo) -> Iterator[tuple[Paths, subprocess.Popen]]:
    """A project, and a process that has fitted seed 0 of it and waits at seed 1."""
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


def lock_of(paths: Paths) -> Path:
    return paths.cache("toy") / "heads.lock"


def test_sigterm_ends_train_as_ctrl_c_does_and_what_is_fitted_is_kept(waiting):
    paths, process = waiting
    for _ in range(2):  # as `timeout` sends it
        process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 130 and "interrupted - what was computed is kept" in said, said
    assert said.startswith("train toy: 4 to do, 0 there already\n"), said
    stopped = told(paths)
    assert stopped["status"] == "interrupted" and not lock_of(paths).exists()
    assert (stopped["total"], stopped["done"]) == (4, 2)
    record = train_dataset("toy", PARAMS, paths)
    assert (record.skipped, record.total) == (2, 4)


def test_ctrl_c_while_the_workers_are_started_ends_as_at_any_other_moment(tmp_path, monkeypatch):
    paths = make_project(tmp_path)

    def interrupted(*_):
        try:
            raise KeyboardInterrupt
        finally:  # as joblib does, which cannot join a thread that has not started
            raise RuntimeError("cannot join thread before it is started")

    monkeypatch.setattr("joblib.Parallel.__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_dataset("toy", PARAMS, paths)
    assert told(paths)["status"] == "interrupted"


def test_a_second_train_is_refused_in_one_line_and_a_killed_ones_lock_is_taken_over(
    waiting, tmp_path
):
    paths, process = waiting
    with pytest.raises(StoreError, match=f"by process {process.pid} .* wait for it") as caught:
        train_dataset("toy", PARAMS, paths)
    assert "\n" not in str(caught.value) and str(lock_of(paths)) in str(caught.value)
    assert told(paths)["status"] == "running"  # the first's record stands
    assert json.loads(lock_of(paths).read_text())["pid"] == process.pid
    process.kill()
    process.wait()
    train_dataset("toy", PARAMS, paths)
    assert not lock_of(paths).exists()
    fresh = make_project(tmp_path / "fresh")
    train_dataset("toy", PARAMS, fresh)
    assert digests(paths) == digests(fresh)


def test_fits_are_kept_when_the_outputs_cannot_be_written(tmp_path):
    paths = make_project(tmp_path)
    paths.predictions("toy").mkdir(parents=True)
    with pytest.raises(DiskError, match=r"predictions\.parquet"):
        train_dataset("toy", PARAMS, paths)
    paths.predictions("toy").rmdir()
    record = train_dataset("toy", PARAMS, paths)
    assert (record.done, record.skipped) == (0, record.total)


def test_a_stage_with_its_own_handler_keeps_it_and_the_handler_of_before_is_put_back():
    before = signal.getsignal(signal.SIGTERM)

    def stage(standalone_mode: bool) -> None:
        ours = signal.getsignal(signal.SIGTERM)
        assert ours != before
        with Interrupts() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.stopped()
        assert signal.getsignal(signal.SIGTERM) == ours
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it goes on after SIGTERM")

    with pytest.raises(SystemExit) as ended:
        guarded(stage)
    assert ended.value.code == 130
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_the_main_thread_a_command_runs_without_a_handler():
    with ThreadPoolExecutor() as pool:
        ended = pool.submit(guarded, lambda standalone_mode: 0).exception()
    assert isinstance(ended, SystemExit) and ended.code == 0
