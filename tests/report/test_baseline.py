"""Which baseline is the one to beat: named alike on the page and in the results, by its figures."""

from __future__ import annotations

import pandas as pd
import pytest

from pipeline.report import results_text, select
from pipeline.report.results_readme import readme_markdown
from pipeline.report.sections.summary import findings

OTHER = ("medfocus-probe", "whole")


def with_other(found, gain: float):
    """Give another head on whole images the baseline's accuracies plus `gain`, in every split."""
    m = found.metrics
    base = (m["head"] == select.BASELINE[0]) & (m["view"] == select.BASELINE[1])
    others = m[~((m["head"] == OTHER[0]) & (m["view"] == OTHER[1]))]
    mine = m[base].assign(head=OTHER[0])
    columns = ["value", "lo", "hi"]
    found.metrics = pd.concat(
        [others, mine.assign(**{c: mine[c] + gain for c in columns})], ignore_index=True
    )
    return found


def compared(found, difference: float):
    """Compare that head with the baseline in every split: surely better or worse."""
    table = found.comparisons
    rows = table[(table["view_a"] == "masked") & (table["view_b"] == "whole")]
    rows = rows[(rows["head_a"] == "linear-probe") & (rows["head_b"] == "linear-probe")]
    new = rows.assign(head_a=OTHER[0], view_a=OTHER[1], difference=difference, p_holm=0.001)
    new = new.assign(lo=difference - 0.01, hi=difference + 0.01)
    found.comparisons = pd.concat([table, new], ignore_index=True)
    return found


@pytest.mark.parametrize("gain", [0.06, -0.06])
def test_the_page_and_the_results_name_the_same_baseline(found, gain):
    with_other(found, gain)
    (line,) = (x for x in findings(found) if x.startswith("Baseline to beat"))
    said = results_text.baseline(found)
    assert said and line.endswith(said)
    assert said in readme_markdown([found], "", "", "")


@pytest.mark.parametrize("splits", [("official", "grouped"), ("official",)])
def test_the_head_with_the_highest_mean_is_named_and_no_lower_one(found, splits):
    found.metrics = found.metrics[found.metrics["protocol"].isin(splits)]
    higher = results_text.baseline(compared(with_other(found, 0.06), 0.06))
    assert "MedFocus + probe, whole image, has the highest mean over the shares" in higher
    assert "against the linear probe it helps at all 3 shares" in higher
    lower = results_text.baseline(with_other(found, -0.06))
    assert "No other head on whole images has a higher mean over the shares" in lower
    assert "MedFocus" not in lower


def test_the_figures_of_the_baseline_are_those_of_the_strictest_split(found):
    for protocol, where in (("grouped", "in grouped cross"), ("official", "on the published")):
        table = select.over_seeds(found.metrics, protocol, "full")
        value = select.one(table, *select.BASELINE, 1.0)["value"]
        said = results_text.baseline(found)
        assert f"The linear probe on whole images, {where}" in said
        assert f"{100 * value:.1f} [" in said
        found.metrics = found.metrics[found.metrics["protocol"] != protocol]
    assert results_text.baseline(found) is None
