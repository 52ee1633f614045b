"""Plots and their tables show the figures of `evaluate`, and the paper's points as quoted."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from make_inputs import project

from pipeline.report import figures, select, svg
from pipeline.report.gallery import Album
from pipeline.report.inputs import load_inputs
from pipeline.report.paper import quoted
from pipeline.report.sections import calibration, curves, per_class
from pipeline.report.tables import Table


@pytest.fixture(scope="module")
def brain(tmp_path_factory):
    """A set that the paper has too, and its parameters."""
    params, paths = project(tmp_path_factory.mktemp("figures"), "brain", synthetic="0")
    return load_inputs("brain", paths), params


@pytest.fixture(scope="module")
def first(brain):
    """The redrawn Fig. 2: the published split."""
    found, params = brain
    grid = curves.section(found, Album(found), params).blocks[-1]
    return grid.figures[0]


def test_each_line_has_its_band_and_each_marker_its_figure(brain, first):
    found, _ = brain
    table = select.over_seeds(found.metrics, "official", "full")
    drawn = [("linear-probe", "whole"), ("linear-probe", "masked"), ("medfocus", "masked")]
    drawn.append(("medfocus-probe", "masked"))
    assert first.svg.count("<polygon") == len(drawn)
    for run in drawn:
        for fraction in (0.05, 0.2, 1.0):
            value = select.one(table, *run, fraction)["value"]
            tip = f"{select.run_name(*run)}, {100 * fraction:.3g} %: {100 * value:.1f} %"
            assert f"<title>{tip}</title>" in first.svg


def test_the_papers_points_are_drawn_hollow_and_labelled_quoted(first):
    for name in ("CLIP", "MedFocusCLIP"):
        for fraction, value in quoted("brain")[name].items():
            if fraction not in (0.05, 0.2, 1.0):
                continue
            tip = f"{name} (quoted), {100 * fraction:.3g} %: {100 * value:.1f} %"
            (marker,) = re.findall(rf"<path [^>]*><title>{re.escape(tip)}", first.svg)
            assert 'fill="#fff"' in marker
    assert not [t for t in re.findall("<polygon[^>]*>", first.svg) if "#6C6C6C" in t]


def test_a_marker_stands_at_the_height_of_its_figure(first):
    found = re.findall(r"(\d+\.\d+)h8v8h-8z[^>]*><title>[^:]*: ([\d.]+) %", first.svg)
    heights = [(float(y), float(value)) for y, value in found]
    assert len(heights) == 3  # the squares: the masked probe at three shares
    (y0, v0), (y1, v1), (y2, v2) = heights
    assert (y1 - y0) * (v2 - v0) == pytest.approx((y2 - y0) * (v1 - v0), abs=6)
    assert (y0 > y2) == (v0 < v2)


def test_the_table_of_the_plot_holds_the_same_figures(brain, first):
    table = select.over_seeds(brain[0].metrics, "official", "full")
    rows = {str(row[0].text): row[1:] for row in first.table.rows}
    for fraction, cell in zip((0.05, 0.2, 1.0), rows["linear probe, whole image"], strict=True):
        assert cell.sort == select.one(table, "linear-probe", "whole", fraction)["value"]
    quoted_too = {"CLIP (quoted from the paper)", "MedFocusCLIP (quoted from the paper)"}
    assert quoted_too | {"zero-shot, whole image"} < set(rows)
    assert "in brackets the 95 % interval" in first.table.note


def test_the_per_class_table_is_evaluates(brain):
    found, params = brain
    made = per_class.section(found, Album(found), params)
    shown = made.blocks[0].blocks[0]
    source = pd.read_csv(found.paths.plots("brain") / "per_class.csv")
    mine = source.query(
        "protocol == 'official' and head == 'medfocus-probe' and view == 'masked' and fraction > .9"
    ).set_index("class")
    assert shown.caption == "MedFocus + probe, masked, 100 % of the labels"
    assert [row[0].text for row in shown.rows] == list(mine.index)
    for row in shown.rows:
        expected = mine.loc[row[0].text]
        assert [c.sort for c in row[1:4]] == list(expected[["precision", "recall", "f1"]])
        assert row[4] == round(expected["support"])


def test_the_reliability_diagram_counts_every_prediction_once(brain):
    found, params = brain
    evaluate = params.evaluate.model_copy(update={"bins": 3})
    params = params.model_copy(update={"evaluate": evaluate})
    text, grid = calibration.section(found, Album(found), params).blocks
    assert "sorted into 3 bins" in text.text
    for figure in grid.figures:
        counts = pd.DataFrame([(row[0].text, row[3]) for row in figure.table.rows])
        assert set(counts.groupby(0)[1].sum()) == {12 * 2}  # test images x seeds
        assert counts.groupby(0).size().max() <= 3


def legend(figure) -> dict[str, str]:
    """The sample (colour, marker and dash) beside each name of a plot's legend."""
    entries = r'<g transform="[^"]*">((?:(?!</g>).)*?)<text [^>]*>([^<]*)</text></g>'
    return {name: sample for sample, name in re.findall(entries, figure.svg)}


