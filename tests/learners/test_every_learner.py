"""Sanity of every learner of config.LEARNERS on features: which view holds the class is known, and
no prediction depends on a label or on the other images. See also test_learners.py (shuffled labels,
noise, order of classes) and test_every.py (jobs, test images)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.config import LEARNERS
from pipeline.learners import Samples, get_learner
from pipeline.learners.joint import fit_joined, predict_joined
from tests.learners.test_learners import TRAIN, VAL, draw, make, samples

# Those that need prompts or pixels have the same tests on a small model in their own files.
FEATURES = [name for name in LEARNERS if not get_learner(name).needs]
SHOWN, HIDDEN = {"spread": 1.0}, {"spread": 12.0}
"""Of one view the class is plain, of the other it is hardly there."""


@pytest.mark.promise("No prediction depends on a true label or on other images.")
@pytest.mark.parametrize("name", FEATURES)
def test_labels_and_other_images_change_no_prediction(name):
    learner = make(name).fit(TRAIN, VAL)
    X, y, T = draw(30, 3, spread=2)
    without = learner.predict_proba(samples(X, text=T))
    np.testing.assert_array_equal(learner.predict_proba(samples(X, (y + 1) % 3, T)), without)
    alone = [learner.predict_proba(samples(X[[k]], y[[k]], T))[0] for k in range(5)]
    np.testing.assert_allclose(alone, without[:5], atol=1e-5)


def both_views(n: int, seed: int, lesion: bool) -> Samples:
    """Samples whose class shows in the masked view (the lesion) or in the whole one, but hardly in
    the other."""
    kinds = {"masked": SHOWN if lesion else HIDDEN, "whole": HIDDEN if lesion else SHOWN}
    X = {view: draw(n, seed + k, **kind)[0] for k, (view, kind) in enumerate(kinds.items())}
    _, y, T = draw(n, seed)
    return Samples("", X, y, T, ("a", "b", "c"))


@pytest.mark.promise(
    "Where the class is only in the lesion masked images win, alone and beside the whole image; "
    "where it is only in the background whole images win."
)
@pytest.mark.parametrize("where", ["lesion", "background"])
@pytest.mark.parametrize("name", FEATURES)
def test_the_view_that_holds_the_class_wins(name, where):
    lesion, found = where == "lesion", {}
    parts = [both_views(n, seed, lesion) for n, seed in ((60, 1), (30, 11), (300, 21))]
    joins = get_learner(name).joins
    for view in ("whole", "masked", *(["whole+masked"] if joins else [])):
        train, val, test = (replace(part, view=view) for part in parts)
        learner = fit_joined(make(name), train, val)
        proba = predict_joined(learner, replace(test, y=test.y[:0]))
        found[view] = (proba.argmax(axis=1) == test.y).mean()
    better, worse = ("masked", "whole") if lesion else ("whole", "masked")
    assert found[better] > found[worse] + 0.2
    assert found.get("whole+masked", 1) > found[worse]
