"""Geometry: open_clip's own preprocessing where promised, nothing lost where promised."""

import numpy as np
import pytest
from open_clip.transform import image_transform
from PIL import Image

from pipeline.encode.geometry import make_geometry
from pipeline.encode.mapper import normalise
from tests.encode.conftest import MEAN, STD

SIZES = [(40, 90), (91, 37), (64, 64), (33, 32), (20, 30), (300, 217)]
NAMES = ["pad", "squash", "crop"]


@pytest.mark.promise("`crop`, `squash` and `pad` are bit-equal to open_clip's preprocessing.")
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("geometry", "mode"), [("crop", "shortest"), ("squash", "squash"), ("pad", "longest")]
)
@pytest.mark.parametrize("shape", SIZES)
def test_frames_are_bit_equal_to_open_clips_preprocessing(shape, geometry, mode, interpolation):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    theirs = image_transform(
        32, is_train=False, mean=MEAN, std=STD, resize_mode=mode, interpolation=interpolation
    )(Image.fromarray(image))
    frame = make_geometry(geometry, *shape, 32).apply(image, interpolation=interpolation)
    assert np.array_equal(normalise(frame[None], MEAN, STD)[0].numpy(), theirs.numpy())


@pytest.mark.parametrize("name", NAMES)
def test_strips_keep_a_row_and_masks_go_where_the_pixels_go(name):
    strip = make_geometry(name, 1, 1000, 32).apply(np.full((1, 1000, 3), 50, np.uint8))
    assert (strip == 50).any() and set(strip.ravel()) <= {0, 50}
    mask = np.zeros((60, 120), bool)
    mask[20:45, 15:40] = True
    plan = make_geometry(name, 60, 120, 96)
    seen = plan.apply(np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2))[..., 0] > 127
    moved = plan.apply_mask(mask)
    assert (seen & moved).sum() / (seen | moved).sum() > 0.9
