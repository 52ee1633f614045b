"""Ctrl-C and `kill -9` in each stage of the real command line: what the next run ends with is, bit
for bit, what an undisturbed one writes, and nothing that was left behind is in its way."""

from __future__ import annotations

import signal
import sys
from concurrent.futures import Future

import pytest

from .site import STAGES, STORES, Site

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches processes in /proc")


def files(site: Site, stage: str) -> dict[str, int]:
    """The files that a stage wrote and their inodes: a file is replaced, never edited."""
    return {name: (site.root / name).stat().st_ino for name in site.outputs(stage)}


def interrupted_killed_and_finished(site: Site, stage: str, whole: Site) -> None:
    options = ["--batch-size", "1"] if stage in STORES else []
    running = site.start_stage(stage, *options)
    assert running.at_work(stage), f"it ended too early\n{running.said}"
    running.signal(signal.SIGINT)
    running.wait().expect(130, "interrupted", "run the same command again")

    # Killed when the first of its files is new: the others are still to come.
    before = files(site, stage)
    running = site.start_stage(stage, *options)
    if stage in ("prompt_quality", "report"):  # one file, the last thing that it writes
        running.at_work(stage)
    else:
        running.until(lambda: files(site, stage) != before)
    running.process.kill()
    assert running.wait().code == -signal.SIGKILL, f"it ended too early\n{running.said}"

    site.stage(stage).expect(0)
    assert site.outputs(stage) == whole.outputs(stage)
    assert site.leftovers() == []


@pytest.fixture(scope="module")
def chains(whole: Site, half: Site, tmp_path_factory, pool) -> dict[str, Future]:
    root = tmp_path_factory.mktemp("interruption")
    sites = {stage: whole.before(stage, half, root / stage) for stage in STAGES}
    for stage in set(STAGES) - set(STORES):
        sites[stage].remove(stage)
    run = interrupted_killed_and_finished
    return {stage: pool.submit(run, sites[stage], stage, whole) for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_after_ctrl_c_and_kill_9_a_stage_ends_with_the_same_bits_and_leaves_nothing(
    chains: dict[str, Future], stage: str
) -> None:
    chains[stage].result()
