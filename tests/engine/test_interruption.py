"""Ctrl-C, kill -9, a full disk, a folder that cannot be written: what is done is kept."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.cheap_stage import make_items, run_cheap, store_path
from benchmarks.random_kill import random_kills
from benchmarks.store_stage import content
from pipeline.engine import RunRecord
from pipeline.store import open_masks, verify_store


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


def wait_for_rows(folder, rows, seconds=240):
    """Wait until the running stage has committed some rows."""
    path = store_path(folder, "masks")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (path / "zarr.json").exists() and len(open_masks(path)) >= rows:
            return
        time.sleep(0.1)
    raise AssertionError("no rows were committed")


SLOW = ("--rows", "40", "--seconds", "0.2", "--commit-seconds", "0.1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_is_done_and_exits_130(tmp_path, start, number):
    process = start("masks", tmp_path, *SLOW)
    wait_for_rows(tmp_path, 1)
    process.send_signal(number)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 130 and "interrupted" in said, said
    record = RunRecord.read(tmp_path / "masks.json")
    kept = len(open_masks(store_path(tmp_path, "masks")))
    assert record.status == "interrupted" and 0 < record.done == kept < 40
    assert verify_store(store_path(tmp_path, "masks")).ok
    again = run_cheap("masks", tmp_path, make_items(tmp_path, 40))
    assert again.skipped == kept and again.done == 40 - kept


def test_one_ctrl_c_ends_a_run_whose_images_are_slow_to_read(tmp_path, start):
    process = start("masks", tmp_path, *SLOW, "--load-seconds", "200")
    while not (tmp_path / "masks.json").exists():
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130 and "interrupted" in said and "Traceback" not in said, said
    assert RunRecord.read(tmp_path / "masks.json").status == "interrupted"


def test_a_second_ctrl_c_exits_at_once_and_the_store_still_stands(tmp_path, start):
    process = start("masks", tmp_path, *SLOW, "--load-seconds", "200")
    while not (tmp_path / "masks.json").exists():
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=100)
    assert process.returncode == 130
    record = run_cheap("masks", tmp_path, make_items(tmp_path, 4))
    assert record.status == "ok" and verify_store(store_path(tmp_path, "masks")).ok


@pytest.mark.parametrize("kind", ["masks", "features", "segment"])
def test_killed_at_random_moments_the_finished_store_equals_an_undisturbed_one(tmp_path, kind):
    outcome = random_kills(kind, tmp_path, kills=3, rows=12, seed=1)
    assert outcome.faults == [] and outcome.kills == 3 and outcome.rounds >= 1


def test_a_full_disk_stops_the_run_with_a_remedy_and_keeps_what_was_committed(tmp_path, start):
    calm = tmp_path / "calm"
    run_cheap("features", calm, make_items(calm, 100))

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (12000, 12000))

    rough = tmp_path / "rough"
    options = ("--rows", "100", "--commit-seconds", "0.001")
    process = start("features", rough, *options, preexec_fn=limit)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 2 and "cannot write" in said and "ulimit" in said, said
    assert "Traceback" not in said
    path = store_path(rough, "features")
    assert verify_store(path).ok
    record = run_cheap("features", rough, make_items(rough, 100))
    assert record.done == 100 - record.skipped
    assert content("features", rough) == content("features", calm)


def test_a_cache_folder_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path, repo):
    make_items(tmp_path, 2)
    tmp_path.chmod(0o555)
    # Root may write anywhere, unless it gives up that right.
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    command = [
        sys.executable,
        "-m",
        "benchmarks.cheap_stage",
        "masks",
        str(tmp_path),
        "--rows",
        "2",
    ]
    try:
        done = subprocess.run(
            [*(bound if os.geteuid() == 0 else []), *command],
            capture_output=True, text=True, cwd=repo,
        )  # fmt: skip
    finally:
        tmp_path.chmod(0o755)
    assert done.returncode == 2 and "writable" in done.stderr, done.stderr
    assert str(tmp_path) in done.stderr and "Traceback" not in done.stderr


def test_off_a_terminal_a_run_logs_plain_lines(tmp_path, start):
    process = start("masks", tmp_path, "--rows", "3")
    said_out, said = process.communicate(timeout=240)
    assert process.returncode == 0 and "masks: 3 to do, 0 there already" in said
    assert "\x1b" not in said + said_out and "3 computed" in said_out
