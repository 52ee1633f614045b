"""Ctrl-C, kill -9, a full disk, a read-only folder: what was computed is kept."""

import signal
import subprocess
import sys
import time

import pytest

from benchmarks.cheap_stage import make_items, run_cheap, store_path
from benchmarks.random_kill import random_kills
from pipeline.engine.record import RunRecord
from pipeline.store import open_masks, verify_store

CTRL_C = (
    "Ctrl-C keeps what was computed and exits 130; a second one exits at once and the store stands."
)
SLOW = ("--rows", "40", "--seconds", "0.2", "--commit-seconds", "0.1")


@pytest.fixture
def start(repo):
    """Start the cheap stage in a process of its own."""
    started = []

    def start(kind, folder, *options, **popen):
        command = [sys.executable, "-m", "benchmarks.cheap_stage", kind, str(folder), *options]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=repo, **popen
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition, seconds=240):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


@pytest.mark.promise(CTRL_C)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_is_done_and_exits_130(tmp_path, start, number):
    process = start("masks", tmp_path, *SLOW)
    path = store_path(tmp_path, "masks")
    wait_for(lambda: (path / "zarr.json").exists() and len(open_masks(path)))
    process.send_signal(number)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 130 and "interrupted" in said, said
    record = RunRecord.read(tmp_path / "masks.json")
    kept = len(open_masks(path))
    assert record.status == "interrupted" and 0 < record.done == kept < 40
    assert verify_store(path).ok
    again = run_cheap("masks", tmp_path, make_items(tmp_path, 40))
    assert again.skipped == kept and again.done == 40 - kept


@pytest.mark.promise(CTRL_C)
@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_ends_a_run_whose_images_are_slow_to_read(tmp_path, start, signals):
    process = start("masks", tmp_path, *SLOW, "--load-seconds", "200")
    wait_for((tmp_path / "masks.json").exists)
    time.sleep(1)
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130 and "Traceback" not in said, said
    if signals == 1:
        assert RunRecord.read(tmp_path / "masks.json").status == "interrupted"
    record = run_cheap("masks", tmp_path, make_items(tmp_path, 4))
    assert record.status == "ok" and verify_store(store_path(tmp_path, "masks")).ok


@pytest.mark.promise(
    "After `kill -9` at random moments the finished store equals an undisturbed one."
)
def test_killed_at_random_moments_the_finished_store_equals_an_undisturbed_one(tmp_path):
    outcome = random_kills("masks", tmp_path, kills=3, rows=12, seed=1)
    assert outcome.faults == [] and outcome.kills == 3 and outcome.rounds >= 1
