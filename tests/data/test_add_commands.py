"""The real `pipeline data add`: what it refuses, what it says, what a kill leaves."""

from __future__ import annotations

import csv
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

from pipeline.io import lock_notes, manifest_lock, sha256_file
from tests.data.conftest import picture
from tests.data.test_add_table_zip import REFUSED_TABLES, SPOILED_ZIPS, table_of, zip_of
from tests.images.makers import dicom, grey, save_dicom
from tests.project import REPO, in_process, pipeline

KILLED = """
import os, signal
from pipeline.intake import archive
extract, done = archive._extract_entry, []

def extract_three(*given):
    extract(*given)
    done.append(given)
    if len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

archive._extract_entry = extract_three
from pipeline.cli import main
main()
"""

KILLED_BEFORE_THE_MANIFEST = """
import os, signal
from pipeline.intake import add
settle = add.put_in_place

def settle_and_die(*given, **more):
    settle(*given, **more)
    os.kill(os.getpid(), signal.SIGKILL)

add.put_in_place = settle_and_die
from pipeline.cli import main
main()
"""


def tree(root: Path) -> dict[str, str]:
    """Return every path below a folder, with the hash of what is a file."""
    return {
        str(path.relative_to(root)): sha256_file(path) if path.is_file() else ""
        for path in sorted(root.rglob("*"))
    }


@pytest.mark.parametrize("again", ["zip", "folder"])
def test_what_a_kill_in_mid_extraction_leaves_is_gone_after_the_next_add(
    scans, tmp_path, project, again
):
    source = zip_of(tmp_path / "s.zip", scans)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, "data", "add", "d", "--from", str(source)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )
    assert killed.returncode == -signal.SIGKILL
    (left,) = (project / "data").iterdir()
    assert len([path for path in left.rglob("*") if path.is_file()]) == 3
    at_work = project / "data" / f".d.{os.getpid()}.partial"  # of a process that lives: this one
    at_work.mkdir()
    code, said = pipeline(
        project, "data", "add", "d", "--from", str(source if again == "zip" else scans)
    )
    assert code == 0, said
    assert {path.name for path in (project / "data").iterdir()} == {"d", at_work.name}


@pytest.mark.parametrize("first", ["--force", None])
def test_an_add_killed_between_images_and_manifest_is_ended_by_the_same_command(
    scans, tmp_path, project, first
):
    if first:  # the zip takes the place of another dataset
        picture(tmp_path / "other" / "cat" / "9.png", seed=9)
        assert pipeline(project, "data", "add", "d", "--from", str(tmp_path / "other"))[0] == 0
    command = ["data", "add", "d", "--from", str(zip_of(tmp_path / "s.zip", scans))]
    command += [first] if first else []
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_THE_MANIFEST, *command],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )
    assert killed.returncode == -signal.SIGKILL
    assert (project / "data/d/train").is_dir()
    assert (project / "data_manifests/d.csv").exists() == bool(first)
    code, said = pipeline(project, *command)
    assert code == 0 and "24 images" in said, said
    assert [path.name for path in (project / "data").iterdir()] == ["d"]
    assert [path.name for path in (project / "data_manifests").iterdir()] == ["d.csv"]


def test_what_cannot_be_written_or_read_is_said_in_one_line_and_a_retry_works(
    scans, tmp_path, project, no_override
):
    source = zip_of(tmp_path / "s.zip", scans)
    code, said = pipeline(project, "data", "add", "d", "--from", str(scans))
    assert code == 0, said
    with zipfile.ZipFile(source) as opened:
        size = min(entry.file_size for entry in opened.infolist()) // 2
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
    refused(project, source, "cannot write: File too large .*ulimit", preexec_fn=limit)
    long = tmp_path / "long.zip"
    long.write_bytes(source.read_bytes())
    with zipfile.ZipFile(long, "a") as opened:
        opened.writestr(f"train/cat/{'x' * 300}.png", b"")
    refused(project, long, r"long\.zip: entry 'train/cat/xx.* too long a name - ")
    for folder, given in (
        (project / "data", source),
        (project / "data_manifests", source),
        (project / "data_manifests", scans),
        (project, source),
    ):
        hidden = [project / "data", project / "data_manifests"] if folder == project else []
        for path in hidden:  # a project to which nothing was added yet
            path.rename(tmp_path / path.name)
        folder.chmod(0o555)
        refused(project, given, "cannot write: Permission denied .*writable", before=no_override)
        folder.chmod(0o755)
        for path in hidden:
            (tmp_path / path.name).rename(path)
    code, said = pipeline(project, "data", "add", "new", "--from", str(source))
    assert code == 0 and "24 images" in said, said
    manifest = project / "data_manifests/d.csv"
    manifest.chmod(0)
    code, said = run(project, "data", "check", "--dataset", "d", before=no_override)
    assert code == 2 and "Traceback" not in said
    assert "d.csv: cannot be read: Permission denied - " in said


def run(project: Path, *arguments: str, before: Sequence[str] = (), **options) -> tuple[int, str]:
    """Run a command as `pipeline` does, started by another or with options of `subprocess.run`."""
    done = subprocess.run(
        [*before, sys.executable, "-c", "from pipeline.cli import main; main()", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO), "COLUMNS": "200"},
        **options,
    )
    return done.returncode, done.stdout + done.stderr


