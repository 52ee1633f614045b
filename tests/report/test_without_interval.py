"""Figures that have no interval are shown alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipeline.config import EvaluateParams
from pipeline.report.answers import Difference
from pipeline.report.bootstrap import mean_interval
from pipeline.report.remarks import evaluate_notes

NAN = float("nan")


def test_a_difference_without_an_interval_is_shown_alone_and_not_told_apart():
    found = Difference(-0.031, NAN, NAN, 1.0)
    assert (found.short, str(found)) == ("−3.1 not told apart", "−3.1 points")
    assert str(Difference(-0.031, -0.04, -0.022, 0.01)) == "−3.1 points [−4.0, −2.2]"


@pytest.mark.parametrize(
    ("values", "units"), [([0.7], None), ([0.5, 0.9], ["p", "p"]), ([0.8] * 4, None)]
)
def test_a_mean_whose_resamples_are_all_alike_has_no_interval(values, units):
    mean, *ends = mean_interval(np.array(values), units, EvaluateParams(bootstrap=50))
    assert mean == pytest.approx(np.mean(values)) and np.isnan(ends).all()


def test_a_note_on_several_figures_is_said_once():
    table = pd.DataFrame({"protocol": "official", "subset": "full", "note": ["b; a", "a", "", "b"]})
    assert evaluate_notes(table, "official", "full") == "Notes: a; b."
