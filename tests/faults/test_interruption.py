"""`kill -9` and Ctrl-C in each stage, and a clock set back: the next run ends with what an
undisturbed one writes, and nothing that was left behind is in its way."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.site import STAGES, Site, stage_command

from .conftest import assert_same, at_rename

ONE_FILE = ("prompt_quality", "report")
"""Stages that write one file; the others are killed when one file is in place and one is not."""
CASES = [(stage, "SIGKILL", -signal.SIGKILL) for stage in STAGES] + [("segment", "SIGINT", 130)]
FUTURE = 4_000_000_000


@pytest.mark.promise(
    "Ctrl-C and `kill -9` in each stage leave nothing in the way; the next run ends with the same "
    "results."
)
@pytest.mark.promise("A clock that was set back changes nothing.")
@pytest.mark.parametrize(("stage", "name", "code"), CASES)
def test_after_ctrl_c_or_kill_9_a_stage_ends_with_the_same_results_and_leaves_nothing(
    built: Site, half: Site, tmp_path: Path, stage: str, name: str, code: int
) -> None:
    site = built.before(stage, half, tmp_path / "site")
    number = 2 if name == "SIGKILL" and stage not in ONE_FILE else 1
    running = site.begin(*stage_command(stage), first=at_rename(number, name))
    assert running.wait() == code, running.output
    # To a run after the clock was set back, all files and records are of the future.
    for path in [*(site.root / "cache").rglob("*"), *(site.root / "data_manifests").iterdir()]:
        os.utime(path, (FUTURE, FUTURE))
    site.stage(stage)
    assert_same(stage, site, built)
    assert site.leftovers() == []
