"""The display range of deep images is robust, and 8-bit values are never changed."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw, ImageFont

from pipeline.images import read_image
from pipeline.images.formats import Pixels
from pipeline.images.normalise import to_display
from tests.images.makers import grey

RANGE = "Outliers (a hot pixel, a burnt-in marker) do not change how the rest is displayed."


def deep(scale: int = 15) -> np.ndarray:
    return grey(96, 96).astype(np.uint16) * scale + np.uint16(100)


def far(a: np.ndarray, b: np.ndarray, keep: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int))[keep].max())


@pytest.mark.promise(RANGE)
@pytest.mark.parametrize("value", [0, 65535])
def test_one_hot_or_dead_pixel_does_not_change_the_rest(tmp_path, value):
    hurt = deep()
    hurt[5, 7] = value
    keep = np.ones(hurt.shape, bool)
    keep[5, 7] = False
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(deep()))
    (tmp_path / "b.png").write_bytes(imagecodecs.png_encode(hurt))
    assert far(read_image(tmp_path / "a.png"), read_image(tmp_path / "b.png"), keep) <= 2


@pytest.mark.promise(RANGE)
@pytest.mark.parametrize("value", [0, 65535])
def test_burnt_in_letters_with_smooth_edges_do_not_change_the_rest(value):
    letters = Image.new("L", (96, 96))
    ImageDraw.Draw(letters).text((4, 4), "L 12", fill=255, font=ImageFont.load_default(28))
    share = np.asarray(letters) / 255
    assert 0.02 < (share > 0).mean() < 0.1 and ((share > 0) & (share < 1)).sum() > 50
    plain = deep(10)
    marked = np.rint(plain * (1 - share) + value * share).astype(np.uint16)
    a, b = to_display(Pixels(plain)), to_display(Pixels(marked))
    assert far(a, b, share == 0) <= 6
    assert (b[share == 1] == (255 if value else 0)).all()


def test_a_bright_region_keeps_its_structure():
    lesion = deep(2)
    lesion[40:55, 40:55] = 3000 + 4 * np.arange(225).reshape(15, 15)  # 2.4 %, far above the rest
    shown = to_display(Pixels(lesion))[40:55, 40:55, 0]
    assert len(np.unique(shown)) > 40


@pytest.mark.promise("8-bit images are unchanged; deeper ones are scaled by robust percentiles.")
def test_a_marker_does_not_change_an_eight_bit_picture_stored_as_sixteen():
    marked = grey().astype(np.uint16) * 257
    marked[0, 0] = 12345
    expected = grey()
    expected[0, 0] = 12345 // 257
    np.testing.assert_array_equal(to_display(Pixels(marked))[..., 0], expected)


def test_a_small_object_on_uniform_background_is_kept():
    values = np.full((100, 100), 500, np.uint16)
    values[50, 50:55] = [600, 700, 800, 900, 1000]  # far less than half a percent
    array = to_display(Pixels(values))[..., 0]
    assert array[0, 0] == 0 and list(array[50, 50:55]) == sorted(set(array[50, 50:55]))
    two = np.where(values > 500, 65535, 0).astype(np.uint16)
    assert set(np.unique(to_display(Pixels(two)))) == {0, 255}


def test_the_levels_of_a_deep_label_map_stay_apart():
    values = np.zeros((20, 20), np.uint16)
    values[5:9, 5:9], values[5, 12] = 100, 200
    assert len(np.unique(to_display(Pixels(values)))) == 3


@pytest.mark.promise(RANGE)
def test_padding_with_the_value_of_a_hot_pixel_does_not_change_its_neighbours():
    ramp = np.repeat(1000 + 10 * np.arange(40)[:, None] ** 2, 96, axis=1).astype(np.uint16)
    shown = []
    for padding in (0, 60000):
        values = np.full((60, 96), padding, np.uint16)
        values[:40] = ramp
        values[5, 7] = 60000
        valid = np.arange(60)[:, None].repeat(96, axis=1) < 40
        shown.append(to_display(Pixels(values, valid=valid)))
    np.testing.assert_array_equal(*shown)


@pytest.mark.promise("8-bit images are unchanged; deeper ones are scaled by robust percentiles.")
@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.uint16, np.int16, np.int32, np.uint32, np.float32, np.float64]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    )
)
def test_the_display_image_of_any_samples_keeps_their_order(values):
    if values.dtype.kind == "f" and not np.isfinite(values).any():
        return
    array = to_display(Pixels(values))[..., 0]
    assert array.dtype == np.uint8 and array.shape == values.shape
    finite = np.isfinite(values)
    order = np.argsort(values[finite], kind="stable")
    assert (np.diff(array[finite][order].astype(int)) >= 0).all()
