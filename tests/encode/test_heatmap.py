"""Heat maps lie where the model looked, for images of any shape."""

import numpy as np
import pytest

from pipeline.encode import patch_similarity
from pipeline.encode.geometry import make_geometry
from pipeline.encode.heatmap import grid_to_image
from pipeline.encode.mapper import normalise


@pytest.mark.parametrize("geometry", ["pad", "squash", "crop"])
@pytest.mark.parametrize("shape", [(60, 120), (150, 50), (64, 64)])
def test_a_patch_comes_back_to_the_pixels_it_covered(geometry, shape):
    plan = make_geometry(geometry, *shape, 64)
    grid = np.zeros((16, 16))
    grid[7, 9] = 1
    seen = grid_to_image(grid, plan)
    assert seen.shape == shape
    rows, columns = np.nonzero(np.nan_to_num(seen) > 0.5)
    middle = plan.to_model_frame(np.array([columns.mean() + 0.5, rows.mean() + 0.5]))
    assert np.abs(middle - (9.5 * 4, 7.5 * 4)).max() < 1


def test_crop_geometry_says_what_the_model_has_not_seen():
    seen = grid_to_image(np.ones((4, 4)), make_geometry("crop", 40, 80, 32))
    assert np.isnan(seen[:, :19]).all()
    assert np.isnan(seen[:, 61:]).all()
    assert (seen[:, 21:59] == 1).all()


def square(height, width, y, x, side):
    image = np.full((height, width, 3), 20, np.uint8)
    image[y : y + side, x : x + side] = (250, 240, 230)
    return image


@pytest.mark.parametrize("shape", [(48, 96), (110, 40), (64, 64)])
def test_similarity_is_highest_on_the_bright_square(clip, shape):
    frame = square(32, 32, 8, 8, 8)
    patches = clip.encode_patches(normalise(frame[None], clip.mean, clip.std))[0].numpy()
    bright = patches[1, 1] - patches.reshape(-1, 24).mean(axis=0)
    side = max(shape) // 4
    y, x = (shape[0] - side) // 2, (shape[1] - side) // 2
    image = square(*shape, y, x, side)
    seen = patch_similarity(clip, image, bright)
    assert seen.shape == shape
    inside = np.zeros(shape, bool)
    inside[y : y + side, x : x + side] = True
    assert seen[inside].mean() > seen[~inside].mean() + 0.1
    rows, columns = np.nonzero(seen > np.quantile(seen, 0.9))
    assert abs(rows.mean() - (y + side / 2)) < side / 2
    assert abs(columns.mean() - (x + side / 2)) < side / 2
