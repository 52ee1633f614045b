"""Views: pixel for pixel what their names say."""

import numpy as np
import pytest

from pipeline.encode.views import VIEWS, ViewInput, check_views, random_mask
from pipeline.errors import ConfigError


@pytest.fixture
def picture():
    rng = np.random.default_rng(3)
    image = rng.integers(1, 256, (40, 60, 3), dtype=np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:50] = True
    mask[12, 32] = False
    truth = np.zeros_like(mask)
    truth[5:9, 5:9] = True
    return ViewInput(image, mask, seed="a", truth=truth, margin=0.1)


def test_whole_is_the_image(picture):
    assert VIEWS["whole"](picture) is picture.image


def test_masked_is_the_image_times_the_mask(picture):
    assert np.array_equal(VIEWS["masked"](picture), picture.image * picture.mask[..., None])


def test_crop_is_the_box_with_a_margin_of_a_tenth_of_its_sides(picture):
    assert np.array_equal(VIEWS["crop"](picture), picture.image[9:21, 28:52])


def test_crop_at_the_border_stays_inside_the_image():
    mask = np.zeros((20, 20), bool)
    mask[0:10, 10:20] = True
    image = np.arange(1200, dtype=np.uint16).reshape(20, 20, 3).astype(np.uint8)
    assert np.array_equal(VIEWS["crop"](ViewInput(image, mask)), image[0:11, 9:20])


def test_binary_is_the_mask_in_white(picture):
    seen = VIEWS["binary"](picture)
    assert np.array_equal(seen == 255, np.repeat(picture.mask[..., None], 3, 2))
    assert set(np.unique(seen)) == {0, 255}


def test_oracle_is_the_image_times_the_ground_truth(picture):
    assert np.array_equal(VIEWS["oracle"](picture), picture.image * picture.truth[..., None])


@pytest.mark.parametrize("truth", [None, np.zeros((40, 60), bool)])
def test_oracle_does_not_exist_without_a_region_of_ground_truth(picture, truth):
    assert VIEWS["oracle"](ViewInput(picture.image, picture.mask, truth=truth)) is None


def test_random_view_is_the_image_times_a_region_elsewhere(picture):
    region = random_mask(picture.mask, "a")
    assert np.array_equal(VIEWS["random"](picture), picture.image * region[..., None])


@pytest.mark.parametrize("seed", ["a", "b", "c", "d"])
def test_random_region_has_the_masks_own_shape_and_area_in_another_place(picture, seed):
    region = random_mask(picture.mask, seed)
    assert region.sum() == picture.mask.sum()
    rows, columns = np.nonzero(region)
    cut = region[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    own = picture.mask[10:20, 30:50]
    assert any(np.array_equal(cut, f) for f in (own, own[::-1], own[:, ::-1], own[::-1, ::-1]))
    assert not (region & picture.mask).any()


def test_random_region_is_decided_by_its_seed(picture):
    regions = [random_mask(picture.mask, seed) for seed in ("a", "a", "b")]
    assert np.array_equal(regions[0], regions[1])
    assert not np.array_equal(regions[0], regions[2])


def test_random_region_of_a_full_mask_is_the_mask():
    assert random_mask(np.ones((5, 7), bool), "x").all()
    assert not random_mask(np.zeros((5, 7), bool), "x").any()


def test_fill_mean_is_the_models_mean_colour(picture):
    seen = VIEWS["masked"](ViewInput(picture.image, picture.mask, fill="mean", mean=(0.5, 0.2, 1)))
    assert (seen[~picture.mask] == (128, 51, 255)).all()
    assert np.array_equal(seen[picture.mask], picture.image[picture.mask])


def test_fill_blur_keeps_the_surroundings_without_their_detail(picture):
    seen = VIEWS["masked"](ViewInput(picture.image, picture.mask, fill="blur"))
    assert np.array_equal(seen[picture.mask], picture.image[picture.mask])
    outside = ~picture.mask
    assert seen[outside].std() < 0.3 * picture.image[outside].std()
    assert abs(seen[outside].mean() - picture.image[outside].mean()) < 10


def test_views_are_checked_by_name():
    assert check_views(["whole", "binary"]) == ("whole", "binary")
    with pytest.raises(ConfigError, match=r"unknown hole.*whole, masked"):
        check_views(["hole"])
    with pytest.raises(ConfigError, match="twice"):
        check_views(["whole", "whole"])
    with pytest.raises(ConfigError):
        check_views([])
