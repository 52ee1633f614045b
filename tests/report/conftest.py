"""Reports of a fabricated project, built once a session."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest

from pipeline.config import Params
from pipeline.paths import Paths
from pipeline.report.build import build_report
from pipeline.report.data import Dataset, load_dataset
from tests.report.fabricated import make_project


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> tuple[Params, Paths]:
    """A project with the dataset "one", for reading only."""
    return make_project(tmp_path_factory.mktemp("project"), "one")


@pytest.fixture(scope="session")
def real(tmp_path_factory) -> tuple[Params, Paths]:
    """A project with "lung", which the paper has too; its images are not labelled synthetic."""
    classes = ("glioma", "meningioma", "Viral Pneumonia", "healthy tissue")
    fractions = (0.05, 0.1, 0.2, 0.5, 1.0)
    root = tmp_path_factory.mktemp("real")
    return make_project(root, "lung", classes=classes, fractions=fractions, synthetic="0")


@pytest.fixture
def fresh(project, tmp_path) -> tuple[Params, Paths]:
    """A copy of the project, for a test to change."""
    params, paths = project
    shutil.copytree(paths.root, tmp_path / "copy")
    return params, Paths(tmp_path / "copy")


@pytest.fixture(scope="session")
def loaded(project) -> Dataset:
    return load_dataset("one", *project)


@pytest.fixture
def data(loaded) -> Dataset:
    """What the report reads of "one", to be changed in memory."""
    data = copy.copy(loaded)
    data.manifest, data.records = data.manifest.copy(), copy.deepcopy(data.records)
    return data


@pytest.fixture(scope="session")
def html(project) -> str:
    """The report on "one"."""
    return build_report(*project).read_text("utf-8")


@pytest.fixture(scope="session")
def wide(real) -> Path:
    """The report on "lung": five shares, four classes, quoted figures, as a real one has."""
    return build_report(*real)
