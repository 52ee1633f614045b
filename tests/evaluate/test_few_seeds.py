"""Intervals over a handful of seeds: as wide as Student's t asks for, and not wider than needed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.config import EvaluateParams
from pipeline.evaluate.compare import difference
from pipeline.evaluate.intervals import nested, p_values, percentile_interval, seed_weights
from pipeline.evaluate.predictions import Predicted, Run
from pipeline.evaluate.scores import Block, metric_rows
from pipeline.evaluate.tables import class_rows
from pipeline.report.answers import Difference

B = 2000
APART = np.array([-0.1, -0.05, 0, 0.05, 0.1])


def half(values: np.ndarray, noise: np.ndarray, confidence: float = 0.95) -> float:
    """Half the width of the interval of seeds `values` whose replicates are apart by `noise`."""
    weights = seed_weights(list(range(len(values))), B, 0)
    drawn = nested(values, values[:, None] + noise, weights, confidence).replicates
    lo, hi = percentile_interval(drawn, confidence)
    return (hi - lo) / 2


@pytest.mark.parametrize("confidence", (0.8, 0.95))
@pytest.mark.parametrize("seeds", (2, 3, 5, 10))
def test_where_only_seeds_spread_the_interval_is_students(seeds, confidence):
    values = 0.5 + np.resize(APART, seeds) * 0.1
    lo, hi = stats.t.interval(confidence, seeds - 1, values.mean(), stats.sem(values))
    weights = seed_weights(list(range(seeds)), B, 0)
    of = nested(values, values[:, None] + np.zeros(B), weights, confidence)
    ours = percentile_interval(of.replicates, confidence)
    assert ours[1] - ours[0] == pytest.approx(hi - lo, rel=1e-6)
    p = p_values(np.array([0.02]), [of])[0]
    assert p == pytest.approx(2 * stats.t.sf(0.02 / stats.sem(values), seeds - 1), rel=1e-6)


def test_seeds_and_the_images_they_share_add_up_in_squares():
    noise = np.random.default_rng(0).normal(0, 0.02, (1, B)).repeat(5, axis=0)
    t, z = stats.t.ppf(0.975, 4), stats.norm.ppf(0.975)
    expected = np.hypot(t * stats.sem(0.3 * APART), z * noise[0].std())
    assert half(0.8 + 0.3 * APART, noise) == pytest.approx(expected, rel=0.05)
    assert half(np.full(5, 0.8), noise) == pytest.approx(z * noise[0].std(), rel=0.05)


def test_images_of_a_fold_of_its_own_are_not_counted_twice():
    noise = np.random.default_rng(0).normal(0, 0.08, (5, B))  # folds: as far apart as their noise
    expected = stats.t.ppf(0.975, 4) * stats.sem(APART)
    assert half(0.5 + APART, noise) == pytest.approx(expected, rel=0.05)
    calm = half(np.full(5, 0.5), noise)  # alike by luck: the images alone say this much
    assert calm == pytest.approx(1.96 * 0.08 / 5**0.5, rel=0.06)


@pytest.mark.parametrize(("seed", "shared", "own"), [(1, 0, 0), (2, 1, 0), (1, 1, 1), (1, 0, 1)])
def test_the_interval_and_p_hold_the_truth_as_often_as_they_say(seed, shared, own):
    rng, runs, S = np.random.default_rng(3), 400, 5
    weights = seed_weights(list(range(S)), B, 0)
    hits, sure = 0, 0
    for _ in range(runs):
        spread = np.array([seed, shared, own]) * 0.02
        values = 0.5 + spread[0] * rng.standard_normal(S) + spread[1] * rng.standard_normal()
        values += spread[2] * rng.standard_normal(S)
        noise = spread[1] * rng.standard_normal(B) + spread[2] * rng.standard_normal((S, B))
        of = nested(values, values[:, None] + noise, weights, 0.95)
        lo, hi = percentile_interval(of.replicates, 0.95)
        hits += lo <= 0.5 <= hi
        sure += p_values(np.array([values.mean() - 0.5]), [of])[0] < 0.05
    assert 0.92 <= hits / runs <= 0.995
    assert 0.002 <= sure / runs <= 0.08


def test_p_is_below_its_level_where_the_interval_leaves_zero_out():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, (1, B)).repeat(5, axis=0)
    weights = seed_weights([0, 1, 2, 3, 4], B, 0)
    of = nested(0.1 + 0.2 * APART, 0.1 + 0.2 * APART[:, None] + noise, weights, 0.95, (-1, 1))
    edge = half(0.1 + 0.2 * APART, noise)
    below, above = p_values(np.array([0.9 * edge, 1.1 * edge]), [of, of])
    assert above < 0.05 < below
    nothing = nested(np.zeros(2), np.zeros((2, B)), seed_weights([0, 1], B, 0), 0.95)
    assert (p_values(np.array([0.0, 0.1]), [nothing, nothing]) == 1).all()


@pytest.mark.parametrize("sign", (1, -1))
def test_p_and_the_interval_of_skewed_resamples_may_part_near_zero(sign):
    skewed = np.random.default_rng(0).gamma(3.4, size=(1, B))
    drawn = sign * 0.05 * (skewed - skewed.mean())
    value = {1: 1.8, -1: 2.05}[sign] * drawn.std()
    of = nested(np.array([value]), value + drawn, seed_weights([0], B, 0), 0.95, (-1, 1))
    lo, _ = percentile_interval(of.replicates, 0.95)
    p = p_values(np.array([value]), [of])[0]
    assert (lo > 0) == (sign > 0) != (p < 0.05)
    assert Difference(value, lo, 1.0, p).verdict == "undecided"  # which asks for both


def runs(spread: int, seeds: int = 5) -> list:
    """Two runs on 200 images, b better; their seeds differ by `spread` images, the mean stays."""
    block = Block(None, {}, EvaluateParams(), ["x", "y"])
    ids, y = np.array([f"i{k:03d}" for k in range(200)]), np.arange(200) % 2
    scored = []
    for right, sign in ((120, 1), (150, -1)):
        found = {}
        for s in range(seeds):
            flags = np.arange(200) < right + sign * spread * (s - (seeds - 1) // 2)
            chosen = np.where(flags, y, 1 - y)
            found[s] = Predicted(ids, y, np.eye(2, dtype=np.float32)[chosen] * 0.8 + 0.1)
        labels = dict.fromkeys(range(seeds), 10)
        scored.append(block.score(Run("official", "head", "view", 1.0, found, labels, {})))
    return scored


def widths(spread: int) -> dict[str, float]:
    params = EvaluateParams()
    a, b = runs(spread)
    (row,) = [
        r
        for r in metric_rows(a, "official", "full", params)
        if r["seed"] == -1 and r["metric"] == "accuracy"
    ]
    found = difference(a, b, "accuracy", params)
    recall = class_rows(a, "official", "full", ["x", "y"], 0.95)[0]
    return {
        "figure": row["hi"] - row["lo"],
        "difference": found["hi"] - found["lo"],
        "p": found["p"],
        "recall": recall["recall_hi"] - recall["recall_lo"],
        "seeds": row["t_hi"] - row["t_lo"],
    }


def test_intervals_of_figures_differences_and_classes_grow_with_the_spread_of_the_seeds():
    calm, apart = widths(0), widths(12)
    assert calm["seeds"] == 0 < calm["figure"]
    for name in ("figure", "difference", "recall"):
        assert apart[name] > 1.3 * calm[name], name
    assert apart["p"] > calm["p"]
    assert apart["figure"] > 0.999 * apart["seeds"]  # never told surer than seeds alone allow


def test_one_seed_has_the_interval_of_its_images_and_no_end_leaves_the_scale():
    params = EvaluateParams()
    one = runs(0, seeds=1)[0]
    rows = [r for r in metric_rows(one, "official", "full", params) if r["metric"] == "accuracy"]
    assert rows[0]["lo"] == rows[1]["lo"] and rows[0]["hi"] == rows[1]["hi"]
    for row in metric_rows(runs(60, seeds=2)[1], "official", "full", params):
        assert 0 <= row["lo"] <= row["hi"] <= (2 if row["metric"] == "brier" else 1)


def confident(rng: np.random.Generator, n: int, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Return n probabilities of two classes and the classes, right `gap` less often than said."""
    said = rng.beta(4, 1.5, n) / 2 + 0.5
    right = rng.random(n) < said - gap
    proba = np.stack([said, 1 - said], axis=1).astype(np.float32)
    return proba, np.where(right, 0, 1)


@pytest.mark.parametrize(("gap", "n"), [(0.0, 60), (0.0, 1000), (0.1, 400)])
def test_the_interval_of_a_calibration_error_holds_its_figure_and_no_bias(gap, n):
    rng, params = np.random.default_rng(0), EvaluateParams(bootstrap=300)
    ids, held = np.array([f"i{k:04d}" for k in range(n)]), []
    for _ in range(20):
        block, seeds = Block(None, {}, params, ["x", "y"]), {}
        for s in range(5):
            proba, y = confident(rng, n, gap)
            seeds[s] = Predicted(ids, y, proba)
        labels = dict.fromkeys(seeds, 10)
        scored = block.score(Run("official", "head", "view", 1.0, seeds, labels, {}))
        for row in metric_rows(scored, "official", "full", params):
            if row["metric"] == "ece":
                assert 0 <= row["lo"] <= row["value"] <= row["hi"] <= 1
                held += [row["lo"] <= max(gap, 0.01) and row["hi"] >= gap]
    assert np.mean(held) > 0.6  # percentiles hold next to none of those near zero
