"""What the result pages answer follows the verdicts of the tables, whichever way they go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.config import EvaluateParams
from pipeline.report import answers, results_text, select
from pipeline.report.answers import Difference
from pipeline.report.bootstrap import mean_interval, spearman
from pipeline.report.fallbacks import uneven_fallbacks
from pipeline.report.results_tables import (
    information_table,
    masking_table,
    views_table,
)
from pipeline.report.sections import in_short
from pipeline.report.sections.mask_quality import mask_table
from pipeline.report.sections.scores import repeated_text
from pipeline.report.sections.summary import at_a_glance, headline
from pipeline.report.sections.truth_tables import prompt_table
from pipeline.report.tables import share

SURE = EvaluateParams()
GAPS = {"helps": (0.08, 0.001), "hurts": (-0.08, 0.001), "undecided": (0.01, 0.9)}


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
    lines = results_text.over_all([found])
    assert lines[0].startswith(f"**With these models masking {short}")
    assert paragraph in results_text.masking(found)
    assert content in results_text.content(found)
    word = {"helps": "better", "hurts": "worse", "undecided": "not told apart"}[kind]
    for table in (masking_table([found]), information_table([found])):
        assert any(word in str(cell) for row in table.rows for cell in row)


def test_the_headline_is_the_verdict_on_the_strictest_split_in_the_words_of_the_results(found):
    calm, worse = (decide(found, kind).comparisons for kind in ("undecided", "hurts"))
    grouped = calm["protocol"] == "grouped"
    found.comparisons = worse.where(grouped, calm)
    said = "masking hurts at all 3 shares of the labels"
    assert headline(found).startswith(f"one: {said} for the linear probe; ")
    assert said in results_text.masking(found)
    found.comparisons = found.comparisons[found.comparisons["fraction"] > 0.9]
    assert "masking hurts with all labels for the linear probe" in headline(found)
    found.comparisons = calm[~grouped]
    assert "masking makes no difference that can be told from chance for" in headline(found)
    found.comparisons = None
    assert headline(found).count("was not compared") == 2


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
    short = results_text.over_all([found])
    assert any("images with ground truth, in grouped cross-validation)" in x for x in short)


def test_a_head_that_wins_on_the_published_split_alone_is_named_with_the_split(found):
    table = found.comparisons
    crop = (table["view_a"] == "crop") & (table["view_b"] == "whole")
    table.loc[crop, ["head_a", "view_a"]] = ["medfocus-probe", "whole"]
    calm, better = (decide(found, kind).comparisons for kind in ("undecided", "helps"))
    found.comparisons = calm
    assert "no other head without masks" in results_text.over_all([found])[-1]
    found.comparisons = better.where(calm["protocol"] == "official", calm)
    line = results_text.over_all([found])[-1]
    assert "is beaten beyond chance by" in line and "on one, on the published split" in line


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
    (line,) = (x for x in results_text.over_all([found]) if x.startswith(f"**{short}.**"))
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
    line = results_text.over_all([found])[0]
    assert f"in {better} of {int(mine.sum())} comparisons, worse in {worse}" in line


def test_an_interval_beside_zero_that_the_correction_takes_back_is_marked(found):
    difference = Difference(-0.08, -0.15, -0.01, 0.2)
    assert difference.short == "−8.0 [−15.0, −1.0] not told apart†"
    assert Difference(-0.08, -0.15, 0.01, 0.2).short.endswith("apart")
    decide(found, "hurts").comparisons["p_holm"] = 0.2
    assert "withstands the correction" in results_text.masking(found)
    said = "no difference that withstands the correction for many comparisons (−8.0 points [−13.0, "
    assert said in in_short.result(found)
    assert headline(found).count("withstands the correction") == 2


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


def at_shares(found, *shares: float):
    """The same dataset run at some shares of the labels only."""
    near = [found.metrics["fraction"].sub(f).abs() < 1e-6 for f in (0.0, *shares)]
    few = replace(found, metrics=found.metrics[np.any(near, axis=0)], name=f"at {shares}")
    few.tested = found.tested  # whose file bears the other name
    return few


@pytest.mark.parametrize("run", [[(1.0,)], [(0.2, 1.0)], [(0.05, 1.0), (0.05, 0.2)]])
def test_at_a_glance_has_every_split_and_each_figure_stands_under_its_own_share(found, run):
    done = [at_shares(found, *shares) for shares in run]
    table = at_a_glance(done)
    at = sorted({f for shares in run for f in shares})
    assert len(table.rows) == 3 * len(done)
    assert len(table.headers) == 3 + 3 * len(at) + 1
    for row, (d, shares) in zip(table.rows[::3], zip(done, run, strict=True), strict=True):
        cells = dict(zip(map(str, table.headers[:-1]), row, strict=False))
        published = select.over_seeds(d.metrics, *select.PUBLISHED)
        for f in at:
            there = select.one(published, *select.METHOD, f)
            assert (f in shares) == (there is not None)
            shown = cells[f"method, {share(f)}"]
            assert there is None if shown is None else shown.sort == there["value"]
    assert len(masking_table(done).headers) == 3 + 2 * len(at)


@pytest.mark.parametrize(("most", "words"), [(0.2, "20 % of the labels"), (1.0, "all labels")])
def test_the_largest_share_of_labels_is_called_what_it_is(found, monkeypatch, most, words):
    few = replace(at_shares(found, *(f for f in (0.05, 0.2, 1.0) if f <= most)), name="one")
    few.comparisons = found.comparisons[found.comparisons["fraction"] <= most + 1e-6]
    few.per_class = found.per_class[found.per_class["fraction"] <= most + 1e-6]
    support = np.where(few.per_class["class"] == "alpha", 1, 4)
    clean = few.per_class.assign(subset="clean_any", support=support)
    few.per_class = pd.concat([few.per_class, clean])
    masks = mask_table(few)
    masks.loc[masks["label"] == "alpha", "status"] = "empty"
    monkeypatch.setattr("pipeline.report.results_text.mask_table", lambda found: masks)
    short, content = results_text.over_all([few]), results_text.content(few)
    said = [
        answers.survival(few),
        results_text.survival(few),
        at_a_glance([few]).note,
        *(line for line in short if "(the ceiling)" in line or "have a copy" in line),
        content,
        uneven_fallbacks(few, masks),
    ]
    assert len(said) == 7
    assert [text for text in said if words not in text] == []
    assert content.count(words) >= 3  # the ceiling, the floor and empty masks
    assert most == 1 or not any("all labels" in text for text in [*said, *short])


def test_the_papers_gain_is_set_beside_ours_with_its_verdict(found):
    found.name, found.manifest["synthetic"] = "covid", "0"
    said = results_text.paper_gain(decide(found, "hurts"))
    assert "a gain of MedFocusCLIP over CLIP of +4.5 points" in said
    assert "the intervals exclude that gain: −8.0 points [−13.0, −3.0]" in said
    assert "do not exclude" in results_text.paper_gain(decide(found, "helps"))


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
