"""Small image folders for the tests of intake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.intake import AddSummary, add_dataset
from pipeline.paths import Paths


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (12, 9)) -> Path:
    """Write a small random picture (its suffix decides the format); `size` is (w, h)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, size[::-1], dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """An empty project folder."""
    (tmp_path / "project").mkdir()
    return Paths(tmp_path / "project")


@pytest.fixture
def project(tmp_path: Path, repo: Path) -> Path:
    """An empty project folder with parameters."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "params.yaml").write_text((repo / "params.yaml").read_text())
    return root


@pytest.fixture(scope="session")
def brain(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Paths, AddSummary]:
    """The real brain set, added once with its masks and known groups."""
    data, made = shared / "data", Paths(tmp_path_factory.mktemp("brain"))
    summary = add_dataset(
        "brain",
        data / "brain",
        paths=made,
        masks=data / "brain_masks",
        groups=data / "brain_groups.csv",
    )
    return made, summary


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder train|test / cat|dog with six images each class and split."""
    root = tmp_path / "scans"
    for s, split in enumerate(("train", "test")):
        for c, label in enumerate(("cat", "dog")):
            for i in range(6):
                picture(root / split / label / f"{i}.png", seed=100 * s + 10 * c + i)
    return root
