"""The search misses nothing that it should find, in blocks of any size."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.audit.descriptors import (
    ORIENTATIONS,
    frequencies,
    orient,
    orient_frequencies,
    unit,
)
from pipeline.audit.search import bases, nearest


def near_vectors(n: int, planted: int) -> np.ndarray:
    """Random unit vectors, the last `planted` of them close to the first ones."""
    rng = np.random.default_rng(0)
    far = rng.standard_normal((n - planted, 40))
    near = far[:planted] + 0.1 * rng.standard_normal((planted, 40))
    return unit(np.concatenate([far, near]))


@pytest.mark.parametrize("rows", [7, 64, 1000])
def test_blocks_of_any_size_find_every_pair(rows):
    vectors = near_vectors(500, 60)
    base, found = bases(vectors, 0.1), []
    for start in range(0, len(vectors), rows):
        i, j, _ = nearest([vectors[start : start + rows]], base, 99, after=start, width=96)
        found += zip((start + i).tolist(), j.tolist(), strict=True)
    expected = np.argwhere(np.triu(vectors @ vectors.T, 1) > 0.9).tolist()
    assert sorted(found) == [tuple(pair) for pair in expected] and len(found) == 60


def test_the_nearest_partners_are_kept_when_there_are_too_many():
    vectors = unit(np.random.default_rng(0).standard_normal(40) + np.eye(40) * 0.05)
    rows, columns, cut = nearest([vectors[:1]], bases(vectors, 0.1), 5)
    assert (list(cut), list(rows)) == ([0], [0] * 5)
    assert set(columns) == set(np.argsort(-(vectors @ vectors[0]))[:5])


@pytest.mark.parametrize("orientation", range(len(ORIENTATIONS)))
def test_turning_coefficients_is_turning_the_image(orientation):
    images = np.random.default_rng(0).random((3, 32, 32))
    turned = orient(images, orientation)
    np.testing.assert_allclose(
        orient_frequencies(frequencies(images, 8), orientation), frequencies(turned, 8), atol=1e-6
    )
    assert sum(np.array_equal(turned, orient(images, o)) for o in range(8)) == 1
