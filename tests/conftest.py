"""Fixtures of all tests: the small project and the folder of real images."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from unittest import mock

import filelock
import pytest

from tests.site import HALF, IMAGES, Site

REPO = Path(__file__).resolve().parent.parent
LONGEST = ("golden", "end_to_end", "audit", "faults", "report")
"""Folders of tests that take longest: their files are started first."""

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of commands; sums of floats depend on it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest tests."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.parent.name, len(order)))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout under test."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, beside the checkout or in PIPELINE_SHARED."""
    folder = Path(os.environ.get("PIPELINE_SHARED", REPO.parent / "shared"))
    if not (folder / "data" / "README.md").is_file():
        pytest.skip(f"no real images at {folder}")
    return folder


@pytest.fixture(scope="module")
def open_page():
    """A function that opens an address in the system's Chromium, 1,200 pixels wide; what the
    browser says and asks for is kept as `page.heard`."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser")
    assert found, "these tests need Chromium (apt-get install chromium)"
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=found, args=["--no-sandbox"])

        def opened(url: str):
            page = running.new_page(viewport={"width": 1200, "height": 900})
            page.set_default_timeout(240_000)  # test machines may be busy
            page.heard = []
            page.on("console", lambda m: page.heard.append(f"console {m.type}: {m.text}"))
            page.on("pageerror", lambda e: page.heard.append(f"error: {e}"))
            page.on("request", lambda r: page.heard.append(f"request: {r.url[:80]}"))
            page.goto(url)
            return page

        yield opened
        running.close()


@pytest.fixture(scope="module")
def s3():
    """An S3 server with a bucket, to which the environment leads."""
    from tests.s3 import S3

    with mock.patch.dict(os.environ):
        server = S3.with_bucket()
        yield server
        server.stop()


@pytest.fixture
def place(s3, request):
    """A folder of the bucket for one test, and a server that runs, whatever the test before did."""
    from pipeline.remote import as_path

    s3.start()
    s3.denied = False
    s3.asked.clear()
    s3.images.clear()
    return as_path(f"s3://bucket/{request.node.name.split('[')[0]}")


@pytest.fixture(scope="session")
def _sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with `drawn`, `half` and `built`, made once for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "sites"
    with filelock.FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            drawn = Site.create(folder / "drawn")
            drawn.run("pipeline", "data", "sample", "--images", str(IMAGES))
            half = drawn.copy(folder / "half")
            half.stage("segment", "--limit", str(HALF))
            half.stage("encode", *half.only(half.ids()[:HALF]))
            half.copy(folder / "built").run("dvc", "repro")
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="session")
def drawn(_sites: Path) -> Site:
    """Phantoms of two datasets, nothing computed. For reading only."""
    return Site(_sites / "drawn")


@pytest.fixture(scope="session")
def half(_sites: Path) -> Site:
    """The first images of `breast` are segmented and encoded. For reading only."""
    return Site(_sites / "half")


@pytest.fixture(scope="session")
def built(_sites: Path) -> Site:
    """Everything was made by `dvc repro`. For reading only."""
    return Site(_sites / "built")


@pytest.fixture
def fresh(drawn: Site, tmp_path: Path) -> Site:
    """A copy of `drawn` that a test may change."""
    return drawn.copy(tmp_path / "site")


@pytest.fixture
def site(built: Site, tmp_path: Path) -> Site:
    """A copy of `built` that a test may change."""
    return built.copy(tmp_path / "site")
