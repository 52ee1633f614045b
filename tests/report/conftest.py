"""A built report of fabricated inputs, opened in a browser."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from make_inputs import project
from playwright.sync_api import Page

from pipeline.config import Params
from pipeline.paths import Paths
from pipeline.report.build import build_report
from pipeline.report.gallery import Album
from pipeline.report.inputs import DatasetInputs, load_inputs


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
def found(ready) -> DatasetInputs:
    """What the report reads of the dataset "one", to be changed in memory at will."""
    return load_inputs("one", ready)


@pytest.fixture
def album(found) -> Album:
    """Its pictures, small."""
    return Album(found, 64)


@pytest.fixture(scope="session")
def params(_one) -> Params:
    """The parameters of its report."""
    return _one[0]


@pytest.fixture(scope="session")
def html(_one, tmp_path_factory) -> str:
    """The report on "one", as it is."""
    params, paths = _one
    root = tmp_path_factory.mktemp("html") / "project"
    shutil.copytree(paths.root, root)
    return build_report(params, Paths(root)).read_text(encoding="utf-8")


@pytest.fixture
def fresh(_one, tmp_path) -> tuple[Params, Paths]:
    """A copy of that project, for a test to change."""
    params, paths = _one
    shutil.copytree(paths.root, tmp_path / "project")
    return params, Paths(tmp_path / "project")


@pytest.fixture
def page(new_page, built: Path) -> Page:
    """The built report, opened at desktop width."""
    opened = new_page()
    opened.goto(built.as_uri())
    return opened
