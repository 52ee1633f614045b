"""What goes on around a run: a second writer, a worker that dies, small shared memory, a clock set
back, another build of sam2."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.project import in_process
from tests.site import HALF, IMAGES, STORES, Site, stage_command
from tests.warm import Running

from .checks import assert_same, rows
from .conftest import at_rename

LEFT = IMAGES - HALF
WRITERS = "A second writer is refused in one line, and the first goes on."
WORKERS = "A worker that dies is reported, no worker outlives its run, and the next run goes on."


def session(running: Running) -> list[psutil.Process]:
    """Return the processes of the session that a command led."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == running.pid and process.status() != "zombie":
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def all_ended(running: Running) -> bool:
    """Return whether no process of a command is left, or none soon."""
    end = time.monotonic() + 60
    while session(running) and time.monotonic() < end:
        time.sleep(0.05)
    return not session(running)


@pytest.mark.promise(WRITERS)
def test_a_second_writer_is_refused_in_one_line_and_the_first_goes_on(
    built: Site, half: Site, tmp_path: Path
) -> None:
    site = built.before("segment", half, tmp_path / "site")
    first = site.begin(*stage_command("segment"), first=at_rename(1, "SIGSTOP"))
    try:
        assert first.until(lambda: psutil.Process(first.pid).status() == "stopped"), first.output
        said = site.stage("segment", code=2)
        _, reader = in_process(site.root, "verify", STORES["segment"])
    finally:
        first.signal(signal.SIGCONT)
    assert f"process {first.pid}" in said and socket.gethostname() in said
    assert len(said.strip().splitlines()) == 1
    assert f"ok: {HALF} rows" in reader
    assert first.wait() == 0, first.output
    assert_same("segment", site, built)


@pytest.mark.promise(WRITERS)
def test_two_writers_started_at_once_write_each_row_once(
    built: Site, half: Site, tmp_path: Path
) -> None:
    site = built.before("encode", half, tmp_path / "site")
    both = [site.begin(*stage_command("encode")) for _ in range(2)]
    codes = sorted(running.wait() for running in both)
    assert codes in ([0, 0], [0, 2]), [running.output for running in both]
    assert_same("encode", site, built)


@pytest.mark.promise(WORKERS)
def test_a_worker_that_dies_is_reported_and_the_next_run_goes_on(
    built: Site, half: Site, tmp_path: Path
) -> None:
    site = built.before("train", half, tmp_path / "site")
    running = site.begin(*stage_command("train")[:-2], "--jobs", "2")
    assert running.until(running.children), running.output
    running.children()[0].kill()
    assert running.wait() == 2 and "--jobs" in running.output, running.output
    assert all_ended(running)
    site.stage("train")
    assert_same("train", site, built)
    assert site.leftovers() == []


@pytest.mark.promise(WORKERS)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_training_leaves_no_worker_behind(
    built: Site, half: Site, tmp_path: Path, number: int, code: int
) -> None:
    site = built.before("train", half, tmp_path / "site")
    running = site.begin(*stage_command("train")[:-2], "--jobs", "2")
    assert running.until(lambda: len(running.children()) == 2), running.output
    workers = running.children()
    if number == signal.SIGINT:
        running.signal(number)
    else:
        running.kill()
    assert running.wait() == code, running.output
    _, left = psutil.wait_procs(workers, timeout=60)
    assert not left, [worker.cmdline() for worker in left]


SURROUNDINGS = "A small /dev/shm or a clock set back changes nothing."


@pytest.mark.promise(SURROUNDINGS)
def test_a_small_shared_memory_is_enough(
    built: Site, half: Site, tmp_path: Path, own_mounts: str
) -> None:
    site = built.before("train", half, tmp_path / "site")
    small = 'shell("mount -t tmpfs -o size=64k tmpfs /dev/shm")'
    site.stage("train", "--jobs", "2", first=own_mounts + small)
    assert_same("train", site, built)


@pytest.mark.promise(SURROUNDINGS)
def test_a_clock_set_back_makes_nothing_stale_and_holds_nothing_up(
    built: Site, tmp_path: Path
) -> None:
    site = built.copy(tmp_path / "site")
    donor = next((site.root / "data/breast/train").rglob("*.png"))
    donor.with_name("P9999_0.png").write_bytes(donor.read_bytes() + b"0")
    # To a run after the clock was set back, all files and records are of the future.
    future = 4_000_000_000
    for path in [*(site.root / "cache").rglob("*"), *(site.root / "data_manifests").iterdir()]:
        os.utime(path, (future, future))
    add = ["--from", "data/breast", "--masks", "data/breast_masks", "--patient-regex", r"(P\d+)_"]
    in_process(site.root, "data", "add", "breast", *add, "--force")
    assert len(site.ids()) == IMAGES + 1
    for stage in ("audit", "segment", "encode", "train"):
        site.stage(stage)
    for stage in STORES:
        assert site.record(stage)["done"] == 1
        before, after = rows(built, stage), rows(site, stage)
        for i in before:
            np.testing.assert_array_equal(before[i], after[i])
    assert site.leftovers() == []


PLANTED = """
import sys, types
import torch

def get_connected_componnets(mask):
    # Everything is one region of one pixel: sam2 would take all background for small holes.
    return (torch.ones_like(mask, dtype=torch.int32),) * 2

planted = types.ModuleType("sam2._C")
planted.get_connected_componnets = get_connected_componnets
sys.modules["sam2._C"] = planted
import sam2
sam2._C = planted
"""


@pytest.mark.promise("Masks do not depend on sam2's optional compiled extension.")
def test_masks_are_the_same_with_an_extension(built: Site, half: Site, tmp_path: Path) -> None:
    site = built.before("segment", half, tmp_path / "site")
    site.stage("segment", first=PLANTED)
    assert site.record("segment")["done"] == LEFT
    assert_same("segment", site, built)
