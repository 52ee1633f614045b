"""The search misses nothing it should see, block by block and by index."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.audit.copies import find_copies
from pipeline.audit.descriptors import (
    ORIENTATIONS,
    frequencies,
    inverse,
    orient,
    orient_frequencies,
    structure,
    unit,
)
from pipeline.audit.groups import connect, name_groups
from pipeline.audit.search import Base
from pipeline.audit.thumbnails import make_thumbnails
from tests.audit.folder import as_thumbnails, params, texture


def vectors(n: int, planted: int) -> np.ndarray:
    """Random unit vectors, the last `planted` of them close to the first ones."""
    rng = np.random.default_rng(0)
    far = rng.standard_normal((n - planted, 40))
    near = far[:planted] + 0.1 * rng.standard_normal((planted, 40))
    return unit(np.concatenate([far, near]))


def brute(base: np.ndarray, threshold: float) -> set[tuple[int, int]]:
    i, j = np.nonzero(np.triu(base @ base.T, 1) > threshold)
    return set(zip(i.tolist(), j.tolist(), strict=True))


def pairs(base: Base, rows: int, partners: int = 99) -> set[tuple[int, int]]:
    found = set()
    for start in range(0, len(base.vectors), rows):
        query = base.vectors[start : start + rows]
        r, c, _ = base.above([query], 0.9, partners=partners, after=start)
        i, j = np.minimum(start + r, c), np.maximum(start + r, c)
        found |= set(zip(i[i != j].tolist(), j[i != j].tolist(), strict=True))
    return found


@pytest.mark.parametrize("rows", [7, 64, 1000])
def test_blocks_of_any_size_find_every_pair(rows):
    base = vectors(500, 60)
    assert pairs(Base(base, columns=96), rows) == brute(base, 0.9)
    assert len(brute(base, 0.9)) == 60


def test_the_index_finds_the_same_pairs_as_the_blocks():
    base = vectors(3000, 300)
    assert pairs(Base(base, index=True), 512) == brute(base, 0.9)


def test_the_closest_partners_are_kept_when_there_are_too_many():
    base = unit(np.random.default_rng(0).standard_normal(40) + np.eye(40) * 0.01)
    rows, columns, cut = Base(base).above([base[:1]], 0.9, partners=5)
    assert list(cut) == [0]
    assert list(rows) == [0] * 5
    assert set(columns) == set(np.argsort(-(base @ base[0]))[:5])


def test_a_query_counts_by_its_closest_variant():
    base = vectors(50, 0)
    rows, columns, cut = Base(base).above([-base[:3], base[:3]], 0.9, partners=9)
    assert list(zip(rows, columns, strict=True)) == [(0, 0), (1, 1), (2, 2)]
    assert not len(cut)


@pytest.mark.parametrize("orientation", range(len(ORIENTATIONS)))
def test_turning_coefficients_is_turning_the_image(orientation):
    images = np.random.default_rng(0).random((3, 32, 32))
    np.testing.assert_allclose(
        orient_frequencies(frequencies(images, 8), orientation),
        frequencies(orient(images, orientation), 8),
        atol=1e-6,
    )


@pytest.mark.parametrize("orientation", range(len(ORIENTATIONS)))
def test_the_inverse_orientation_undoes_it(orientation):
    image = np.arange(16).reshape(1, 4, 4)
    np.testing.assert_array_equal(orient(orient(image, orientation), inverse(orientation)), image)


def test_the_eight_orientations_differ():
    image = np.arange(16).reshape(1, 4, 4)
    assert len({orient(image, o).tobytes() for o in range(8)}) == 8


def test_structure_forgets_brightness_and_contrast():
    image = make_thumbnails(np.dstack([texture(1)] * 3))[1][None]
    np.testing.assert_allclose(structure(image), structure(image * 0.5 + 40), atol=1e-4)


def test_copies_found_by_index_and_by_blocks_are_the_same():
    originals = [texture(seed, 64) for seed in range(40)]
    changed = [
        (255 * (np.rot90(image, seed % 4) / 255) ** 0.7).astype(np.uint8)
        for seed, image in enumerate(originals[:12])
    ]
    thumbnails = as_thumbnails(originals + changed)
    blocks, index = (
        find_copies(thumbnails, None, params().audit, index=index) for index in (False, True)
    )
    assert list(zip(blocks.left, blocks.right, strict=True)) == [(k, 40 + k) for k in range(12)]
    for name in ("left", "right", "kind", "by"):
        np.testing.assert_array_equal(getattr(blocks, name), getattr(index, name))
    np.testing.assert_allclose(blocks.score, index.score, atol=1e-6)


def test_chains_join_and_groups_bear_their_first_name():
    part = connect(5, np.array([4, 1]), np.array([1, 0]))
    assert list(name_groups(["e", "b", "x", "y", "a"], part)) == ["a", "a", "x", "y", "a"]
