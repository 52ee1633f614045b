"""The display range of deep images is robust, and 8-bit values are never changed."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from pipeline.images import read_image
from pipeline.images.formats import Pixels
from pipeline.images.normalise import display_range, to_display
from tests.images.makers import grey

RANGE = "Outliers (a hot pixel, a burnt-in marker) do not change how the rest is displayed."


def deep(scale: int = 15) -> np.ndarray:
    return grey(96, 96).astype(np.uint16) * scale + np.uint16(100)


def far(a: np.ndarray, b: np.ndarray, keep: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int))[keep].max())


@pytest.mark.promise(RANGE)
@pytest.mark.parametrize("value", [0, 65535])
def test_one_hot_or_dead_pixel_does_not_change_the_rest(value):
    hurt = deep()
    hurt[5, 7] = value
    keep = np.ones(hurt.shape, bool)
    keep[5, 7] = False
    assert far(to_display(Pixels(deep())), to_display(Pixels(hurt)), keep) <= 2


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


@pytest.mark.promise("8-bit images are unchanged; deeper ones are scaled by robust percentiles.")
def test_a_marker_does_not_change_an_eight_bit_picture_stored_as_sixteen():
    marked = grey().astype(np.uint16) * 257
    marked[0, 0] = 12345
    expected = grey()
    expected[0, 0] = 12345 // 257
    np.testing.assert_array_equal(to_display(Pixels(marked))[..., 0], expected)


DEPTHS = (
    "8 bits are shown as stored; deeper samples are stretched to their range, unless they are "
    "multiples of 256 or 257. So an image that does not fill its 8 bits differs from the same in "
    "12 bits by exactly that stretch."
)


@pytest.mark.promise(DEPTHS)
@pytest.mark.parametrize("low", [0, 30, 120])
@pytest.mark.parametrize("high", [128, 200, 255])
@pytest.mark.parametrize("factor", [1, 3, 14, 16, 255, 256, 257])
def test_deep_samples_are_stretched_and_eight_bits_are_not(tmp_path, low, high, factor):
    shallow = (low + grey().astype(np.int64) * (high - low) // 255).astype(np.uint8)
    (tmp_path / "deep.png").write_bytes(
        imagecodecs.png_encode(shallow.astype(np.uint16) * np.uint16(factor))
    )
    shown = read_image(tmp_path / "deep.png")[..., 0].astype(int)
    if factor >= 256:
        np.testing.assert_array_equal(shown, shallow)
        return
    a, b = display_range(shallow)
    stretched = np.clip((shallow - a) / (b - a), 0, 1) * 255
    assert np.abs(shown - stretched).max() <= 0.5 + 1e-6
    assert np.array_equal(shown, shallow) == ((a, b) == (0, 255))
