"""What all tests share: which run on one worker, the folder of real images, and a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

REPO = Path(__file__).resolve().parent.parent
# Their tests share projects that take minutes to build; the longest first.
BUILT_ONCE = ("end_to_end", "faults", "report")

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several workers: a core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with what takes longest."""
    order = (*BUILT_ONCE, "")
    items.sort(key=lambda item: order.index(_shared_by(item.nodeid) or ""))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Keep on one worker what shares costly fixtures: a folder of `BUILT_ONCE`, else a file."""

    class ByFolder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _shared_by(nodeid) or nodeid.split("::")[0]

    return ByFolder(config, log)


def _shared_by(nodeid: str) -> str | None:
    folder = Path(nodeid.split("::")[0]).parent.name
    return folder if folder in BUILT_ONCE else None


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


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium, the system's own."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    assert found, "the report's tests need Chromium (apt-get install chromium)"
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages with a long patience, since test machines may be busy; closes them after."""
    context = browser.new_context()
    context.set_default_timeout(240_000)

    def make(width: int = 1280, height: int = 900) -> Page:
        made = context.new_page()
        made.set_viewport_size({"width": width, "height": height})
        return made

    yield make
    context.close()
