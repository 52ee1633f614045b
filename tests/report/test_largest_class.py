"""What always answering the largest class would reach stands beside the accuracies."""

from __future__ import annotations

import pandas as pd
import pytest

from pipeline.report import select
from pipeline.report.largest_class import largest_class
from pipeline.report.results_readme import readme_markdown
from pipeline.report.sections.in_short import result
from pipeline.report.sections.scores import score_table
from pipeline.report.sections.summary import at_a_glance


def rows(protocol: str, parts: dict[int, str]) -> pd.DataFrame:
    """One letter a test image of each seed: its class."""
    return pd.DataFrame(
        [
            {"protocol": protocol, "seed": seed, "image_id": f"{seed}{i}", "y_true": label}
            for seed, labels in parts.items()
            for i, label in enumerate(labels)
        ]
    )


def test_the_share_is_that_of_the_class_that_most_test_images_have(found):
    found.tested = rows("official", {0: "aaab"})
    floor = largest_class(found, *select.PUBLISHED)
    assert (floor.name, floor.share) == ("a", 0.75)
    assert str(floor) == "Always answering the largest class (a) would be right in 75.0 %."


def test_in_cross_validation_it_is_one_class_and_the_mean_over_the_folds_as_accuracy_is(found):
    found.tested = rows("grouped", {0: "aaab", 1: "bb"})
    found.tested.loc[6] = ["grouped", 2, "00", "a"]  # tests an image of seed 0 again
    floor = largest_class(found, *select.GROUPED)
    assert (floor.name, floor.share) == ("a", pytest.approx((0.75 + 0 + 1) / 3))
    assert largest_class(found, "grouped-pooled", "full").share == 0.5  # each image once


def test_without_the_copies_it_is_the_share_of_what_is_left(found):
    found.tested = rows("official", {0: "aabb"})
    marks = {"copy_in_train": [1, 0, 0, 0], "copy_in_train_any": [1, 1, 0, 0]}
    found.audit_images = pd.DataFrame({"image_id": ["00", "01", "02", "03"]} | marks)
    assert largest_class(found, "official", "clean").share == pytest.approx(2 / 3)
    assert largest_class(found, "official", "clean_any").share == 1
    found.audit_images = None
    assert largest_class(found, "official", "clean") is None


def test_it_stands_in_the_summary_at_a_glance_and_below_every_table_of_accuracy(found):
    said = "Always answering the largest class (alpha) would be right in 33.3 %."
    assert largest_class(found, *select.PUBLISHED).share == pytest.approx(4 / 12)
    assert said in result(found)
    table = at_a_glance([found])
    at = table.headers.index("largest class")
    shown = dict(zip((row[1] for row in table.rows), (r[at].text for r in table.rows), strict=True))
    assert shown == {"as published": "33.3", "clean, mirrored too": "44.4", "grouped": "33.3"}
    assert said in score_table(found, *select.GROUPED).note
    assert said not in score_table(found, *select.GROUPED, "macro_f1").note
    assert "| largest class |" in readme_markdown([found], "", "", "")


def test_without_predictions_nothing_is_said_of_it(found):
    found.drop("predictions", found.paths.predictions("one"), "", "")
    assert largest_class(found, *select.PUBLISHED) is None
    assert "largest class" not in result(found) + score_table(found, *select.GROUPED).note
    assert all(row[2] is None for row in at_a_glance([found]).rows)


@pytest.mark.parametrize(("metric", "range_"), [("brier", "0 to 2"), ("ece", "0 to 1")])
def test_the_range_of_a_metric_is_its_own(found, metric, range_):
    assert f"interval], {range_};" in score_table(found, *select.PUBLISHED, metric).note
