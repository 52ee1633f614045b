"""The real `pipeline data add`: what it refuses, what it says, what a kill leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.files import sha256_file
from tests.data.test_add_table_zip import zip_of
from tests.project import REPO, pipeline

KILLED = """
import os, signal
from pipeline.intake import archive
extract, done = archive._extract, []

def extract_three(*given):
    extract(*given)
    done.append(given)
    if len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

archive._extract = extract_three
from pipeline.cli import main
main()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project folder with parameters."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "params.yaml").write_text((REPO / "params.yaml").read_text())
    return root


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
