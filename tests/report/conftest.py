"""A built report of fabricated inputs, and a browser to open it in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from make_inputs import project
from playwright.sync_api import Browser, Page, sync_playwright

from pipeline.config import Params
from pipeline.paths import Paths
from pipeline.report import build_report


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """A report on two datasets with everything and one with nothing but its name."""
    params, paths = project(tmp_path_factory.mktemp("report"), "set one", "set two")
    return build_report(params, paths, ["set one", "set two", "not yet"])


@pytest.fixture(scope="session")
def _one(tmp_path_factory) -> tuple[Params, Paths]:
    return project(tmp_path_factory.mktemp("one"), "one")


@pytest.fixture(scope="session")
def ready(_one) -> Paths:
    """A project with the dataset "one", for reading only."""
    return _one[1]


@pytest.fixture
def fresh(_one, tmp_path) -> tuple[Params, Paths]:
    """A copy of that project, for a test to change."""
    params, paths = _one
    shutil.copytree(paths.root, tmp_path / "project")
    return params, Paths(tmp_path / "project")


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


@pytest.fixture
def page(new_page, built: Path) -> Page:
    """The built report, opened at desktop width."""
    opened = new_page()
    opened.goto(built.as_uri())
    return opened
