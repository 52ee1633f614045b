"""Views whose features are of another length than those of texts, in joint views and in fits."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.learners import Samples
from pipeline.learners.joint import fit_joined, predict_joined
from tests.learners.test_learners import draw, make


def samples(n: int, seed: int) -> Samples:
    """The pooled view shows the class; the whole view is noise of another length."""
    X, y, T = draw(n, seed)
    noise = np.random.default_rng(seed + 50).standard_normal((n, T.shape[1])).astype(np.float32)
    return Samples("whole+inside", {"whole": noise, "inside": np.tile(X, 2)[:, :-3]}, y, T)


@pytest.mark.parametrize("name", ("linear-probe", "nearest-prototype", "k-nn"))
def test_a_learner_without_texts_joins_features_of_several_lengths(name):
    learner = fit_joined(make(name), samples(90, 1), samples(30, 2))
    test = samples(300, 3)
    assert (predict_joined(learner, test).argmax(axis=1) == test.y).mean() > 0.7


@pytest.mark.promise("A mistyped learner or parameter is refused before any work.")
@pytest.mark.parametrize("name", ("zero-shot", "tip-adapter"))
def test_a_learner_that_compares_with_texts_refuses_other_lengths_by_name(name):
    with pytest.raises(ConfigError, match=rf"{name} compares .*inside.*learners\.{name}\.views"):
        make(name).check_lengths(samples(4, 1))
