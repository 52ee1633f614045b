"""What `evaluate --compare` prints for a person."""

from __future__ import annotations

import pandas as pd
import pytest

from pipeline.evaluate.compare import COLUMNS
from pipeline.evaluate.compare_text import compared_text
from pipeline.evaluate.verdict import verdict


def rows(protocol: str, subset: str, difference: float, p_holm: float = 1.0) -> dict:
    runs = {"head_a": "probe", "view_a": "masked", "head_b": "probe", "view_b": "whole"}
    figures = {"difference": difference, "lo": difference - 0.01, "hi": difference + 0.01}
    figures |= {"p": p_holm / 10, "p_holm": p_holm, "n_seeds": 5, "n_images": 40}
    where = {"protocol": protocol, "subset": subset, "metric": "accuracy", "fraction": 0.05}
    return where | runs | figures


def printed(*made: dict) -> list[str]:
    return compared_text(pd.DataFrame(made, columns=list(COLUMNS))).splitlines()


def test_figures_have_four_decimals_and_a_tiny_p_is_no_zero():
    _, line = printed(rows("official", "full", -1 / 3, p_holm=1e-7))
    assert line.split()[3:] == [
        *("0.05", "probe", "masked", "probe", "whole", "-0.3333", "-0.3433", "-0.3233"),
        *("<0.0001", "<0.0001", "5", "40", "worse"),
    ]


def test_a_difference_without_an_interval_has_dashes_and_is_not_told_apart():
    nothing = dict.fromkeys(("lo", "hi", "p", "p_holm"), float("nan"))
    _, line = printed(rows("official", "full", 0.1) | nothing)
    assert line.split()[8:] == ["0.1000", *"––––", "5", "40", "not", "told", "apart"]


def test_a_subset_that_repeats_the_full_one_is_left_out_and_named():
    full, clean = rows("official", "full", 0.1), rows("official", "clean", 0.1, p_holm=1.0)
    other = rows("official", "clean_any", 0.2)
    lines = printed(full, clean, other, rows("grouped", "full", 0.1))
    assert [line.split()[:2] for line in lines[1:-1]] == [
        ["official", "full"],
        ["official", "clean_any"],
        ["grouped", "full"],
    ]
    assert lines[-1].endswith("again: official, clean")


@pytest.mark.parametrize(
    ("lo", "hi", "p", "said"),
    [
        (0.01, 0.2, 0.04, "better"),
        (-0.2, -0.01, 0.04, "worse"),
        (0.01, 0.2, 0.05, "not told apart"),
        (-0.01, 0.2, 0.001, "not told apart"),
        (0.01, 0.2, float("nan"), "better"),
    ],
)
def test_a_verdict_needs_the_interval_and_the_corrected_p(lo, hi, p, said):
    assert verdict(lo, hi, p) == said
    row = rows("official", "full", 0.0) | {"lo": lo, "hi": hi, "p_holm": p}
    assert printed(row)[1].endswith(f" {said}")
