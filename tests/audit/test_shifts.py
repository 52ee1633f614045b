"""Moved copies are found wherever they come to lie between the thumbnail's pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import shift
from skimage.feature import match_template

from pipeline.audit import audit_dataset
from pipeline.audit.copies import find_copies
from pipeline.audit.descriptors import SHIFT, STRUCTURE_SIDE, structure, window
from pipeline.audit.shifts import SHIFTS, STEPS, best_shift, correlations, moved_window
from pipeline.audit.thumbnails import make_thumbnails
from tests.audit.folder import Folder, as_thumbnails, params, texture

FARTHEST = 0.03 * STRUCTURE_SIDE  # thumbnail pixels: the promised 3 % of a side
DISTANCES = [*np.arange(-1.75, 2, 0.25), -FARTHEST, FARTHEST]
DIRECTIONS = {"down": (1, 0), "right": (0, 1), "both": (1, 1), "across": (1, -1), "half": (1, 0.5)}


def moved(image: np.ndarray, down: float, right: float) -> np.ndarray:
    """The picture moved by thumbnail pixels, its edge continued."""
    pixel = len(image) / STRUCTURE_SIDE
    image = shift(image.astype(float), (down * pixel, right * pixel), order=3, mode="nearest")
    return np.clip(image, 0, 255).astype(np.uint8)


def structures(images: list[np.ndarray]) -> np.ndarray:
    return structure(np.stack([make_thumbnails(np.dstack([image] * 3))[1] for image in images]))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_copy_moved_by_any_fraction_of_a_pixel_up_to_3_percent_is_found(direction):
    down, right = DIRECTIONS[direction]
    originals = [texture(seed) for seed in range(4)]
    copies = [moved(x, d * down, d * right) for d in DISTANCES for x in originals]
    found = find_copies(as_thumbnails(copies), as_thumbnails(originals), params().audit)
    expected = [(at, at % len(originals)) for at in range(len(copies))]
    assert list(zip(found.left, found.right, strict=True)) == expected
    assert set(found.kind) == {"near"}


@pytest.mark.parametrize("turned", ["mirror", "turn"])
def test_mirrored_and_turned_copies_are_found_between_pixels_too(turned):
    change = {"mirror": np.fliplr, "turn": np.rot90}[turned]
    originals = [texture(seed) for seed in range(4)]
    copies = [change(moved(x, d, -d)) for d in (-1.5, -0.5, 0.5, 1.5) for x in originals]
    found = find_copies(as_thumbnails(originals), as_thumbnails(copies), params().audit)
    assert set(zip(found.left, found.right, strict=True)) == {(k % 4, k) for k in range(16)}
    assert set(found.kind) == {turned}


def test_a_test_image_moved_by_half_a_pixel_is_marked(tmp_path):
    folder = Folder(tmp_path)
    for seed in range(6):
        folder.save(f"train/{seed}.png", texture(seed), split="train")
        folder.save(f"test/{seed}.png", moved(texture(seed), 0.5, -0.5), split="test")
    summary = audit_dataset("toy", params(), folder.write().paths)
    assert summary["test_images_with_copy_in_train"]["near"] == 6


@pytest.mark.parametrize("dataset", ["brain", "breast", "covid", "lung"])
def test_real_images_moved_by_fractions_of_a_pixel_are_found(shared, dataset):
    """Twenty of each set, moved by whole pixels of their own and their edge continued."""
    files = sorted((shared / "data" / dataset).rglob("*.jp*g")) + sorted(
        (shared / "data" / dataset).rglob("*.png")
    )
    chosen = np.random.default_rng(5).choice(len(files), 20, replace=False)
    images = [np.asarray(Image.open(files[at]).convert("L")) for at in chosen]
    for share in (0.004, 0.008, 0.012, 0.024, 0.03):
        for down, right in ((share, share), (-share, share), (0, -share)):
            copies = []
            for image in images:
                y, x = (int(m * n) for m, n in zip((down, right), image.shape, strict=True))
                padded = np.pad(image, ((abs(y), abs(y)), (abs(x), abs(x))), mode="edge")
                rows, columns = (
                    slice(abs(m) - m, abs(m) - m + n)
                    for m, n in zip((y, x), image.shape, strict=True)
                )
                copies.append(padded[rows, columns])
            found = find_copies(as_thumbnails(copies), as_thumbnails(images), params().audit)
            own = (found.left == found.right) & (found.kind == "near")
            assert own.sum() >= 19, (share, down, right)


def test_at_whole_pixels_it_is_match_template():
    images, templates = (
        structures([texture(s) for s in (1, 2, 3)]),
        structures([moved(texture(s), 0, 1) for s in (1, 5, 3)]),
    )
    expected = [match_template(i, window(t)) for i, t in zip(images, templates, strict=True)]
    found = correlations(images, templates)
    np.testing.assert_allclose(found[:, ::STEPS, ::STEPS], expected, atol=1e-5)
    assert found.shape == (3, len(SHIFTS), len(SHIFTS))
    np.testing.assert_array_equal(best_shift(images, templates), found.max(axis=(1, 2)))


@pytest.mark.parametrize(("down", "right"), [(0.5, 0.5), (-1.25, 0.75), (1.75, -1.5), (0.25, 0)])
def test_between_pixels_the_peak_lies_where_the_image_was_moved(down, right):
    images = [texture(seed) for seed in range(4)]
    found = correlations(structures([moved(x, down, right) for x in images]), structures(images))
    for surface in found:
        at = SHIFTS[list(np.unravel_index(surface.argmax(), surface.shape))]
        np.testing.assert_allclose(at, (down, right), atol=1 / STEPS)
        assert 0.93 < surface.max() < 1.01


def test_different_pictures_are_no_more_alike_between_pixels():
    a, b = (
        structures([texture(s) for s in range(40)]),
        structures([texture(s) for s in range(40, 80)]),
    )
    found = correlations(a, b)
    assert found.max() < 0.5
    assert found.max() < 1.1 * found[:, ::STEPS, ::STEPS].max() + 0.05


def test_a_window_moved_by_a_fraction_lies_between_its_neighbours():
    images = np.random.default_rng(0).random((2, 16, 16)).astype(np.float32)
    expected = 0.75 * window(images, SHIFT, -1) + 0.25 * window(images, SHIFT - 1, -1)
    np.testing.assert_allclose(moved_window(images, SHIFT - 0.25, -1), expected, atol=1e-6)
    np.testing.assert_allclose(
        moved_window(images, -1, SHIFT), window(images, -1, SHIFT), atol=1e-6
    )
