"""Small image folders for the tests of intake."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.manifest import read_manifest
from pipeline.paths import Paths

CLASSES = {"cat": 6, "dog": 6}


def saved(path: Path, values: np.ndarray, **options: object) -> Path:
    """Write levels of grey (h, w); the suffix decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path, **options)
    return path


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (12, 9)) -> Path:
    """Write a small random picture; `size` is (w, h)."""
    return saved(path, np.random.default_rng(seed).integers(0, 255, size[::-1], dtype=np.uint8))


def mask(path: Path, area: int, size: tuple[int, int] = (12, 9)) -> None:
    """Write a mask of `area` pixels; `size` is (w, h)."""
    saved(path, 255 * (np.arange(size[0] * size[1]) < area).reshape(size[::-1]))


def pages(path: Path, count: int) -> None:
    """Write a TIFF of several pages."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = [Image.new("L", (8, 6), 10 * shade + 10) for shade in range(count)]
    made[0].save(path, save_all=True, append_images=made[1:])


def zip_of(path: Path, folder: Path, prefix: str = "") -> Path:
    """Pack all files of a folder, below `prefix`."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def rows_of(paths: Paths, dataset: str = "d") -> pd.DataFrame:
    """The manifest by image_id; its files are checked too."""
    frame = read_manifest(paths.manifest(dataset), data=paths.data(dataset))
    return frame.set_index("image_id", drop=False)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A project folder without files."""
    for name in ("data", "data_manifests"):
        (tmp_path / "project" / name).mkdir(parents=True)
    return Paths(tmp_path / "project")


@pytest.fixture
def project(tmp_path: Path, repo: Path) -> Path:
    """An empty project folder with parameters."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "params.yaml").write_text((repo / "params.yaml").read_text())
    return root


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder train|test / cat|dog with six images per class and split."""
    root = tmp_path / "scans"
    for s, split in enumerate(("train", "test")):
        for c, label in enumerate(CLASSES):
            for i in range(CLASSES[label]):
                picture(root / split / label / f"{i}.png", seed=100 * s + 10 * c + i)
    return root


@pytest.fixture
def busi(tmp_path: Path) -> Path:
    """Three classes of two images, a mask next to each; one image has two masks."""
    root = tmp_path / "Dataset_BUSI_with_GT"
    for c, label in enumerate(("benign", "malignant", "normal")):
        for i in (1, 2):
            picture(root / label / f"{label} ({i}).png", seed=10 * c + i)
            mask(root / label / f"{label} ({i})_mask.png", 5 * c + i)
    mask(root / "benign" / "benign (2)_mask_1.png", 9)
    return root
