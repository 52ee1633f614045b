"""The search leaves no pair out that comparing each with each would find, whatever the images."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.fft import dctn
from scipy.ndimage import shift

from pipeline.audit import nearest, search
from pipeline.audit.search import ORIENTATIONS, find_copies, orient, structure, unit
from tests.audit.folder import as_thumbnails, film, params, texture

PROMISE = "The search for copies finds what comparing each image with each other finds."
REACH = 0.2
SPECTRA = {  # of the 14 x 14 coefficients
    "even": lambda i, j: 1.0 + 0 * i,
    "low": lambda i, j: 1 / (1 + i + j) ** 2,
    "high": lambda i, j: (1.0 + i * j) ** 2,
    "one class": lambda i, j: 1e-3 + (i % 2) * (j % 2),
}


def turned(x: np.ndarray, orientation: int) -> np.ndarray:
    """The coefficients of turned images, by transposing and signs."""
    transpose, rows, columns = ORIENTATIONS[orientation]
    odd = (-1.0) ** np.arange(x.shape[-1])
    x = x.swapaxes(-1, -2) if transpose else x
    return x * (odd[:, None] if rows else 1) * (odd if columns else 1)


def unit_length(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=(-2, -1), keepdims=True), 1e-9)


@pytest.mark.promise(PROMISE)
@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_near_vectors_are_those_of_all_comparisons(spectrum, mirrored, monkeypatch):
    """Near pairs are planted just inside and just outside of the reach; some vectors are alike."""
    for name, value in {"TILE_ROWS": 40, "TILE_COLUMNS": 37, "PART": 50, "PARTS": 2}.items():
        monkeypatch.setattr(nearest, name, value)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 14, 14)) * SPECTRA[spectrum](*np.mgrid[:14, :14])
    x[30:80] = x[0] + 0.3 * x[30:80]  # alike
    x = unit_length(x)
    for k in range(100, 190):  # planted, in all orientations
        other = unit_length(x[k] - (x[k] * x[k - 100]).sum() * x[k - 100])
        cosine = 1 - REACH + rng.choice([-1, 1]) * 10.0 ** rng.integers(-4, -1)
        x[k] = turned(cosine * x[k - 100] + np.sqrt(1 - cosine**2) * other, k % 8)
    x[199] = 0
    x = x.astype(np.float32)
    variants = [x, unit_length(x + 0.1 * rng.standard_normal(x.shape)).astype(np.float32)]
    orientations, flat = range(8 if mirrored else 1), x.reshape(200, -1).astype(float)
    scores = np.array(
        [
            -((turned(v, o).reshape(200, 1, -1) - flat) ** 2).sum(axis=2) / 2 + REACH
            for o, v in product(orientations, variants)
        ]
    ).reshape(-1, 2, 200, 200)
    scores = scores.max(axis=1)
    vectors = nearest.Vectors(200, x[:60], REACH)
    for start in (0, 120):
        vectors.put(start, x[start : start + 120])
    pairs, cut = vectors.near(variants, 1000, mirrored=mirrored)
    wrong = set(map(tuple, pairs)) ^ set(map(tuple, np.argwhere(scores > 0)))
    assert all(abs(scores[at]) < 2e-6 for at in wrong) and not len(cut)  # where rounding decides
    block = [v[20:90] for v in variants]
    pairs, cut = vectors.near(block, 3, after=20, mirrored=mirrored)
    expected, more = set(), set()
    for o, row, start in product(orientations, range(20, 90), range(20, 200, 50)):
        near = np.array([k for k in range(start, min(start + 50, 200)) if k > row], int)
        near = near[scores[o, row, near] > 0]
        expected |= {(o, row - 20, k) for k in near[np.argsort(-scores[o, row, near])][:3]}
        more |= {(o, row - 20)} if len(near) > 3 else set()
    assert set(map(tuple, pairs)) == expected and set(map(tuple, cut)) == more and more


def low(image: np.ndarray, count: int) -> np.ndarray:
    return dctn(unit(image[None]).reshape(image.shape), norm="ortho")[:count, :count]


def windows(image: np.ndarray, moves: tuple[float, ...]) -> np.ndarray:
    """The low frequencies of moved windows of a structure, of length 1."""
    moved = [shift(image, (-d, -r), order=1)[2:-2, 2:-2] for d, r in product(moves, repeat=2)]
    return unit_length(np.array([low(x, search.DETAIL_LOW) for x in moved])).reshape(len(moved), -1)


@pytest.mark.promise(PROMISE)
def test_copies_are_those_of_looking_closely_at_all_candidates(monkeypatch):
    """Mixtures, whose structures correlate on both sides of what counts as a copy; films, alike."""
    first, second = texture(1, 64).astype(float), texture(2, 64).astype(float)
    images = [film(seed, 64) for seed in range(4)]
    for k, part in enumerate(np.linspace(0.05, 0.6, 12)):
        mixed = shift((1 - part) * first + part * second, (0.25 * (k % 3), -0.5), mode="nearest")
        images.append(np.ascontiguousarray(orient(mixed.astype(np.uint8)[None], k % 8)[0]))
    made, chosen = as_thumbnails(images), params().audit
    found, _ = find_copies(made, None, chosen)
    details, pairs = structure(made.structure), []
    plains = np.array([low(x, search.PLAIN_LOW) for x in made.plain])
    stored = np.array([windows(x, (0,))[0] for x in details])
    for o, i in product(range(len(ORIENTATIONS)), range(len(images))):
        plain = low(orient(made.plain[i : i + 1], o)[0], search.PLAIN_LOW)
        near = ((plain - plains) ** 2).sum(axis=(1, 2)) / 2 < 1 - chosen.min_correlation
        of = windows(orient(details[i : i + 1], o)[0], search.MOVES)
        near |= (of @ stored.T).max(axis=0) > search.CANDIDATE
        pairs += [(o, i, j) for j in np.flatnonzero(near) if j > i]
    monkeypatch.setattr(search, "possible", lambda a, b, pairs, params: np.ones(len(pairs), bool))
    judged = search._judge(made, made, np.array(pairs), chosen)
    pd.testing.assert_frame_equal(found, search._best_of_each(judged), check_exact=True)
    assert 10 < len(found) < len(pairs)
