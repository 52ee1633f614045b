"""A small trained SAM2 and images made on the spot."""

from __future__ import annotations

import pytest

from pipeline.config import SegmentParams
from pipeline.segment.guide import Guide, Words
from tests.encode.conftest import small_clip
from tests.project import Project
from tests.segment.small_sam2 import scene, trained


@pytest.fixture(scope="session")
def sam2():
    """A SAM2ImagePredictor that finds bright ellipses."""
    return trained()


@pytest.fixture(scope="session")
def guide():
    """Words, and a CLIP with random weights."""
    return Guide(Words(object=["a bright ellipse"], background=["grey noise"]), small_clip())


@pytest.fixture
def params():
    """`params(prompt="auto", ...)`: the segment section with some values changed."""
    return lambda **values: SegmentParams(**{"grid": 3, **values})


@pytest.fixture
def ellipses(tmp_path):
    """`ellipses(5)`: a project of so many images with ground truth, of cats and dogs."""

    def make(count: int) -> Project:
        made = Project(tmp_path)
        for i in range(count):
            image, region = scene(i, 40 + 5 * i, 70 - 6 * i)
            made.add(f"{i}.png", image, region, label="cat" if i % 2 else "dog")
        return made

    return make


@pytest.fixture(scope="session")
def scenes():
    """Seven images of several sizes with their true regions."""
    return [scene(i, 40 + 7 * i, 80 - 5 * i) for i in range(7)]
