"""DVC around the stores: linked caches, few files, two datasets at once, locks of the killed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.io import ProcessLock, sha256_file

from .conftest import Project
from .test_repro import record, stages_run

IMAGES = 12
# A shell in which a stage takes as long as the test needs: DVC runs commands by $SHELL.
SLOW_SHELL = """#!/bin/sh
touch "{0}/started"
until [ -e "{0}/go" ]; do sleep 0.05; done
exec /bin/sh "$@"
"""


@pytest.fixture(scope="module")
def small(sample_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Twelve images a dataset; masks from the ground truth, so that no model is needed."""
    project = sample_project.copy(tmp_path_factory.mktemp("dvc") / "project")
    for name in ("breast", "covid"):
        more = keep(project, name, IMAGES)
        (project.root / f"more_{name}.csv").write_text("".join(more[:10]), encoding="utf-8")
    project.params(segment__prompt="manifest", segment__max_failed=1.0, encode__views=["whole"])
    return project


@pytest.fixture(scope="module")
def stored(small: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same with breast's two stores made by `dvc repro`."""
    project = small.copy(tmp_path_factory.mktemp("dvc") / "project")
    project.run("dvc", "repro", "encode@breast")
    return project


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A folder with a shell that waits; the file "go" lets its commands run."""
    shell = tmp_path / "shell"
    shell.write_text(SLOW_SHELL.format(tmp_path))
    shell.chmod(0o755)
    return shell


def keep(project: Project, dataset: str, rows: int) -> list[str]:
    """Keep the header and the first rows of a manifest; return the lines of the others."""
    path = project.root / f"data_manifests/{dataset}.csv"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[: rows + 1]), encoding="utf-8")
    return lines[rows + 1 :]


def hashes(folder: Path) -> dict[str, str]:
    """{relative path: sha256} of all files."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): sha256_file(p) for p in files}


def await_file(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)


def kill_all(process: subprocess.Popen) -> None:
    """kill -9 a command, then all that it started: it must not see them die and tidy up."""
    for each in [process, *psutil.Process(process.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended by itself since
            each.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def killed(small: Project, slow: Path, tmp_path: Path) -> Iterator[tuple[Project, int]]:
    """A project in which `dvc repro segment@breast` was killed amid its stage; and its pid."""
    project = small.copy(tmp_path / "project")
    process = project.start("dvc", "repro", "segment@breast", SHELL=str(slow))
    await_file(tmp_path / "started", process)
    kill_all(process)
    yield project, process.pid


@pytest.mark.parametrize("link", ["hardlink", "symlink"])
def test_an_append_never_changes_an_older_commits_objects(
    stored: Project, tmp_path: Path, link: str
) -> None:
    project = stored.copy(tmp_path / "project")
    manifest = project.root / "data_manifests/breast.csv"
    project.run("dvc", "config", "cache.type", link)
    project.run("dvc", "checkout", "--relink", "encode@breast", "segment@breast")
    shard = project.root / "cache/breast/masks.zarr/mask/c/0/0/0"
    assert shard.is_symlink() if link == "symlink" else shard.stat().st_nlink > 1
    objects = project.root / ".dvc/cache/files"
    stores = {n: project.root / f"cache/breast/{n}.zarr" for n in ("masks", "features")}
    kept, before = hashes(objects), {n: hashes(store) for n, store in stores.items()}
    lock = (project.root / "dvc.lock").read_bytes()

    with open(manifest, "a", encoding="utf-8") as file:
        file.write((project.root / "more_breast.csv").read_text(encoding="utf-8"))
    project.run("pipeline", "segment", "--dataset", "breast")
    assert record(project, "breast", "segment")["done"] == 10
    project.run("dvc", "repro", "encode@breast")
    assert record(project, "breast", "encode")["done"] == 10
    after = hashes(objects)
    assert {name: after[name] for name in kept} == kept
    assert len(after) > len(kept)

    (project.root / "dvc.lock").write_bytes(lock)
    project.run("dvc", "checkout", "--force", "encode@breast", "segment@breast")
    assert {n: hashes(store) for n, store in stores.items()} == before


def test_a_dataset_is_fewer_than_200_files(built_project: Project) -> None:
    for dataset in ("breast", "covid"):
        files = hashes(built_project.root / "cache" / dataset)
        assert len(files) < 200, sorted(files)
        for array in ("masks.zarr/mask/c/", "features.zarr/image_features/c/"):
            assert sum(name.startswith(array) for name in files) == 1  # shards, not images
    assert len(hashes(built_project.root / ".dvc/cache/files")) < 2 * 200


def test_two_datasets_are_reproduced_side_by_side(
    small: Project, slow: Path, tmp_path: Path
) -> None:
    project = small.copy(tmp_path / "project")
    one = ("dvc", "--wait-for-lock", "repro", "segment@breast")
    two = ("dvc", "--wait-for-lock", "repro", "segment@covid")
    first = project.start(*one, SHELL=str(slow))
    await_file(tmp_path / "started", first)
    assert stages_run(project.run(*two)) == {"segment@covid"}  # while the first is at work
    assert first.poll() is None
    # The same stage twice at once is refused; both DVC and our status name who is at it.
    out = project.run(*one, code=None)
    assert "failed to reproduce" in out and f"(PID {first.pid})" in out
    status = project.run("pipeline", "status")
    assert f"process {first.pid}" in status and "is running - wait" in status
    (tmp_path / "go").touch()
    assert stages_run(first.communicate(timeout=600)[0]) == {"segment@breast"}
    assert first.returncode == 0
    for dataset in ("breast", "covid"):
        project.run("pipeline", "verify", f"cache/{dataset}/masks.zarr")
    assert stages_run(project.run("dvc", "repro", "segment@breast", "segment@covid")) == set()


def test_with_the_flag_a_second_repro_waits_where_it_would_give_up(
    small: Project, tmp_path: Path
) -> None:
    project = small.copy(tmp_path / "project")
    (project.root / ".dvc/tmp").mkdir(exist_ok=True)
    with open(project.root / ".dvc/tmp/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        patient = project.start("dvc", "--wait-for-lock", "repro", "segment@covid")
        out = project.run("dvc", "repro", "segment@covid", code=None)
        assert "Unable to acquire lock" in out
        assert patient.poll() is None
    out = patient.communicate(timeout=600)[0]
    assert patient.returncode == 0, out


def test_after_kill_9_the_next_repro_goes_on_by_itself(killed: tuple[Project, int]) -> None:
    project, pid = killed
    status = project.run("pipeline", "status")
    assert f"process {pid}" in status and "nothing to do" in status
    out = project.run("dvc", "repro", "segment@breast")
    assert "had been killed" in out and stages_run(out) == {"segment@breast"}
    assert "rwlock" not in project.run("pipeline", "status")


def test_a_stale_lock_whose_pid_is_in_use_again_says_what_to_delete(
    killed: tuple[Project, int],
) -> None:
    project, pid = killed
    stale = project.root / ".dvc/tmp/rwlock"
    stale.write_text(stale.read_text().replace(f'"pid": {pid}', f'"pid": {os.getpid()}'))
    assert "rwlock" in project.run("dvc", "repro", "segment@breast", code=255)
    status = project.run("pipeline", "status")
    assert f"process {os.getpid()}" in status and "delete this file" in status
    stale.unlink()
    project.run("dvc", "repro", "segment@breast")


def test_a_stale_lock_cut_while_being_written_says_what_to_delete(
    killed: tuple[Project, int],
) -> None:
    project, _ = killed
    stale = project.root / ".dvc/tmp/rwlock"
    stale.write_text(stale.read_text()[:100])
    assert "rwlock" in project.run("dvc", "repro", "segment@breast", code=255)
    assert "cut while being written" in project.run("pipeline", "status")
    stale.unlink()
    project.run("dvc", "repro", "segment@breast")


def test_a_stage_that_outlived_its_dvc_is_named_by_the_next_repro(
    small: Project, tmp_path: Path
) -> None:
    project = small.copy(tmp_path / "project")
    lock = ProcessLock(project.root / "cache/breast/masks.zarr.lock")
    lock.acquire()  # as the stage of a killed `dvc repro` does that still writes
    out = project.run("dvc", "repro", "segment@breast", code=255)
    assert f"written by process {os.getpid()}" in out and "masks.zarr.lock" in out
    assert f"written by process {os.getpid()}" in project.run("pipeline", "status")
    lock.release()
    project.run("dvc", "repro", "segment@breast")
    assert json.loads((project.root / "cache/breast/records/segment.json").read_text())["done"]
