"""What the result pages answer follows the verdicts of the tables, whichever way they go."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from pipeline.config import EvaluateParams
from pipeline.models.seen import DIGITS
from pipeline.report import answers, results_text, select
from pipeline.report.answers import Difference
from pipeline.report.bootstrap import mean_interval, spearman
from pipeline.report.inputs import STAGES, load_inputs
from pipeline.report.remarks import plan_remarks, seen_images
from pipeline.report.results_tables import (
    information_table,
    masking_table,
    time_table,
    views_table,
)
from pipeline.report.sections import in_short
from pipeline.report.sections.scores import repeated_text
from pipeline.report.sections.summary import at_a_glance
from pipeline.report.sections.timings import timing_table
from pipeline.report.sections.truth_tables import prompt_table

SURE = EvaluateParams()
GAPS = {"helps": (0.08, 0.001), "hurts": (-0.08, 0.001), "undecided": (0.01, 0.9)}


@pytest.fixture
def found(fresh):
    return load_inputs("one", fresh[1])


def decide(found, kind: str):
    """Give every comparison the same verdict, in the direction in which it is stored."""
    value, p = GAPS[kind]
    table = found.comparisons.copy()
    # Stored as oracle below whole: the other way round.
    sign = np.where(table["view_b"] == "oracle", -1, 1)
    table["difference"], table["p_holm"] = sign * value, p
    table["lo"], table["hi"] = table["difference"] - 0.05, table["difference"] + 0.05
    found.comparisons = table
    return found


@pytest.mark.parametrize(
    ("kind", "short", "paragraph", "content"),
    [
        ("helps", "helps in some cases.**", "masking helps at all 3 shares", "would help"),
        (
            "hurts",
            "does not help.**",
            "masking hurts at all 3 shares",
            "even the true regions lose",
        ),
        ("undecided", "does not help.**", "no difference that can be told", "make no difference"),
    ],
)
def test_the_words_follow_the_verdicts(found, kind, short, paragraph, content):
    decide(found, kind)
    lines = results_text.in_short([found])
    assert lines[0].startswith(f"**With these models masking {short}")
    assert paragraph in results_text.masking(found)
    assert content in results_text.content(found)
    word = {"helps": "better", "hurts": "worse", "undecided": "not told apart"}[kind]
    for table in (masking_table([found]), information_table([found])):
        assert any(word in str(cell) for row in table.rows for cell in row)


def test_each_split_has_its_own_verdict(found):
    calm, worse = (decide(found, kind).comparisons for kind in ("undecided", "hurts"))
    published = calm["protocol"].isin(["official", "ground_truth"])
    found.comparisons = worse.where(published, calm)
    said = results_text.masking(found)
    assert "masking makes no difference that can be told from chance in grouped" in said
    assert "; hurts at all 3 shares of the labels on the published split (" in said
    said = results_text.content(found)
    assert "In grouped cross-validation even the true regions make no difference" in said
    assert "On the published split even the true regions lose" in said
    short = results_text.in_short([found])
    assert any("images with ground truth, in grouped cross-validation)" in x for x in short)


def test_a_head_that_wins_on_the_published_split_alone_is_named_with_the_split(found):
    table = found.comparisons
    crop = (table["view_a"] == "crop") & (table["view_b"] == "whole")
    table.loc[crop, ["head_a", "view_a"]] = ["medfocus-probe", "whole"]
    calm, better = (decide(found, kind).comparisons for kind in ("undecided", "helps"))
    found.comparisons = calm
    assert "no other head without masks" in results_text.in_short([found])[-1]
    found.comparisons = better.where(calm["protocol"] == "official", calm)
    line = results_text.in_short([found])[-1]
    assert "is beaten beyond chance by" in line and "on one, on the published split" in line


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


@pytest.mark.parametrize(
    ("kind", "short", "verdict"),
    [
        ("helps", "Another view of the masks helps in some cases", "helps at all 3"),
        ("hurts", "The other views of the masks do not help", "hurts at all 3"),
        ("undecided", "The other views of the masks do not help", "makes no difference"),
    ],
)
def test_the_words_on_crop_and_mask_alone_follow_the_verdicts(found, kind, short, verdict):
    decide(found, kind)
    (line,) = (x for x in results_text.in_short([found]) if x.startswith(f"**{short}.**"))
    for words, total in (("cropping to the mask", 6), ("what is inside it,", 3)):
        better, worse = (total if kind == k else 0 for k in ("helps", "hurts"))
        counts = f"{better} of {total} comparisons, worse in {worse}"
        assert f"{words} is better beyond chance in {counts}" in line
    said = results_text.masking(found)
    assert f"Against whole images cropping to the mask {verdict}" in said
    assert f"Against whole images the mask alone, without what is inside it, {verdict}" in said
    assert f"Against masked ones it {verdict}" in said
    published, grouped = views_table([found]).rows
    word = {"helps": "better", "hurts": "worse", "undecided": "not told apart"}[kind]
    assert len(published) == 2 + 6 and all(str(cell).endswith(word) for cell in published[2:])
    assert grouped[1] == "grouped" and [str(c) for c in grouped[-2:]] == ["–", "–"]
    assert all(str(cell).endswith(word) for cell in grouped[2:-2])


def test_the_counts_of_the_first_line_are_those_of_the_comparisons(found):
    table = found.comparisons
    sure = (table["p_holm"] < 0.05) & ((table["lo"] > 0) | (table["hi"] < 0))
    mine = table["protocol"].isin(["official", "grouped"]) & (table["view_a"] == "masked")
    mine &= (table["head_a"] == "linear-probe") & (table["view_b"] == "whole")
    better = int((sure & mine & (table["difference"] > 0)).sum())
    worse = int((sure & mine & (table["difference"] < 0)).sum())
    line = results_text.in_short([found])[0]
    assert f"in {better} of {int(mine.sum())} comparisons, worse in {worse}" in line


def test_an_interval_beside_zero_that_the_correction_takes_back_is_marked(found):
    difference = Difference(-0.08, -0.15, -0.01, 0.2)
    assert difference.short == "−8.0 [−15.0, −1.0] not told apart†"
    assert Difference(-0.08, -0.15, 0.01, 0.2).short.endswith("apart")
    decide(found, "hurts").comparisons["p_holm"] = 0.2
    assert "withstands the correction" in results_text.masking(found)
    said = "no difference that withstands the correction for many comparisons (−8.0 points [−13.0, "
    assert said in in_short.result(found)
    assert "withstands the correction" in answers.verdict(
        found, select.MASKED_PROBE, select.BASELINE
    )


def test_a_part_without_copies_is_shown_once_and_named(found):
    metrics = found.metrics
    full = metrics[(metrics["protocol"] == "official") & (metrics["subset"] == "full")]
    others = metrics[~((metrics["protocol"] == "official") & (metrics["subset"] != "full"))]
    again = [full.assign(subset=name) for name in ("clean", "clean_any")]
    assert ("official", "clean_any") in select.distinct_blocks(metrics)
    found.metrics = pd.concat([others, *again], ignore_index=True)
    assert select.repeated(found.metrics) == {
        ("official", "clean"): select.PUBLISHED,
        ("official", "clean_any"): select.PUBLISHED,
    }
    splits = [row[1] for row in at_a_glance([found]).rows]
    assert splits == ["as published", "grouped"]
    assert "Not repeated: “Clean: test images" in repeated_text(found)


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


def test_the_papers_gain_is_set_beside_ours_with_its_verdict(found):
    found.name, found.manifest["synthetic"] = "covid", "0"
    said = results_text.paper_gain(decide(found, "hurts"))
    assert "a gain of MedFocusCLIP over CLIP of +4.5 points" in said
    assert "the intervals exclude that gain: −8.0 points [−13.0, −3.0]" in said
    assert "do not exclude" in results_text.paper_gain(decide(found, "helps"))


def test_times_are_those_of_the_records_and_partial_runs_are_marked(found):
    found.records["encode"] = json.loads(json.dumps(found.records["segment"]))
    found.records["encode"]["last_computed"] |= {"skipped": 3, "seconds": 47.0}
    table = time_table([found])
    row = dict(zip(table.headers, table.rows[0], strict=True))
    assert row["segment, s"].text == "12" and row["encode, s"].text == "47*"
    assert row["sum, min"].text == f"{(3 * 12.5 + 47) / 60:.1f}"
    assert "already" in table.note


def test_a_run_that_found_all_there_does_not_hide_what_the_work_cost(found):
    record = found.records["encode"]
    parts = record["seconds"]
    record["last_computed"] |= {"done": 30, "skipped": 2, "parts": parts}
    record |= {"done": 0, "skipped": 32, "seconds": {"total": 0.6}}
    table = timing_table(found)
    row = dict(zip(table.headers, table.rows[STAGES.index("encode")], strict=True))
    assert row["done"].text == "30" and row["in the store already"].text == "2"
    assert row["total, s"].text == "12.5" and row["model, s"].text == "10.0"


def test_a_record_of_an_earlier_version_still_tells_its_time(fresh):
    paths = fresh[1]
    for stage in ("segment", "encode"):
        record = json.loads(paths.record("one", stage).read_text())
        del record["last_computed"]
        if stage == "encode":
            record["done"] = 0  # found all there: what the work cost is not known
        paths.record("one", stage).write_text(json.dumps(record))
    table = time_table([load_inputs("one", paths)])
    row = dict(zip(table.headers, table.rows[0], strict=True))
    assert row["segment, s"].text == "12" and row["encode, s"] is None


def test_patients_are_drawn_whole():
    rng = np.random.default_rng(0)
    of_patient = rng.normal(size=20)
    values = np.repeat(of_patient, 10)
    units = np.repeat([f"p{i}" for i in range(20)], 10)
    mean, lo, hi = mean_interval(values, units, SURE)
    _, narrow_lo, narrow_hi = mean_interval(values, None, SURE)
    assert mean == pytest.approx(values.mean())
    assert (hi - lo) > 2 * (narrow_hi - narrow_lo)
    assert (hi - lo) == pytest.approx(3.92 * of_patient.std() / np.sqrt(20), rel=0.2)
    noise = values + 0.1 * rng.normal(size=200)
    (_, a, b), (_, c, d) = (spearman(values, noise, drawn, SURE) for drawn in (units, None))
    assert (b - a) > (d - c)


def test_the_prompt_table_has_the_means_and_the_paired_differences(found):
    quality = found.prompt_quality
    table = prompt_table(found)
    rows = [dict(zip(table.headers, row, strict=True)) for row in table.rows]
    every = [row for row in rows if row["class"] == "all classes"]
    assert [row["prompt"].text.split(" (")[0] for row in every] == [
        "salient",
        "center-box",
        "reference: box",
        "reference: box-ellipse",
    ]
    means = quality.groupby("strategy")[["dice", "iou", "hd95"]].mean()
    for row, strategy in zip(every, ("salient", "center-box", "box", "box-ellipse"), strict=True):
        for column, name in (("Dice", "dice"), ("IoU", "iou"), ("HD95, px", "hd95")):
            assert row[column].sort == pytest.approx(means.loc[strategy, name])
    gap = means.loc["center-box", "dice"] - means.loc["salient", "dice"]
    less = every[1]["Dice minus that of “salient”"]
    assert less.sort == pytest.approx(gap)
    assert len(rows) == 4 * (1 + quality["label"].nunique())
    assert "no mask that is classified was made with them" in table.note