def refused(project: Path, source: Path, expected: str, **how) -> None:
    """Check that a source is refused in one line with a remedy, or a list of several problems
    with one each, and that nothing is written; with `how`, of `run`, by a process of its own."""
    before = tree(project.parent)
    command = ("data", "add", "new", "--from", str(source))
    code, said = run(project, *command, **how) if how else in_process(project, *command)
    assert code == 2, said
    assert re.search(expected, said) and "Traceback" not in said
    remedies = r"error: .+( - .+\n| problems\n(  line .+ - .+\n)+)"
    assert re.fullmatch(remedies, said), f"not one line with a remedy:\n{said}"
    assert tree(project.parent) == before


def test_a_zip_that_is_not_sound_is_refused_in_one_line_and_the_project_stays(
    scans, tmp_path, project
):
    assert in_process(project, "data", "add", "d", "--from", str(scans))[0] == 0
    for at in (0, 2, 5, 6, 7, 8, 10):  # climbs out, is absolute, a link, a bomb, cut, flipped, none
        spoil, expected = SPOILED_ZIPS[at]
        source = zip_of(tmp_path / "s.zip", scans)
        spoil(source)
        refused(project, source, expected)


def test_a_table_that_cannot_be_used_is_refused_in_one_line_and_the_project_stays(
    scans, tmp_path, project
):
    assert in_process(project, "data", "add", "d", "--from", str(scans))[0] == 0
    for at in (0, 1, 2, 4, 6, 8):
        text, encoding, expected = REFUSED_TABLES[at]
        refused(project, table_of(tmp_path / "t", text, encoding), expected)


def test_junk_in_the_folder_is_told_and_a_folder_of_junk_alone_is_refused(scans, tmp_path, project):
    junk = tmp_path / "junk"
    for folder in (scans / "train" / "cat", junk / "cat"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("._0.png", ".DS_Store", "Thumbs.db", "notes.txt"):
            (folder / name).write_bytes(b"junk")
        picture(folder / "__MACOSX" / "x.png")
    refused(project, junk, "no images in it; .*3 skipped: file left by a system or notebook")
    code, said = in_process(project, "data", "add", "d", "--from", str(scans))
    assert code == 0 and "24 images" in said, said
    for told in (
        "skipped 3: file left by a system or notebook",
        "skipped 1: folder left by a system or notebook",
        "skipped 1: not an image (.txt)",
    ):
        assert told in said


def test_a_dicomdir_and_objects_without_pixels_are_skipped_aloud_and_the_image_is_taken(
    tmp_path, project
):
    disc = tmp_path / "disc"
    for label in ("a", "b"):
        (disc / label).mkdir(parents=True)
        save_dicom(dicom(grey(seed=ord(label))), disc / label / "IM0001")
    index = dicom(grey())
    del index.PixelData
    index.SOPClassUID = index.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    for place in (disc, disc / "a"):  # on top, as on a disc, and beside the images
        save_dicom(index, place / "DICOMDIR")
    report = dicom(grey())
    for name in ("PixelData", "Rows", "Columns", "BitsAllocated"):
        delattr(report, name)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    save_dicom(report, disc / "a" / "SR0001")
    save_dicom(report, disc / "b" / "sr.dcm")
    (disc / "b" / "short.dcm").write_bytes(b"\0" * 128 + b"DICM")
    code, said = in_process(project, "data", "add", "d", "--from", str(disc))
    assert code == 0, said
    assert "Traceback" not in said and "FAILED" not in said and "no class folder" not in said
    assert "skipped 2: a DICOMDIR, an index of other files" in said
    assert "skipped 3: a DICOM object without pixels (a report, plan or presentation)" in said
    with open(project / "data_manifests" / "d.csv", newline="", encoding="utf-8") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["a/IM0001", "b/IM0001"]


@pytest.mark.parametrize("second", ["add", "refresh", "check"])
def test_a_second_command_that_changes_a_manifest_is_refused_in_one_line(
    scans, tmp_path, project, second
):
    assert pipeline(project, "data", "add", "d", "--from", str(scans))[0] == 0
    (tmp_path / "g.csv").write_text("path,group\ntrain/cat/0.png,g1\n")
    command = {
        "add": ["data", "add", "d", "--from", str(scans)],
        "refresh": ["data", "refresh", "d"],
        "check": ["data", "check", "--dataset", "d", "--groups", str(tmp_path / "g.csv")],
    }[second]
    (project / "data_manifests/prompts.yaml").write_text("classes: {d: {cat: a cat, dog: a dog}}")
    before = tree(project)
    with manifest_lock(project / "data_manifests/d.csv"):
        code, said = pipeline(project, *command)
        noted = lock_notes(project)
    assert code == 2 and f"the manifest is being written by process {os.getpid()}" in said, said
    assert "Traceback" not in said and "wait for it to end" in said
    assert len(noted) == 1 and f"process {os.getpid()}" in noted[0]
    assert tree(project) == before
    code, said = pipeline(project, *command)
    assert code == 0, said
    assert not list((project / "data_manifests").glob(".*"))
