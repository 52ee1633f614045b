"""The real `pipeline data add`: what it refuses, what it prints, what a kill leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.io import manifest_lock, sha256_file
from tests.data.conftest import picture, zip_of
from tests.project import REPO, in_process

KILL = """
import os, signal
from pipeline.intake import {module}
function, calls = {module}.{name}, []

def call_and_die(*args, **kwargs):
    function(*args, **kwargs)
    calls.append(args)
    if len(calls) == {times}:
        os.kill(os.getpid(), signal.SIGKILL)

{module}.{name} = call_and_die
"""
KILLED_ADD = "`data add` that was killed at any moment is completed by the same command."


def after(code: str, project: Path, *command: str) -> subprocess.CompletedProcess:
    """Run a command in a process of its own, after some code."""
    return subprocess.run(
        [sys.executable, "-c", f"{code}\nfrom pipeline.cli import main; main()", *command],
        cwd=project,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO), "COLUMNS": "200"},
    )


def killed(project: Path, module: str, name: str, times: int, *command: str) -> None:
    """Run a command that is killed after a function was called `times` times."""
    code = KILL.format(module=module, name=name, times=times)
    assert after(code, project, *command).returncode == -signal.SIGKILL


def tree(root: Path) -> dict[str, str]:
    """Return every path below a folder, with the hash of what is a file."""
    return {
        str(path.relative_to(root)): sha256_file(path) if path.is_file() else ""
        for path in sorted(root.rglob("*"))
    }


@pytest.mark.promise(KILLED_ADD)
def test_what_a_kill_during_extraction_leaves_is_gone_after_the_next_add(scans, tmp_path, project):
    source = zip_of(tmp_path / "s.zip", scans)
    command = ("data", "add", "d", "--from", str(source))
    killed(project, "find", "zipfile.ZipFile.extract", 3, *command)
    (left,) = (project / "data").iterdir()
    assert len([path for path in left.rglob("*") if path.is_file()]) == 3
    running = project / "data" / f".d.{os.getppid()}.partial"  # of a live process
    running.mkdir()
    code, said = in_process(project, *command)
    assert code == 0, said
    assert {path.name for path in (project / "data").iterdir()} == {"d", running.name}


@pytest.mark.promise(KILLED_ADD)
def test_an_add_killed_between_images_and_manifest_is_completed_by_the_same_command(
    scans, tmp_path, project
):
    picture(tmp_path / "other" / "cat" / "9.png", seed=9)  # whose place the zip takes
    assert in_process(project, "data", "add", "d", "--from", str(tmp_path / "other"))[0] == 0
    command = ["data", "add", "d", "--from", str(zip_of(tmp_path / "s.zip", scans)), "--force"]
    killed(project, "add", "put_in_place", 1, *command)
    assert (project / "data/d/train").is_dir()
    code, said = in_process(project, *command)
    assert code == 0 and "24 images" in said, said
    assert [path.name for path in (project / "data").iterdir()] == ["d"]
    assert [path.name for path in (project / "data_manifests").iterdir()] == ["d.csv"]


@pytest.mark.promise(
    "`data add` that cannot write or read says so in one line and leaves nothing behind."
)
def test_what_cannot_be_written_is_said_in_one_line_and_a_retry_works(scans, tmp_path, project):
    picture(scans / "train" / "cat" / "large.png", size=(200, 200))
    source = zip_of(tmp_path / "s.zip", scans)
    for folder in ("data", "data_manifests"):
        (project / folder).mkdir()
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (20_000, 20_000))"
    command, before = ["data", "add", "new", "--from", str(source)], tree(project.parent)
    done = after(limit, project, *command)
    said = done.stdout + done.stderr
    assert done.returncode == 2
    assert re.fullmatch(r"error: .+cannot write: File too large .*- .*ulimit.*\n", said), said
    assert tree(project.parent) == before
    code, said = in_process(project, *command)
    assert code == 0 and "25 images" in said, said


@pytest.mark.promise(
    "Two commands that change one manifest (`data add`, `data refresh`) cannot run at the same "
    "time: the second names the process of the first in one line."
)
@pytest.mark.parametrize("second", ["add", "refresh"])
def test_a_second_command_that_changes_a_manifest_is_refused_in_one_line(
    scans, tmp_path, project, second
):
    assert in_process(project, "data", "add", "d", "--from", str(scans))[0] == 0
    command = ["data", second, "d", *(["--from", str(scans)] if second == "add" else [])]
    before = tree(project)
    with manifest_lock(project / "data_manifests/d.csv"):
        code, said = in_process(project, *command)
        assert code == 2 and f"process {os.getpid()}" in said and said.count("\n") == 1, said
    assert tree(project) == before
    code, said = in_process(project, *command)
    assert code == 0, said
    assert not list((project / "data_manifests").glob(".*"))
