"""What goes on around a run: a second writer, a worker that dies, small shared memory, a clock set
back."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from benchmarks.store_stage import store_content

from .site import OUTPUTS, STAGES, STORES, Running, Site, picture


def alive(running: Running) -> list[psutil.Process]:
    """Processes of the session that a command led."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == running.process.pid:
                found.append(process)
        except ProcessLookupError:
            continue
    return found


def all_ended(running: Running) -> bool:
    """Whether no process of a command is left, or none soon."""
    end = time.monotonic() + 60
    while alive(running) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(running)


def test_a_second_writer_is_refused_in_one_line_and_the_first_goes_on(
    whole: Site, half: Site, tmp_path: Path
) -> None:
    site = whole.before("segment", half, tmp_path / "site")
    first = site.start_stage("segment")
    assert first.until(lambda: "to do" in first.said), first.said
    first.signal(signal.SIGSTOP)  # alive, and holding the store, as long as the test wants
    try:
        second = site.stage("segment")
        reader = site.run("verify", "cache/toy/masks.zarr")
    finally:
        first.signal(signal.SIGCONT)
    said = second.expect(2, f"process {first.process.pid}", socket.gethostname(), "wait for it")
    assert len(said.strip().splitlines()) == 1
    reader.expect(0, "ok: 12 rows")
    first.wait().expect(0, "20 computed")
    assert site.outputs("segment") == whole.outputs("segment")


def test_two_writers_started_at_once_write_each_row_once(
    whole: Site, half: Site, tmp_path: Path
) -> None:
    site = whole.before("encode", half, tmp_path / "site")
    both = [site.start_stage("encode") for _ in range(2)]
    ended = [running.wait() for running in both]
    assert sorted(done.code for done in ended) in ([0, 0], [0, 2]), [d.said for d in ended]
    for done in ended:
        assert "20 computed" in done.said or "0 computed" in done.said or done.code == 2
        assert done.code == 0 or "is being written by process" in done.said
    assert site.outputs("encode") == whole.outputs("encode")


def test_a_worker_that_dies_is_told_and_the_next_run_goes_on(whole: Site, tmp_path: Path) -> None:
    site = whole.copy(tmp_path / "site")
    site.remove("train")
    running = site.start_stage("train", "--jobs", "2")
    assert running.until(running.children), running.said
    running.children()[0].kill()
    running.wait().expect(2, "a worker process died", "--jobs")
    assert all_ended(running)
    site.stage("train").expect(0)
    assert site.outputs("train") == whole.outputs("train")
    assert site.leftovers() == []


def test_an_interrupted_training_leaves_no_worker_behind(whole: Site, tmp_path: Path) -> None:
    site = whole.copy(tmp_path / "site")
    site.remove("train")
    running = site.start_stage("train", "--jobs", "2")
    assert running.until(running.children), running.said
    running.signal(signal.SIGINT)
    running.wait().expect(130, "interrupted")
    assert all_ended(running), [p.cmdline() for p in alive(running)]


def test_workers_end_with_a_training_that_is_killed(whole: Site, tmp_path: Path) -> None:
    site = whole.copy(tmp_path / "site")
    site.remove("train")
    running = site.start_stage("train", "--jobs", "2")
    assert running.until(lambda: len(running.children()) == 2), running.said
    workers = running.children()
    running.process.kill()
    _, left = psutil.wait_procs(workers, timeout=60)
    assert not left, [worker.cmdline() for worker in left]


# Loader threads and the resampling share nothing through /dev/shm; the processes of `train` do. A
# model stage stands for the others.
@pytest.mark.parametrize("stage", ["segment", "train"])
def test_a_small_shared_memory_is_enough(
    whole: Site, half: Site, tmp_path: Path, own_mounts: list[str], stage: str
) -> None:
    site = whole.before(stage, half, tmp_path / "site")
    if stage not in STORES:
        site.remove(stage)
    small = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && "$@"'
    before = [*own_mounts, "bash", "-c", small, "bash"]
    two = ["--jobs" if stage == "train" else "--workers", "2"]
    site.stage(stage, *two, before=before).expect(0)
    assert site.outputs(stage) == whole.outputs(stage)


def test_a_clock_set_back_makes_nothing_stale_and_holds_nothing_up(
    whole: Site, source: Path, tmp_path: Path
) -> None:
    site = whole.copy(tmp_path / "site")
    dead = json.dumps({"host": socket.gethostname(), "pid": 999_999_999, "started": 4e9})
    for stage in ("masks", "features"):
        (site.root / f"cache/toy/{stage}.zarr.lock").write_text(dead)
    # To a run after the clock was set back, all files and records are of the future.
    future = 4_000_000_000
    for path in [*(site.root / "cache").rglob("*"), *(site.root / "data_manifests").iterdir()]:
        os.utime(path, (future, future))
    images = tmp_path / "toy"
    for image in sorted(source.rglob("*.png")):
        copy = images / image.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(image.read_bytes())
    Image.fromarray(picture(5000)).save(images / "train/cat/new.png")
    site.run("data", "add", "toy", "--from", str(images), "--force").expect(0, "1 added")
    told = {
        "audit": '"thumbnails_read": 1',
        "segment": "1 computed, 32 there already, 0 failed",
        "prompt_quality": "0 computed, 32 there already, 0 failed",  # it has no ground truth
        "encode": "1 computed, 32 there already, 0 failed",
    }
    for stage in STAGES:
        options = ["--json"] if stage == "audit" else []
        site.stage(stage, *options).expect(0, told.get(stage, ""))
        if stage in STORES:
            store = OUTPUTS[stage][0]
            before, after = (store_content(s.root / store) for s in (whole, site))
            assert {name: after.get(name) for name in before} == before
        else:  # what was made of 32 images stands for 33 where the new one does not count
            same = site.outputs(stage) == whole.outputs(stage)
            assert same == (stage == "prompt_quality"), stage
    assert site.leftovers() == []
