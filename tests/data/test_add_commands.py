"""The real `pipeline data add`: what it refuses, what it prints, what a kill leaves behind."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.io import manifest_lock, sha256_file
from tests.data.conftest import picture, zip_of
from tests.images.makers import dicom, grey, save_dicom
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
from pipeline.cli import main
main()
"""
KILLED_ADD = "`data add` that was killed at any moment is completed by the same command."


def killed(project: Path, module: str, name: str, times: int, *command: str) -> None:
    """Run a command that is killed after a function was called `times` times."""
    code = KILL.format(module=module, name=name, times=times)
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )
    assert done.returncode == -signal.SIGKILL


def tree(root: Path) -> dict[str, str]:
    """Return every path below a folder, with the hash of what is a file."""
    return {
        str(path.relative_to(root)): sha256_file(path) if path.is_file() else ""
        for path in sorted(root.rglob("*"))
    }


@pytest.mark.promise(KILLED_ADD)
@pytest.mark.parametrize("again", ["zip", "folder"])
def test_what_a_kill_during_extraction_leaves_is_gone_after_the_next_add(
    scans, tmp_path, project, again
):
    source = zip_of(tmp_path / "s.zip", scans)
    command = ("data", "add", "d", "--from", str(source))
    killed(project, "archive", "_extract_entry", 3, *command)
    (left,) = (project / "data").iterdir()
    assert len([path for path in left.rglob("*") if path.is_file()]) == 3
    running = project / "data" / f".d.{os.getppid()}.partial"  # of a live process
    running.mkdir()
    code, said = in_process(project, *command[:-1], str(source if again == "zip" else scans))
    assert code == 0, said
    assert {path.name for path in (project / "data").iterdir()} == {"d", running.name}


@pytest.mark.promise(KILLED_ADD)
@pytest.mark.parametrize("first", ["--force", None])
def test_an_add_killed_between_images_and_manifest_is_completed_by_the_same_command(
    scans, tmp_path, project, first
):
    if first:  # the zip takes the place of another dataset
        picture(tmp_path / "other" / "cat" / "9.png", seed=9)
        assert in_process(project, "data", "add", "d", "--from", str(tmp_path / "other"))[0] == 0
    command = ["data", "add", "d", "--from", str(zip_of(tmp_path / "s.zip", scans))]
    command += [first] if first else []
    killed(project, "add", "put_in_place", 1, *command)
    assert (project / "data/d/train").is_dir()
    assert (project / "data_manifests/d.csv").exists() == bool(first)
    code, said = in_process(project, *command)
    assert code == 0 and "24 images" in said, said
    assert [path.name for path in (project / "data").iterdir()] == ["d"]
    assert [path.name for path in (project / "data_manifests").iterdir()] == ["d.csv"]


def run(project: Path, *arguments: str, before: Sequence[str] = (), **options) -> tuple[int, str]:
    """Run a command in a process of its own, started by another or with `subprocess` options."""
    done = subprocess.run(
        [*before, sys.executable, "-c", "from pipeline.cli import main; main()", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO), "COLUMNS": "200"},
        **options,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.promise(
    "`data add` that cannot write or read says so in one line and leaves nothing behind."
)
def test_what_cannot_be_written_or_read_is_said_in_one_line_and_a_retry_works(
    scans, tmp_path, project, no_override
):
    def refused(source: Path, expected: str, **how) -> None:
        before = tree(project.parent)
        code, said = run(project, "data", "add", "new", "--from", str(source), **how)
        assert code == 2 and re.search(expected, said), said
        assert re.fullmatch(r"error: .+ - .+\n", said)
        assert tree(project.parent) == before

    source = zip_of(tmp_path / "s.zip", scans)
    with zipfile.ZipFile(source) as opened:
        size = min(entry.file_size for entry in opened.infolist()) // 2
    project.chmod(0o555)  # a project to which nothing was added yet
    refused(source, "cannot write: Permission denied .*writable", before=no_override)
    project.chmod(0o755)
    assert in_process(project, "data", "add", "d", "--from", str(scans))[0] == 0
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
    refused(source, "cannot write: File too large .*ulimit", preexec_fn=limit)
    for folder, given in ((project / "data", source), (project / "data_manifests", scans)):
        folder.chmod(0o555)
        refused(given, "cannot write: Permission denied .*writable", before=no_override)
        folder.chmod(0o755)
    code, said = in_process(project, "data", "add", "new", "--from", str(source))
    assert code == 0 and "24 images" in said, said
    (project / "data_manifests/d.csv").chmod(0)
    code, said = run(project, "data", "check", "--dataset", "d", before=no_override)
    assert code == 2 and "d.csv: cannot be read: Permission denied - " in said


@pytest.mark.promise(
    "`data add` counts a DICOMDIR and DICOM objects without pixels by reason and takes the images."
)
def test_a_dicomdir_and_objects_without_pixels_are_counted_and_the_image_is_taken(
    tmp_path, project
):
    disc = tmp_path / "disc"
    for label in ("a", "b"):
        (disc / label).mkdir(parents=True)
        save_dicom(dicom(grey(seed=ord(label))), disc / label / "IM0001")
    index, report = dicom(grey()), dicom(grey())
    del index.PixelData
    index.SOPClassUID = index.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    for place in (disc, disc / "a"):  # at the top, as on a disc, and among the images
        save_dicom(index, place / "DICOMDIR")
    for name in ("PixelData", "Rows", "Columns", "BitsAllocated"):
        delattr(report, name)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    save_dicom(report, disc / "a" / "SR0001")
    save_dicom(report, disc / "b" / "sr.dcm")
    code, said = in_process(project, "data", "add", "d", "--from", str(disc))
    assert code == 0 and "FAILED" not in said and "no class folder" not in said, said
    skipped = re.findall(r"skipped (\d): a DICOM(DIR| object)", said)
    assert skipped == [("2", " object"), ("2", "DIR")]
    table = (project / "data_manifests" / "d.csv").read_text(encoding="utf-8")
    assert re.findall(r"^(\w/\w+),", table, re.M) == ["a/IM0001", "b/IM0001"]


@pytest.mark.promise(
    "Two commands that change one manifest (`data add`, `data refresh`) cannot run at the same "
    "time: the second names the process of the first in one line."
)
@pytest.mark.parametrize("second", ["add", "refresh"])
def test_a_second_command_that_changes_a_manifest_is_refused_in_one_line(
    scans, tmp_path, project, second
):
    assert in_process(project, "data", "add", "d", "--from", str(scans))[0] == 0
    command = {
        "add": ["data", "add", "d", "--from", str(scans)],
        "refresh": ["data", "refresh", "d"],
    }[second]
    before = tree(project)
    with manifest_lock(project / "data_manifests/d.csv"):
        code, said = in_process(project, *command)
        assert code == 2 and f"process {os.getpid()}" in said and said.count("\n") == 1, said
    assert tree(project) == before
    code, said = in_process(project, *command)
    assert code == 0, said
    assert not list((project / "data_manifests").glob(".*"))
