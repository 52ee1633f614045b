"""Whether a better mask helps is asked within each class, on the strictest split there is."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
from make_inputs import restamp
from scipy.stats import rankdata, spearmanr

from pipeline.config import EvaluateParams
from pipeline.paths import Paths
from pipeline.report import results_text
from pipeline.report.bootstrap import spearman
from pipeline.report.inputs import load_inputs
from pipeline.report.sections import dice_effect

SURE = EvaluateParams(bootstrap=300)


def test_classes_of_better_masks_and_larger_gains_are_no_correlation():
    rng = np.random.default_rng(0)
    classes = np.repeat(["a", "b", "c"], 40)
    level = np.repeat([0.0, 5.0, 10.0], 40)
    x, y = (level + rng.normal(size=120) for _ in range(2))
    assert spearman(x, y, None, SURE)[0] > 0.7
    rho, lo, hi = spearman(x, y, None, SURE, classes)
    within = [
        rankdata([x[classes == c], y[classes == c]], axis=1) for c in np.unique(classes)
    ]  # classes of one size: the mean of each one's own
    assert rho == pytest.approx(np.mean([spearmanr(a, b).statistic for a, b in within]))
    assert lo < 0 < hi
    turned = np.where(classes == "b", -1, 1) * x  # and what holds within them is seen
    assert spearman(x, -x - 100 * level, None, SURE, classes)[0] == pytest.approx(-1)
    assert spearman(turned, x, None, SURE, classes)[0] == pytest.approx(1 / 3)


def test_a_class_of_one_image_and_values_all_alike_are_no_error():
    classes = np.array(["a"] * 5 + ["b"])
    x = np.arange(6.0)
    assert spearman(x, x, None, SURE, classes)[0] == pytest.approx(1)
    assert np.isnan(spearman(x, np.zeros(6), None, SURE, classes)).all()
    assert np.isnan(spearman(classes == "b", x, None, SURE, classes)).all()


@pytest.mark.parametrize(
    ("rho", "change", "said"),
    [
        (0.5, 0.1, "Yes, clearly: images with a better mask gain more from masking."),
        (0.5, -0.1, "Yes, clearly: images with a better mask lose less by masking."),
        (-0.5, 0.1, "No, the reverse: images with a better mask gain less from masking."),
        (-0.5, -0.1, "No, the reverse: images with a better mask lose more by masking."),
    ],
)
def test_no_image_is_said_to_gain_where_masking_costs(rho, change, said):
    assert dice_effect.answer(rho, rho - 0.1, rho + 0.1, change) == said


def test_the_answer_ranks_within_classes_and_says_on_which_split(found):
    table, _, _, protocol = dice_effect.joined(found)
    assert protocol == "grouped"
    classes = table["y_true_whole"]
    offset = classes.map({"alpha": 0.0, "beta": 0.3, "gamma": 0.6})
    ranked = table["p_change"].groupby(classes).rank() / 100
    quality = found.mask_quality.copy()
    stored = quality["strategy"] == "salient"
    dice = offset - ranked  # the reverse within each class, whatever the classes do
    quality.loc[stored, "dice"] = quality.loc[stored, "image_id"].map(dice)
    said = dice_effect.effect(dataclasses.replace(found, mask_quality=quality))
    assert said.startswith("No, the reverse") and "within classes" in said
    assert "−1.00 [−1.00, −1.00]" in said
    assert said.endswith(f"{len(table)} test images, in grouped cross-validation.")
    assert "in grouped cross-validation." in results_text.content(found)


def test_without_grouped_predictions_the_published_split_answers(ready, tmp_path):
    shutil.copytree(ready.root, tmp_path / "project")
    paths = Paths(tmp_path / "project")
    table = pd.read_parquet(paths.predictions("one"))
    table[table["protocol"] != "grouped"].to_parquet(paths.predictions("one"))
    restamp(paths, "one")
    found = load_inputs("one", paths)
    assert dice_effect.joined(found)[3] == "official"
    assert dice_effect.effect(found).endswith("on the published split.")
