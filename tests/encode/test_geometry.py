"""Geometry: open_clip's own preprocessing where it is promised, nothing lost where that is."""

import numpy as np
import pytest
from open_clip.transform import image_transform
from PIL import Image

from pipeline.encode.geometry import make_geometry
from pipeline.encode.preprocess import normalise

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = [(40, 90), (91, 37), (64, 64), (33, 32), (20, 30), (300, 217)]


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("geometry", "mode"), [("crop", "shortest"), ("squash", "squash")])
@pytest.mark.parametrize("shape", SIZES)
def test_crop_and_squash_are_bit_equal_to_open_clips_preprocessing(
    shape, geometry, mode, interpolation
):
    image = picture(*shape)
    theirs = image_transform(
        32, is_train=False, mean=MEAN, std=STD, resize_mode=mode, interpolation=interpolation
    )(Image.fromarray(image))
    frame = make_geometry(geometry, *shape, 32).apply(image, interpolation=interpolation)
    ours = normalise(frame[None], MEAN, STD)[0]
    assert np.array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("shape", SIZES)
def test_pad_equals_open_clips_longest_mode(shape):
    image = picture(*shape)
    theirs = image_transform(32, is_train=False, mean=MEAN, std=STD, resize_mode="longest")
    ours = normalise(make_geometry("pad", *shape, 32).apply(image)[None], MEAN, STD)[0]
    assert np.array_equal(ours.numpy(), theirs(Image.fromarray(image)).numpy())


def test_pad_keeps_the_whole_image_between_bars_of_the_fill():
    frame = make_geometry("pad", 20, 80, 40).apply(np.full((20, 80, 3), 200, np.uint8), (7, 8, 9))
    assert (frame[15:25] == 200).all()
    assert (frame[:15] == (7, 8, 9)).all()
    assert (frame[25:] == (7, 8, 9)).all()


def test_pad_keeps_a_line_of_a_film_far_wider_than_high():
    assert (make_geometry("pad", 1, 1000, 32).apply(np.full((1, 1000, 3), 50, np.uint8))).any()


def test_one_pixel_image_passes_every_geometry():
    for name in ("pad", "squash", "crop"):
        frame = make_geometry(name, 1, 1, 16).apply(np.full((1, 1, 3), 90, np.uint8))
        assert (frame == 90).all()


@pytest.mark.parametrize("name", ["pad", "squash", "crop"])
@pytest.mark.parametrize("shape", [(60, 120), (130, 50)])
def test_mask_goes_where_its_pixels_go(name, shape):
    mask = np.zeros(shape, bool)
    mask[20:45, 15:40] = True
    image = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)
    plan = make_geometry(name, *shape, 48)
    seen = plan.apply(image)[..., 0] > 127
    moved = plan.apply_mask(mask)
    assert (seen & moved).sum() / (seen | moved).sum() > 0.9


@pytest.mark.parametrize("name", ["pad", "squash", "crop"])
@pytest.mark.parametrize("shape", [(60, 120), (130, 50), (64, 64)])
def test_points_go_to_the_frame_and_back(name, shape):
    plan = make_geometry(name, *shape, 48)
    points = np.array([[0, 0], [10.5, 20.25], [shape[1], shape[0]]])
    assert np.allclose(plan.from_model_frame(plan.to_model_frame(points)), points)


@pytest.mark.parametrize("name", ["pad", "squash", "crop"])
@pytest.mark.parametrize("shape", [(60, 120), (130, 50)])
def test_points_land_on_the_pixels_they_name_within_a_pixel(name, shape):
    image = np.zeros((*shape, 3), np.uint8)
    y, x = shape[0] // 2 - 8, shape[1] // 2 - 4
    image[y : y + 12, x : x + 12] = 255
    plan = make_geometry(name, *shape, 96)
    rows, columns = np.nonzero(plan.apply(image)[..., 0] > 127)
    middle = plan.to_model_frame(np.array([x + 6.0, y + 6.0]))
    assert abs(columns.mean() + 0.5 - middle[0]) < 1
    assert abs(rows.mean() + 0.5 - middle[1]) < 1


def test_unknown_geometry_is_named_with_the_choices():
    with pytest.raises(ValueError, match=r"stretch.*pad, squash, crop"):
        make_geometry("stretch", 10, 10, 8)
