"""What the part without copies loses is told apart from what its other classes cost it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipeline.report import answers, results_text, select
from pipeline.report.class_mix import CLEAN, Mix, class_mix
from pipeline.report.sections import in_short
from pipeline.report.sections.summary import at_a_glance
from pipeline.report.tables import interval, percent

SHARES = {"alpha": 0, "beta": 1, "gamma": 3}
"""Images of each class in the clean part; the whole test part has four of each."""


@pytest.fixture
def mixed(found):
    """`found`, with a clean part of one beta, three gammas and no alpha; all splits differ."""
    table = found.per_class
    table = table[table["protocol"] == "official"]
    clean = table.assign(subset=CLEAN[1], support=table["class"].map(SHARES))
    clean["recall"] = np.where(clean["support"] > 0, 0.5, np.nan)
    found.per_class = pd.concat([found.per_class, clean], ignore_index=True)
    return found


def row(found, run, block):
    return select.with_most_labels(found.metrics, run, block)


@pytest.mark.parametrize("run", (select.BASELINE, select.METHOD))
def test_the_published_figure_in_the_clean_shares_is_that_of_the_predictions(mixed, run):
    mix = class_mix(mixed, run)
    rows = mixed.predictions(protocol="official", head=run[0], view=run[1], fraction=1.0)
    weight = rows["y_true"].map(SHARES) / rows["y_true"].map(rows["y_true"].value_counts())
    expected = np.average(rows["y_true"] == rows["y_pred"], weights=weight)
    assert mix.matched == pytest.approx(expected, abs=1e-6)
    assert mix.full == row(mixed, run, select.PUBLISHED)["value"]
    assert mix.clean == row(mixed, run, CLEAN)["value"]
    assert mix.lacking == ["alpha"]


def test_what_is_left_for_copies_is_what_the_shares_of_the_classes_do_not_explain(mixed):
    mix = class_mix(mixed, select.BASELINE)
    shown = [round(100 * v, 1) for v in (mix.full, mix.clean, mix.matched)]
    left, drop = round(shown[2] - shown[1], 1), round(shown[0] - shown[1], 1)
    assert drop > 0
    said = f"{left:.1f}" if left > 0 else "none"
    text = f"so {said} of the {drop:.1f} points are left for copies"
    named = "no image of alpha and other shares of the classes: weighted to its shares, the whole "
    named += f"test part reaches {shown[2]:.1f} %"
    for told in (results_text.over_all([mixed]), [results_text.survival(mixed)]):
        assert any(named in line and text in line for line in told)
    short = in_short._copies([mixed])[1]
    assert text in short and "of which none is alpha" in short and f"{shown[2]:.1f} %" in short
    note = at_a_glance([mixed]).note
    assert "clean part of one has no image of alpha" in note
    for name, run in (("probe, masked", select.MASKED_PROBE), ("method", select.METHOD)):
        assert f"{name} {percent(class_mix(mixed, run).matched)}" in note
    assert f"probe, whole {shown[2]:.1f}" in note


@pytest.mark.parametrize(
    ("full", "clean", "matched", "said"),
    [
        (0.922, 0.856, 0.880, "so 2.4 of the 6.6 points are left for copies"),
        (0.922, 0.856, 0.840, "so none of the 6.6 points are left for copies"),
        (0.80, 0.82, 0.85, ""),
    ],
)
def test_the_rest_is_named_only_where_there_is_a_loss(full, clean, matched, said):
    assert Mix(1.0, full, clean, matched, []).left.removeprefix(", ") == said


def test_a_part_of_the_same_classes_is_not_reweighted(mixed):
    table = mixed.per_class
    official = table["protocol"] == "official"
    table.loc[official & (table["subset"] == CLEAN[1]), "support"] = 4
    assert class_mix(mixed, select.BASELINE) is None
    assert "weighted" not in results_text.survival(mixed) + at_a_glance([mixed]).note


def test_the_figures_with_and_without_copies_are_those_of_their_rows(mixed):
    table = mixed.metrics  # far apart, so that one cannot stand for the other
    chosen = (table["metric"] == "accuracy") & (table["seed"] == -1) & (table["fraction"] == 1)
    for subset, at in (("full", 0.9), ("clean_any", 0.6)):
        here = chosen & (table["subset"] == subset) & (table["protocol"] == "official")
        table.loc[here, ["value", "lo", "hi"]] = at, at - 0.05, at + 0.05
    mixed.metrics = table.copy()
    with_all, without = (row(mixed, select.BASELINE, b) for b in (select.PUBLISHED, CLEAN))
    assert (with_all["value"], without["value"]) == (0.9, 0.6)
    with_all, without = (interval(r["value"], r["lo"], r["hi"]) for r in (with_all, without))
    assert f"reaches {without} % instead of {with_all} %" in results_text._copies(mixed)
    assert "(60.0 % right without them, 90.0 % with;" in in_short._copies([mixed])[1]
    survived = answers.survival(mixed)
    assert f"{with_all} % on the set's own test part" in survived
    assert f"{without} % without copies of training images" in survived
