"""What goes on around a run: a second writer, a worker that dies, a training that is stopped."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.project import in_process
from tests.site import HALF, STORES, Site, stage_command
from tests.warm import Running

from .conftest import assert_same, at_rename


def workers(running: Running) -> list[psutil.Process]:
    """Return the living worker processes of a command."""
    with suppress(psutil.Error):  # one has just ended
        children = psutil.Process(running.pid).children(recursive=True)
        return [one for one in children if "popen_loky" in " ".join(one.cmdline())]
    return []


@pytest.mark.promise("A second writer is refused in one line, and the first goes on.")
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
        os.killpg(first.pid, signal.SIGCONT)
    assert f"process {first.pid}" in said and socket.gethostname() in said
    assert len(said.strip().splitlines()) == 1
    assert f"ok: {HALF} rows" in reader
    assert first.wait() == 0, first.output
    assert_same("segment", site, built)


@pytest.mark.promise(
    "A worker that dies is reported, no worker outlives its run, and the next run goes on."
)
@pytest.mark.parametrize(
    ("whom", "number", "code"),
    [("worker", signal.SIGKILL, 2), ("all", signal.SIGINT, 130), ("first", signal.SIGKILL, -9)],
)
def test_no_worker_outlives_a_training_that_was_stopped_and_the_next_run_goes_on(
    built: Site, half: Site, tmp_path: Path, whom: str, number: int, code: int
) -> None:
    site = built.before("train", half, tmp_path / "site")
    running = site.begin(*stage_command("train")[:-2], "--jobs", "2")
    assert running.until(lambda: len(workers(running)) == 2), running.output
    working = workers(running)
    if whom == "all":  # as a terminal does on Ctrl-C
        os.killpg(running.pid, number)
    else:
        os.kill(working[0].pid if whom == "worker" else running.pid, number)
    assert running.wait() == code, running.output
    _, left = psutil.wait_procs(working, timeout=60)
    assert not left, [worker.cmdline() for worker in left]
    if whom == "worker":
        assert "--jobs" in running.output
        site.stage("train")
        assert_same("train", site, built)
        assert site.leftovers() == []
