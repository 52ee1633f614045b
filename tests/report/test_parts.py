"""The parts by themselves: outlines, plots, cases, answers, tables."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.config import EvaluateParams
from pipeline.evaluate.metrics import contributions
from pipeline.report.answers import Difference, compare_sentence, difference
from pipeline.report.bootstrap import mean_interval, spearman
from pipeline.report.cases import confusion_cases, image_cases, reliability_bins
from pipeline.report.gallery import spread
from pipeline.report.inputs import load_inputs
from pipeline.report.overlay import PREDICTED, draw_heat, draw_outlines
from pipeline.report.sections.dice_effect import answer
from pipeline.report.select import slug
from pipeline.report.svg import Axis
from pipeline.report.tables import Table, interval_cell

SURE = EvaluateParams()


def orange(picture) -> np.ndarray:
    return np.abs(np.asarray(picture, int) - PREDICTED).sum(axis=2) < 120


@pytest.mark.parametrize("shape", [(60, 100), (100, 60), (211, 97)])
def test_an_outline_lies_on_the_border_of_the_mask_within_a_pixel(shape):
    mask = np.zeros(shape, bool)
    mask[20:41, 30:51] = True
    picture = draw_outlines(np.full((*shape, 3), 128, np.uint8), mask, size=max(shape))
    y, x = np.nonzero(orange(picture))
    assert picture.size == shape[::-1]
    assert abs(y.min() - 20) <= 1.5 and abs(y.max() - 40) <= 1.5
    assert abs(x.min() - 30) <= 1.5 and abs(x.max() - 50) <= 1.5
    inside = orange(picture)[24:37, 34:47]
    assert not inside.any()


def test_a_mask_on_the_border_of_the_image_has_a_closed_outline():
    mask = np.zeros((50, 50), bool)
    mask[:, :25] = True
    picture = draw_outlines(np.zeros((50, 50, 3), np.uint8), mask, size=100)
    assert orange(picture)[:3].any() and orange(picture)[-3:].any()


def test_an_empty_mask_draws_nothing():
    image = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    plain = draw_outlines(image, None)
    assert np.array_equal(plain, draw_outlines(image, np.zeros((40, 30), bool)))


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        draw_outlines(np.zeros((40, 30, 3), np.uint8), np.ones((30, 40), bool))


@pytest.mark.parametrize("shape", [(40, 80), (90, 50), (64, 64)])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_heat_map_lights_the_place_it_names_to_the_pixel(shape, scale):
    image = np.full((*shape, 3), 100, np.uint8)
    heat = np.zeros(shape, np.float32)
    heat[5:15, 30:44] = 1
    shown = np.asarray(draw_heat(image, heat, size=scale * max(shape)), int)
    assert shown.shape[:2] == (scale * shape[0], scale * shape[1])
    y, x = np.nonzero(shown[..., 0] - shown[..., 2] > 0)
    assert abs((y.min() + y.max() + 1) / 2 - scale * 10) < 1
    assert abs((x.min() + x.max() + 1) / 2 - scale * 37) < 1
    assert abs(np.ptp(y) + 1 - scale * 10) <= 2 and abs(np.ptp(x) + 1 - scale * 14) <= 2


def test_a_heat_map_leaves_places_that_were_not_seen_as_they_are():
    image = np.full((40, 80, 3), 100, np.uint8)
    heat = np.random.default_rng(0).uniform(size=(40, 80)).astype(np.float32)
    heat[:, :10] = np.nan
    shown = np.asarray(draw_heat(image, heat, size=80), int)
    assert (shown[:, :8] == 100).all() and not (shown[:, 12:] == 100).all(axis=2).any()


def test_the_mean_confusion_is_scikit_learns(ready):
    from sklearn.metrics import confusion_matrix

    found = load_inputs("one", ready)
    cases = confusion_cases(found, "official", "linear-probe", "whole", 1.0)
    mine = cases.pivot_table(index="y_true", columns="y_pred", values="n", aggfunc="sum").fillna(0)
    rows = found.predictions(protocol="official", head="linear-probe", view="whole", fraction=1.0)
    expected = confusion_matrix(rows["y_true"], rows["y_pred"])
    assert np.array_equal(mine.to_numpy(int), expected)


def test_reliability_bins_are_scikit_learns(ready):
    from sklearn.calibration import calibration_curve

    found = load_inputs("one", ready)
    run = {"protocol": "official", "head": "linear-probe", "view": "whole", "fraction": 0.2}
    confidence, accuracy, count = reliability_bins(found, *run.values(), bins=15)
    rows = found.predictions(**run)
    sure = rows[[c for c in rows if c.startswith("p:")]].max(axis=1)
    expected = calibration_curve(rows["y_true"] == rows["y_pred"], sure, n_bins=15)
    assert accuracy == pytest.approx(expected[0])
    assert confidence == pytest.approx(expected[1])
    assert count.sum() == len(rows)


@pytest.mark.parametrize("bins", [3, 5, 7, 10, 15])
def test_a_confidence_on_an_edge_is_in_the_bin_that_evaluate_counts_it_in(bins):
    sure = np.arange(1, bins + 1) / bins
    sure = np.concatenate([sure, np.nextafter(sure, 0)]).clip(0.5)
    proba, right = np.stack([sure, 1 - sure], axis=1), np.arange(len(sure)) % 3 > 0
    rows = pd.DataFrame({"y_true": np.where(right, "a", "b"), "y_pred": "a"})
    rows = rows.assign(**{"p:a": proba[:, 0], "p:b": proba[:, 1]})
    found = SimpleNamespace(predictions=lambda **where: rows)
    _, _, count = reliability_bins(found, "official", "linear-probe", "whole", 1.0, bins)
    counted = contributions(proba, (~right).astype(int), bins).total[5 : 5 + bins]
    assert list(count) == list(counted[counted > 0])


def test_cases_count_the_seeds_that_were_right(ready):
    found = load_inputs("one", ready)
    cases = image_cases(found, "official", "linear-probe", "whole", 1.0)
    rows = found.predictions(protocol="official", head="linear-probe", view="whole", fraction=1.0)
    image_id = cases.index[3]
    mine = rows[rows["image_id"] == image_id]
    assert cases.loc[image_id, "right"] == (mine["y_true"] == mine["y_pred"]).mean()
    assert cases.loc[image_id, "p_true"] == pytest.approx(
        mine[f"p:{mine['y_true'].iloc[0]}"].mean()
    )
    assert cases.loc[image_id, "seeds"] == 2


def test_fractions_stored_as_float32_are_found(ready):
    found = load_inputs("one", ready)
    for fraction in (0.05, 0.2, 1.0):
        rows = found.predictions(fraction=fraction, protocol="official", head="linear-probe")
        assert rows["fraction"].nunique() == 1


def comparison(**changes) -> pd.DataFrame:
    row = {
        "protocol": "official",
        "subset": "full",
        "metric": "accuracy",
        "fraction": 0.1,
        "head_a": "h",
        "view_a": "whole",
        "head_b": "h",
        "view_b": "masked",
        "difference": 0.03,
        "lo": 0.01,
        "hi": 0.06,
        "p_holm": 0.01,
    }
    return pd.DataFrame([row | changes])


def test_a_difference_stored_the_other_way_round_is_turned():
    found = difference(comparison(), ("h", "masked"), ("h", "whole"), 0.1)
    assert (found.value, found.lo, found.hi) == (-0.03, -0.06, -0.01)
    assert found.verdict == "hurts"


@pytest.mark.parametrize(
    ("lo", "hi", "p", "verdict"),
    [
        (0.01, 0.05, 0.01, "helps"),
        (-0.05, -0.01, 0.01, "hurts"),
        (-0.01, 0.05, 0.01, "undecided"),
        (0.01, 0.05, 0.2, "undecided"),
    ],
)
def test_a_verdict_needs_both_the_interval_and_the_corrected_p(lo, hi, p, verdict):
    assert Difference((lo + hi) / 2, lo, hi, p).verdict == verdict


def test_a_comparison_that_was_not_made_is_none_and_never_zero():
    assert difference(comparison(), ("h", "masked"), ("other", "whole"), 0.1) is None
    assert difference(None, ("h", "masked"), ("h", "whole"), 0.1) is None


def test_the_sentence_names_few_and_all_labels_and_where_it_is_sure():
    said = compare_sentence(
        "masked minus whole",
        {0.05: Difference(-0.031, -0.04, -0.022, 0.01), 1.0: Difference(0.0, -0.01, 0.01, 1.0)},
    )
    assert "−3.1 points [−4.0, −2.2] with 5 % of the labels" in said
    assert "worse beyond chance at 5 %" in said
    assert "not told apart at 100 %" in said


def test_a_gallery_shows_the_worst_and_does_not_hide_the_rest():
    ids = [f"{i:03d}" for i in range(100)]
    shown = spread(ids, 10)
    assert shown[:5] == ids[:5]
    assert shown[-1] == ids[-1]
    assert shown == sorted(shown) and len(set(shown)) == 10
    assert spread(ids[:4], 10) == ids[:4]


def test_the_answer_on_dice_follows_the_interval():
    x = np.linspace(0, 1, 60)
    noise = np.random.default_rng(0).normal(size=60)
    assert answer(*spearman(x, x + 0.1 * noise, None, SURE)).startswith("Yes, clearly")
    assert answer(*spearman(x, -x, None, SURE)).startswith("No, the reverse")
    assert answer(*spearman(x, noise, None, SURE)).startswith("Not measurably")
    assert answer(*spearman(x, np.zeros(60), None, SURE)).startswith("There is too little")


def test_a_correlation_is_scipys_ties_included():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 40), rng.integers(0, 5, 40)
    assert spearman(x, y, None, SURE)[0] == pytest.approx(spearmanr(x, y).statistic)


def test_intervals_follow_the_parameters_of_evaluate():
    x, y = np.random.default_rng(0).normal(size=(2, 60))
    for measure in (mean_interval, spearman):
        given = (x,) if measure is mean_interval else (x, y)
        usual = measure(*given, None, SURE)
        less_sure = measure(*given, None, SURE.model_copy(update={"confidence": 0.5}))
        assert less_sure[0] == usual[0]
        assert usual[1] < less_sure[1] < less_sure[2] < usual[2]
        for changed in ({"seed": 1}, {"bootstrap": 20}):
            assert measure(*given, None, SURE.model_copy(update=changed)) != usual


def test_a_mean_without_values_is_not_a_number_and_one_with_values_lies_in_its_interval():
    assert np.isnan(mean_interval(np.array([np.nan]), None, SURE)).all()
    mean, lo, hi = mean_interval(np.random.default_rng(0).uniform(size=50), None, SURE)
    assert lo < mean < hi


def test_slugs_of_names_that_differ_only_in_signs_stay_apart():
    names = ["a b", "a-b", "a_b", "A b", "ä b", "a.b"]
    assert len({slug(name) for name in names}) == len(names)


def test_an_axis_covers_its_values_and_ends_on_round_numbers():
    axis = Axis.nice("x", 0.123, 0.987, scale=100)
    assert axis.lo <= 0.123 and axis.hi >= 0.987
    assert all(float(label) % 2.5 == 0 for _, label in axis.ticks)


def test_markdown_of_a_table_keeps_its_pipes_and_intervals():
    table = Table(["a", "b"], [["x|y", interval_cell(0.5, 0.4, 0.6)]])
    assert table.markdown().splitlines()[-1] == "| x\\|y | 50.0 [40.0, 60.0] |"
