"""The sample of the prompt benchmark, and the prompts made from ground truth."""

import numpy as np
import pandas as pd
import pytest

from pipeline.segment.prompt_quality import (
    class_quotas,
    deepest_point,
    ellipse,
    reference_prompts,
    truth_sample,
)
from tests.segment.small_sam2 import scene


def manifest(train=(60, 30, 10), test=(12, 6, 2)) -> pd.DataFrame:
    """Images of three classes; every fifth has no mask, every seventh an empty one."""
    rows = [
        {"image_id": f"{split}/{label}/{i}", "label": label, "split": split}
        for split, counts in (("train", train), ("test", test))
        for label, count in zip("abc", counts, strict=True)
        for i in range(count)
    ]
    table = pd.DataFrame(rows).assign(frame=0)
    table["sha256"] = [f"{i:064x}" for i in range(len(table))]
    table["mask_path"] = [f"m{i}.png" if i % 5 else "" for i in range(len(table))]
    table["mask_area"] = [str(i % 7) for i in range(len(table))]
    return table


def test_only_images_with_ground_truth_are_drawn_the_test_part_first():
    table = manifest()
    everything = truth_sample(table, 0, 0)
    assert set(everything.index) == {i for i in range(len(table)) if i % 5 and i % 7}
    assert truth_sample(table, 1000, 0).equals(everything)
    in_test = int((everything["split"] == "test").sum())
    assert (truth_sample(table, in_test + 9, 0)["split"] == "test").sum() == in_test
    assert set(truth_sample(table, 5, 0)["split"]) == {"test"}


def test_classes_have_their_share_and_a_small_one_is_included():
    labels = pd.Series(["a"] * 60 + ["b"] * 30 + ["c"])
    assert class_quotas(labels, 9) == {"a": 5, "b": 3, "c": 1}
    assert class_quotas(labels, 500) == {"a": 60, "b": 30, "c": 1}
    assert sum(class_quotas(labels, 2).values()) == 2
    assert class_quotas(labels, 0) == {}


def test_the_draw_depends_on_seed_and_bytes_and_a_larger_one_holds_a_smaller():
    table = manifest()
    drawn = set(truth_sample(table, 30, 0)["sha256"])
    other = table.sample(frac=1, random_state=1)
    other["image_id"] = [f"x{i}" for i in range(len(other))]
    assert set(truth_sample(other, 30, 0)["sha256"]) == drawn
    assert set(truth_sample(table, 30, 1)["sha256"]) != drawn
    one_class = manifest(train=(80, 0, 0), test=(0, 0, 0))
    small, large = (set(truth_sample(one_class, n, 3)["image_id"]) for n in (10, 25))
    assert len(small) == 10 and len(large) == 25 and small < large


@pytest.mark.parametrize("jitter", (0.0, 0.1))
def test_reference_prompts_are_the_box_and_a_click_inside(jitter):
    _, truth = scene(3, 90, 70)
    rows, columns = np.nonzero(truth)
    tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    box, text, points = reference_prompts(truth, jitter, "seed")
    width, height = tight[2] - tight[0], tight[3] - tight[1]
    assert (np.abs(box - tight) <= jitter * np.array([width, height] * 2) + 1e-9).all()
    assert (box != tight).any() == bool(jitter)
    assert [float(v) for v in text.split(",")] == pytest.approx(box, abs=1e-3)
    x, y, label = points.split(",")
    assert truth[int(float(y)), int(float(x))] and label == "1"
    assert reference_prompts(truth, jitter, "seed")[1] == text


def test_the_click_is_the_deepest_pixel_and_the_ellipse_fills_its_box():
    mask = np.zeros((50, 60), bool)
    mask[10:31, 20:41] = True
    mask[20, 41:60] = True  # a thin tail that moves the middle of the box
    assert deepest_point(mask) == (30, 20)
    drawn = ellipse(np.array([10.0, 20, 70, 50]), 80, 100)
    rows, columns = np.nonzero(drawn)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 49, 10, 69)
    assert drawn.sum() == pytest.approx(np.pi / 4 * 60 * 30, rel=0.01)
