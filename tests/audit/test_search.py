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
from pipeline.audit.search import Vectors


def vectors(n: int, planted: int) -> np.ndarray:
    """Random unit vectors, the last `planted` of them close to the first ones."""
    rng = np.random.default_rng(0)
    far = rng.standard_normal((n - planted, 40))
    near = far[:planted] + 0.1 * rng.standard_normal((planted, 40))
    return unit(np.concatenate([far, near]))


def brute(base: np.ndarray, correlation: float) -> set[tuple[int, int]]:
    i, j = np.nonzero(np.triu(base @ base.T, 1) > correlation)
    return set(zip(i.tolist(), j.tolist(), strict=True))


def pairs(base: np.ndarray, rows: int, **options) -> set[tuple[int, int]]:
    made = Vectors(base, 0.1, 99, **options)
    found = set()
    for start in range(0, len(base), rows):
        r, c, _ = made.near([base[start : start + rows]], after=start)
        i, j = np.minimum(start + r, c), np.maximum(start + r, c)
        found |= set(zip(i[i != j].tolist(), j[i != j].tolist(), strict=True))
    return found


@pytest.mark.parametrize("rows", [7, 64, 1000])
def test_blocks_of_any_size_find_every_pair(rows):
    base = vectors(500, 60)
    assert pairs(base, rows, columns=96) == brute(base, 0.9)
    assert len(brute(base, 0.9)) == 60


def test_the_nearest_partners_are_kept_when_there_are_too_many():
    base = unit(np.random.default_rng(0).standard_normal(40) + np.eye(40) * 0.05)
    rows, columns, cut = Vectors(base, 0.1, 5).near([base[:1]])
    assert list(cut) == [0]
    assert list(rows) == [0] * 5
    assert set(columns) == set(np.argsort(-(base @ base[0]))[:5])


@pytest.mark.parametrize("orientation", range(len(ORIENTATIONS)))
def test_turning_coefficients_is_turning_the_image(orientation):
    images = np.random.default_rng(0).random((3, 32, 32))
    turned = orient(images, orientation)
    np.testing.assert_allclose(
        orient_frequencies(frequencies(images, 8), orientation), frequencies(turned, 8), atol=1e-6
    )
    assert sum(np.array_equal(turned, orient(images, o)) for o in range(8)) == 1
