"""Mask quality without ground truth, and the region around a box."""

import numpy as np
import pytest

from pipeline.segment.quality import (
    border_share,
    bounding_box,
    component_count,
    mask_status,
    stability_score,
)
from pipeline.segment.strategies import zoom_region


def test_stability_is_the_iou_of_a_stricter_and_a_looser_threshold():
    assert stability_score(np.array([[5.0, 0.5, -0.5, -5.0]])) == pytest.approx(1 / 3)
    assert stability_score(np.full((3, 4, 4), -9.0)).tolist() == [1, 1, 1]
    assert stability_score(np.where(np.eye(4) > 0, 9.0, -9.0)) == 1


def test_components_border_share_and_bounding_box():
    assert component_count(np.eye(5, dtype=bool)) == 1
    frame = np.ones((6, 8), bool)
    frame[1:-1, 1:-1] = False
    assert border_share(np.stack([frame, ~frame])).tolist() == [1, 0]
    mask = np.zeros((10, 12), bool)
    mask[3:5, 6:11] = mask[0, 11] = True
    assert component_count(mask) == 2 and bounding_box(mask) == (6, 0, 12, 5)
    assert bounding_box(np.zeros((4, 4), bool)) is None


@pytest.mark.parametrize(
    ("area", "limits", "status"),
    [
        (0.0019, (0.002, 0.95), "empty"),
        (0.002, (0.002, 0.95), "ok"),
        (0.951, (0.002, 0.95), "full"),
        (0, (0, 1), "empty"),
        (1, (0, 1), "full"),
    ],
)
def test_status_by_area(area, limits, status):
    assert mask_status(area, *limits) == status


def test_the_zoomed_region_is_cut_at_the_border_and_never_smaller_than_the_box():
    assert zoom_region([40, 40, 60, 60], 2, 100, 100) == (30, 30, 70, 70)
    assert zoom_region([0, 0, 20, 20], 2, 100, 100) == (0, 0, 30, 30)
    assert zoom_region([40, 40, 60, 60], 0, 100, 80) == (0, 0, 100, 80)
    assert zoom_region(np.array([10.5, 10.5, 20.5, 20.5]), 0.5, 100, 100) == (10, 10, 21, 21)
