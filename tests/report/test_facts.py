"""Every text that has a number has the same one, and says what is not in it."""

from __future__ import annotations

import pytest

from pipeline.report import answers, facts, results_text
from pipeline.report.sections import in_short, leaks
from pipeline.report.sections.truth_tables import dice_table


def test_images_without_a_mask_are_counted_beside_the_dice_of_the_others(found):
    quality = found.mask_quality
    before = dice_table(found)
    stored = quality["strategy"] == "salient"
    gone = quality.index[stored & (quality["split"] == "test")][:3]
    lost = quality["image_id"].isin(quality.loc[gone, "image_id"])
    quality.loc[gone, ["dice", "iou", "hd95"]] = float("nan")
    quality.loc[gone, "note"] = ["no mask: a", "no mask: b", "ground truth not readable: c"]
    found.mask_quality = quality[stored | ~lost].reset_index(drop=True)
    left = quality[stored & (quality["split"] == "test")]["dice"].dropna()
    dice = facts.dice(found)
    assert (dice.images, dice.lacking, dice.mean) == (9, 3, pytest.approx(left.mean()))
    said = f"{dice}, 9 test images (not 3 others without a mask or readable ground truth)."
    assert said in results_text.content(found)
    assert "; 9 test images (not 3 others" in answers.dice(found)
    assert f"one {left.mean():.2f}" in in_short._masks([found])[1]
    table = dice_table(found)
    assert [row[2].sort for row in table.rows if row[1] == "all classes"] == [33, 33, 33]
    assert table.note == before.note + (
        " 3 images without a figure, in no mean: ground truth not readable 1 and no mask 2."
    )
    found.mask_quality.loc[:, "dice"] = float("nan")
    assert facts.dice(found) is None and answers.dice(found) is None
    assert "Mean Dice" not in results_text.content(found)


def test_copies_are_counted_alike_in_every_text(found):
    across = facts.copies(found)
    assert (across.test, across.plain, across.every) == (12, 1, 3)
    assert "1 (8.3 %) of 12 test images" in answers.leaking(found)
    assert "3 (25.0 %) when mirrored and turned ones count" in answers.leaking(found)
    assert "3 of 12 test images (25.0 %)" in results_text._copies(found)
    assert "one 3 of 12" in in_short._copies([found])[1]
    assert [row[1].sort for row in leaks._test_table(found, across).rows[:3]] == [12, 1, 3]
    found.metrics = None
    assert facts.copies(found).before is None and "3 (25.0 %)" in answers.leaking(found)
    found.audit_images = None
    assert facts.copies(found) is None and answers.leaking(found) is None
