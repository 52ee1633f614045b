"""What all tests share: the folder of real images where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


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
