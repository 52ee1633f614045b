"""Views: pixel for pixel what their names say."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.encode.views import VIEWS, ViewInput, random_mask


@pytest.fixture
def source():
    rng = np.random.default_rng(3)
    image = rng.integers(1, 256, (40, 60, 3), dtype=np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:50] = True
    mask[12, 32] = False
    truth = np.zeros_like(mask)
    truth[5:9, 5:9] = True
    return ViewInput(image, mask, seed="a", truth=truth, margin=0.1)


def test_whole_masked_oracle_and_binary(source):
    assert VIEWS["whole"](source) is source.image
    assert np.array_equal(VIEWS["masked"](source), source.image * source.mask[..., None])
    assert np.array_equal(VIEWS["oracle"](source), source.image * source.truth[..., None])
    binary = VIEWS["binary"](source)
    assert np.array_equal(binary, np.repeat(source.mask[..., None] * np.uint8(255), 3, 2))


def test_crop_is_the_box_with_a_margin_within_the_image(source):
    assert np.array_equal(VIEWS["crop"](source), source.image[9:21, 28:52])
    mask = np.zeros((20, 20), bool)
    mask[0:10, 10:20] = True
    image = np.arange(1200, dtype=np.uint16).reshape(20, 20, 3).astype(np.uint8)
    assert np.array_equal(VIEWS["crop"](ViewInput(image, mask)), image[0:11, 9:20])


@pytest.mark.parametrize("seed", ["a", "b", "c", "d"])
def test_the_random_region_has_the_masks_shape_and_area_at_another_position(source, seed):
    region = random_mask(source.mask, seed)
    assert np.array_equal(region, random_mask(source.mask, seed))
    assert np.array_equal(region, random_mask(source.mask, "a")) == (seed == "a")
    view = VIEWS["random"](ViewInput(source.image, source.mask, seed=seed))
    assert np.array_equal(view, source.image * region[..., None])
    assert region.sum() == source.mask.sum() and not (region & source.mask).any()
    rows, columns = np.nonzero(region)
    cut = region[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    own = source.mask[10:20, 30:50]
    assert any(np.array_equal(cut, f) for f in (own, own[::-1], own[:, ::-1], own[::-1, ::-1]))


def test_fills_replace_what_is_outside_the_mask(source):
    mean = VIEWS["masked"](ViewInput(source.image, source.mask, fill="mean", mean=(0.5, 0.2, 1)))
    assert (mean[~source.mask] == (128, 51, 255)).all()
    blur = VIEWS["masked"](ViewInput(source.image, source.mask, fill="blur"))
    for seen in (mean, blur):
        assert np.array_equal(seen[source.mask], source.image[source.mask])
    outside = ~source.mask
    assert blur[outside].std() < 0.3 * source.image[outside].std()
    assert abs(blur[outside].mean() - source.image[outside].mean()) < 10


@pytest.mark.promise("Soft views keep the image inside the mask and soften what is outside.")
def test_soft_views_keep_the_inside_and_soften_the_outside_whatever_the_fill_is(source):
    image, mask = source.image, source.mask
    for fill in ("black", "mean", "blur"):
        given = replace(source, fill=fill, mean=(0.5, 0.2, 1), dim=0.35)
        seen = {name: VIEWS[name](given) for name in ("dim", "blur", "grey")}
        assert all(np.array_equal(view[mask], image[mask]) for view in seen.values())
        assert np.array_equal(seen["dim"][~mask], np.rint(0.35 * image[~mask].astype(float)))
        assert (seen["grey"][~mask] == (128, 51, 255)).all()
        filled = VIEWS["masked"](replace(source, fill="blur"))
        assert np.array_equal(seen["blur"], filled)
    ends = [VIEWS["dim"](replace(source, dim=factor)) for factor in (0.0, 1.0)]
    assert np.array_equal(ends[0], VIEWS["masked"](source)) and np.array_equal(ends[1], image)


@pytest.mark.parametrize("seed", ["a", "b", "c", "d"])
def test_the_random_crop_has_the_size_of_the_crop_at_a_place_that_the_seed_decides(source, seed):
    view, crop = (VIEWS[name](replace(source, seed=seed)) for name in ("random-crop", "crop"))
    assert view.shape == crop.shape
    ((row, column),) = np.argwhere((source.image == view[0, 0]).all(axis=2))
    height, width = view.shape[:2]
    assert np.array_equal(view, source.image[row : row + height, column : column + width])
    assert np.array_equal(view, VIEWS["random-crop"](source)) == (seed == "a")
    full = replace(source, mask=np.ones_like(source.mask), seed=seed)
    assert np.array_equal(VIEWS["random-crop"](full), source.image)
