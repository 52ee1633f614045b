"""Mask quality: what is said of a mask without ground truth."""

import numpy as np
import pytest

from pipeline.segment.quality import (
    border_share,
    bounding_box,
    component_count,
    mask_status,
    stability_score,
)


def test_stability_is_the_iou_of_a_stricter_and_a_looser_threshold():
    logits = np.array([[5.0, 0.5, -0.5, -5.0]])
    assert stability_score(logits) == pytest.approx(1 / 3)


def test_sharp_masks_and_empty_ones_are_stable():
    assert stability_score(np.full((3, 4, 4), -9.0)).tolist() == [1, 1, 1]
    assert stability_score(np.where(np.eye(4) > 0, 9.0, -9.0)) == 1


def test_components_touch_also_at_corners():
    assert component_count(np.eye(5, dtype=bool)) == 1
    mask = np.zeros((5, 5), bool)
    mask[0, 0] = mask[4, 4] = mask[0, 4] = True
    assert component_count(mask) == 3
    assert component_count(np.zeros((5, 5), bool)) == 0


def test_border_share_of_frame_and_middle():
    frame = np.ones((6, 8), bool)
    frame[1:-1, 1:-1] = False
    assert border_share(np.stack([frame, ~frame])).tolist() == [1, 0]


def test_bounding_box_is_tight_and_absent_for_nothing():
    mask = np.zeros((10, 12), bool)
    mask[3:5, 6:11] = True
    assert bounding_box(mask) == (6, 3, 11, 5)
    assert bounding_box(np.zeros((4, 4), bool)) is None


@pytest.mark.parametrize(
    ("area", "status"),
    [(0, "empty"), (0.0019, "empty"), (0.002, "ok"), (0.95, "ok"), (0.951, "full"), (1, "full")],
)
def test_status_by_area(area, status):
    assert mask_status(area, 0.002, 0.95) == status


def test_nothing_is_empty_and_everything_is_full_whatever_the_limits():
    assert mask_status(0, 0, 1) == "empty"
    assert mask_status(1, 0, 1) == "full"
