"""Said beside the figures: images left out, absent classes, images that a model has seen."""

from __future__ import annotations

import pytest

from pipeline.models.seen import DIGITS
from pipeline.report import results_text
from pipeline.report.remarks import plan_remarks, seen_images
from pipeline.report.results_tables import (
    information_table,
    masking_table,
    views_table,
)
from pipeline.report.sections.summary import at_a_glance


def test_images_that_sam2_was_trained_on_are_counted_beside_its_masks(found, monkeypatch):
    assert seen_images(found) is None
    table = found.manifest
    train, test = ((table.index[table["split"] == part]) for part in ("train", "test"))
    table.loc[[*train[:2], test[0]], "patient_id"] = "p1"
    known = frozenset(table.loc[train[:2], "sha256"].str[:DIGITS])
    monkeypatch.setattr("pipeline.report.remarks.trained_on", lambda checkpoint: known)
    said = seen_images(found)
    assert "trained on the true regions, not on the diagnoses, of 2 images" in said
    assert "(2 of train)" in said
    assert f"1 of the {len(test)} test images carry the patient id of one of them" in said
    assert said in results_text.content(found)


def test_a_set_without_a_test_part_is_not_said_to_be_published(found):
    found.manifest["split"] = ""
    assert at_a_glance([found]).rows[0][1] == "drawn here"
    assert "on a test part drawn here" in results_text.survival(found)
    assert "published" not in results_text.masking(found)


def test_a_class_without_a_test_image_that_has_a_mask_is_named(found):
    assert "a task of" not in results_text.content(found)
    table = found.per_class
    truth = table["protocol"].str.endswith("_truth") & (table["class"] == "beta")
    table.loc[truth, "support"] = 0
    said = results_text.content(found)
    assert "task of 2 classes, alpha and gamma: no test image of beta has one." in said
    assert said.count("task of 2 classes") == 1  # of both splits, and said once
    published = table["protocol"] == "ground_truth"
    table.loc[published & (table["class"] == "beta"), "support"] = 1
    assert "in grouped cross-validation a task of 2 classes" in results_text.content(found)
    table.loc[truth, "support"] = 0
    rows = information_table([found]).rows
    assert [str(row[3]) for row in rows] == ["2: alpha, gamma"] * 2


def test_images_left_out_of_the_published_split_are_named_where_it_is_called_so(found):
    said = "“As published” is without some images of one (5 images without a split take no part)."
    for make in (at_a_glance, masking_table, views_table, information_table):
        assert make([found]).note.endswith(said)
    found.records["train"]["parameters"]["notes"].pop(0)
    assert "As published" not in at_a_glance([found]).note


@pytest.mark.parametrize(
    ("note", "said"),
    [
        ("official: class 'x' has no test image", "As published: class 'x' has no test image."),
        ("grouped_truth: without 'x'", "With ground truth, grouped: without the class 'x'."),
        ("protocol grouped is left out: why", "“grouped” is left out: why."),
        ("no leak audit: copies are not", "No leak audit: copies are not."),
    ],
)
def test_notes_of_the_plan_are_said_without_names_of_tables(found, note, said):
    found.records["train"]["parameters"]["notes"] = [note]
    assert plan_remarks(found) == [said]
    assert found.audited == (not said.startswith("No leak audit"))
