"""Sections on the masks: what they did to the predictions, and the worst of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipeline.report.sections import (
    dice_effect,
    mask_quality,
)


@pytest.mark.parametrize(("sign", "said"), [(1, "Yes, clearly"), (-1, "No, the reverse")])
def test_a_mask_that_decides_the_prediction_is_seen_in_the_plot_and_said(
    found, album, params, sign, said
):
    changes = dice_effect.joined(found)[0]
    rank = (sign * changes["p_change"]).rank() / (len(changes) + 1)
    quality = found.mask_quality.copy()
    stored = quality["strategy"] == "salient"
    quality.loc[stored, "dice"] = quality.loc[stored, "image_id"].map(rank)
    known = dataclasses.replace(found, mask_quality=quality)
    text, grid = dice_effect.section(known, album, params).blocks
    assert text.text.startswith(said)
    assert f"{'' if sign > 0 else '−'}1.00 [" in text.text
    assert f"{len(changes)} test images" in text.text
    (figure,) = grid.figures
    rows = figure.table.rows
    assert [row[1] for row in rows] == [len(changes) // 4] * 4
    means = [row[4].sort for row in rows]
    assert means == sorted(means, reverse=sign < 0)
    by_dice = changes.loc[rank.sort_values().index]
    for column, name in ((2, "right_whole"), (3, "right_masked"), (4, "p_change")):
        expected = [part.mean() for part in np.array_split(by_dice[name].to_numpy(), 4)]
        assert [row[column].sort for row in rows] == pytest.approx(expected)
    hollow = str(figure.svg).count('fill="#fff" stroke=')
    assert hollow == len(changes) + len(found.classes)  # every image, and a key for every class


def test_without_a_pair_of_views_there_is_no_plot_of_what_the_mask_did(found, album, params):
    metrics = found.metrics[found.metrics["view"] != "masked"]
    assert dice_effect.section(dataclasses.replace(found, metrics=metrics), album, params) is None
    few = found.mask_quality[found.mask_quality["image_id"].isin(found.manifest["image_id"][:3])]
    assert dice_effect.section(dataclasses.replace(found, mask_quality=few), album, params) is None


def test_the_worst_masks_are_those_of_the_stored_strategy_with_the_lowest_dice(
    found, album, params
):
    quality = found.mask_quality.copy()
    stored = quality["strategy"] == "salient"
    order = quality.loc[stored, "image_id"].iloc[::-1]  # the last of the table are the worst
    quality.loc[order.index, "dice"] = np.linspace(0.0, 0.9, len(order))
    quality.loc[order.index[0], "dice"] = np.nan  # no truth to compare with: not a worst case
    quality.loc[~stored, "dice"] = 0.0  # floors are bad by design
    known = dataclasses.replace(found, mask_quality=quality)
    gallery = mask_quality.section(known, album, params).blocks[-1]
    assert gallery.title == "Worst masks"
    shown = [p.image_id for p in gallery.pictures]
    assert shown == list(order.iloc[1 : 1 + mask_quality.WORST])
    dice = quality[stored].set_index("image_id")["dice"]
    labels = found.manifest.set_index("image_id")["label"]
    for picture in gallery.pictures:
        assert picture.uri.startswith("data:image/")
        assert f"{labels[picture.image_id]}; Dice {dice[picture.image_id]:.2f}" in picture.caption
    missed = int((dice < 0.1).sum())
    assert missed > 1
    assert gallery.note.startswith(f"{missed} masks of {len(order) - 1} miss the region")
