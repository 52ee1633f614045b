"""The project that all tests of faults start from, made once by the real commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .site import IMAGES, STAGES, Site, draw_images, draw_truth


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 32 good images of two classes, each with its ground truth beside it."""
    folder = tmp_path_factory.mktemp("images") / "toy"
    draw_images(folder, IMAGES)
    draw_truth(folder)
    return folder


@pytest.fixture(scope="session")
def added(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The images are added, nothing is computed."""
    return Site.added(tmp_path_factory.mktemp("added") / "site", source)


@pytest.fixture(scope="session")
def half(added: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The first 12 images, the test part, are segmented and encoded."""
    site = added.copy(tmp_path_factory.mktemp("half") / "site")
    site.stage("segment", "--limit", "12").expect(0, "12 computed")
    only = site.root / "first.csv"
    rows = (site.root / "data_manifests/toy.csv").read_text().splitlines()[:13]
    only.write_text("\n".join(rows) + "\n")
    site.stage("encode", "--only", str(only)).expect(0, "12 computed")
    return site


@pytest.fixture(scope="session")
def whole(half: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Everything is computed, never disturbed."""
    site = half.copy(tmp_path_factory.mktemp("whole") / "site")
    for stage in STAGES:
        site.stage(stage).expect(0)
    return site


@pytest.fixture(scope="session")
def no_override() -> list[str]:
    """What to start a command with so that file modes count for root too."""
    if os.geteuid() != 0:
        return []
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if shutil.which("setpriv") is None or subprocess.run([*bound, "true"]).returncode != 0:
        pytest.skip("root, and it may not give up its rights")
    return bound


@pytest.fixture(scope="session")
def own_mounts() -> list[str]:
    """What to start a shell script with so that its mounts are its own."""
    command = ["unshare", "-m"]
    trial = [*command, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt"]
    if (
        sys.platform != "linux"
        or shutil.which("unshare") is None
        or subprocess.run(trial, capture_output=True).returncode != 0
    ):
        pytest.skip("mounting is not permitted here")
    return command


@pytest.fixture(scope="session")
def pool():
    """Two commands at a time: tests of a module start theirs together and wait for each."""
    with ThreadPoolExecutor(2) as threads:
        yield threads
        threads.shutdown(wait=False, cancel_futures=True)