def test_a_run_looks_the_same_in_the_curves_and_in_the_reliability_diagrams(brain, first):
    found, params = brain
    usual = legend(first)
    for figure in calibration.section(found, Album(found), params).blocks[-1].figures:
        mine = legend(figure)
        runs = {select.run_name(*run) for run in (select.BASELINE, select.METHOD)}
        assert runs == set(mine) - {"perfectly calibrated"}
        assert {name: mine[name] for name in runs} == {name: usual[name] for name in runs}


def test_bins_of_few_predictions_are_hollow_and_off_the_line():
    at, right = np.array([0.2, 0.4, 0.6, 0.8]), np.array([0.0, 0.5, 0.6, 1.0])
    count = np.array([figures.FEW - 1, figures.FEW, 500, 1])
    made = figures.reliability("few", {select.METHOD: (at, right, count)})
    markers = re.findall(r'<path [^>]*fill="([^"]*)"[^>]*><title>[^<]*?(\d+) pred', made.svg)
    hollow = {int(n): fill == "#fff" for fill, n in markers}
    assert hollow == {int(n): bool(n < figures.FEW) for n in count}
    (line,) = re.findall('<polyline points="([^"]*)" fill', made.svg)
    assert len(line.split()) == 2
    assert len(made.table.rows) == 4  # the table has them all


def test_the_note_of_the_reliability_diagrams_says_which_bins_are_hollow(brain):
    found, params = brain
    text = calibration.section(found, Album(found), params).blocks[0].text
    assert f"hollow markers beside a line are bins of fewer than {figures.FEW} predictions" in text


@pytest.mark.parametrize(("lo", "hi"), [(0.93, 0.97), (0.0, 0.9), (0.5, 1.0), (0.95, 0.95)])
def test_the_axis_of_a_scatter_plot_holds_every_point_and_no_more_than_they_need(lo, hi):
    x = np.linspace(lo, hi, 9)
    made = figures.scatter("all", x, np.linspace(-0.1, 0.1, 9), "Dice", "change", Table(["a"], []))
    spots = [float(v) for v in re.findall(r'<path d="M(\d+\.\d+),[^>]*fill="#fff"', made.svg)]
    assert len(spots) == 9
    left, right = svg.LEFT, svg.WIDTH - svg.RIGHT
    assert left - 3 <= min(spots) and max(spots) <= right - 3
    if hi > lo:
        assert max(spots) - min(spots) > 0.5 * (right - left)
    ticks = re.findall(r'<path d="M[\d.]+,[\d.]+v4" class="axis"/><text [^>]*>([^<]*)<', made.svg)
    assert min(map(float, ticks)) <= lo and hi <= max(map(float, ticks)) <= 1
