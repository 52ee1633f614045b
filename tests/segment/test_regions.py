"""Boxes and clicks from the manifest, and the part of the image that is looked at."""

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.segment.regions import center_box, parse_box, parse_points, zoom_region


def test_box_is_read_and_clipped_to_the_image():
    assert parse_box(" 1, 2.5,30,40 ", 20, 60).tolist() == [1, 2.5, 20, 40]


@pytest.mark.parametrize("text", ["", "1,2,3", "a,b,c,d", "1,2,nan,4", "5,5,5,9", "90,90,99,99"])
def test_unusable_box_says_what_to_put_where(text):
    with pytest.raises(PipelineError, match="box column"):
        parse_box(text, 20, 20)


def test_points_are_read_with_their_labels():
    points, labels = parse_points("1,2,1; 3.5,4,0;", 10, 10)
    assert points.tolist() == [[1, 2], [3.5, 4]]
    assert labels.tolist() == [1, 0]


@pytest.mark.parametrize("text", ["", "1,2", "1,2,1;3,4", "1,2,7", "x,2,1", "50,2,1", "-1,2,1"])
def test_unusable_points_say_what_to_put_where(text):
    with pytest.raises(PipelineError, match="points column"):
        parse_points(text, 20, 20)


def test_center_box_spans_its_share_of_each_side():
    assert center_box(100, 50, 0.5).tolist() == [25, 12.5, 75, 37.5]


def test_zoom_looks_at_twice_the_box_cut_at_the_border():
    assert zoom_region([40, 40, 60, 60], 2, 100, 100) == (30, 30, 70, 70)
    assert zoom_region([0, 0, 20, 20], 2, 100, 100) == (0, 0, 30, 30)
    assert zoom_region([40, 40, 60, 60], 0, 100, 80) == (0, 0, 100, 80)


def test_zoom_never_looks_at_less_than_the_box():
    box = np.array([10.5, 10.5, 20.5, 20.5])
    assert zoom_region(box, 0.5, 100, 100) == (10, 10, 21, 21)
