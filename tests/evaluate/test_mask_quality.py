"""Dice, IoU and HD95 on regions whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

from pipeline.segment.overlap import boundary, center_ellipse, hd95, overlap


def square(top: int, left: int, side: int, shape=(40, 60)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_overlap_equals_torchmetrics():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 30, 20)) > 0.6
    dice, iou = overlap(a, b)
    assert dice == pytest.approx(float(binary_f1_score(torch.tensor(a), torch.tensor(b))))
    assert iou == pytest.approx(float(binary_jaccard_index(torch.tensor(a), torch.tensor(b))))


def test_equal_regions_are_perfect_and_disjoint_ones_share_nothing():
    a = square(5, 5, 10)
    assert overlap(a, a) == (1.0, 1.0) and hd95(a, a) == 0.0
    assert overlap(a, square(20, 30, 10)) == (0.0, 0.0)


def test_hd95_of_a_shifted_square_is_the_shift():
    assert hd95(square(5, 5, 12), square(5, 12, 12)) == pytest.approx(7)


def test_hd95_equals_a_brute_force_search():
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 15, 15)) > 0.7
    distances = np.linalg.norm(boundary(a)[:, None] - boundary(b)[None], axis=2)
    expected = max(
        np.percentile(distances.min(axis=1), 95), np.percentile(distances.min(axis=0), 95)
    )
    assert hd95(a, b) == pytest.approx(expected)


def test_an_empty_region_has_no_distance_and_no_overlap():
    a, nothing = square(5, 5, 10), np.zeros((40, 60), dtype=bool)
    assert np.isnan(hd95(a, nothing))
    assert overlap(nothing, a) == (0.0, 0.0)
    assert np.isnan(overlap(nothing, nothing)).all()


@pytest.mark.parametrize("side", (6, 15, 30))
def test_the_ellipse_floor_is_centred_and_has_the_masks_area(side):
    mask = square(0, 0, side)
    ellipse = center_ellipse(mask)
    assert ellipse.sum() == pytest.approx(mask.sum(), rel=0.12)
    rows, columns = np.nonzero(ellipse)
    assert rows.mean() == pytest.approx(19.5) and columns.mean() == pytest.approx(29.5)
