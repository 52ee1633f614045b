"""What every learner guarantees, on arrays: it learns what is there, and nothing that is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from pipeline.learners import DivergedError, Samples, get_learner
from pipeline.learners.joint import fit_joined, predict_joined
from tests.learners.projects import FROM_FEATURES

CLASSES = 3
DIM = 24
NAMES = ("zero-shot", "linear-probe", "medfocus", "medfocus-probe")
TRAINED = NAMES[1:]
SMALL = {
    "zero-shot": {},
    "linear-probe": {"c_steps": 4},
    "medfocus": {"epochs": 30, "attention_dim": 8, "learning_rate": 3e-3},
}
SMALL["medfocus-probe"] = SMALL["medfocus"] | SMALL["linear-probe"]
SMALL["tip-adapter-f"] = {"epochs": 5}
SMALL["clip-adapter"] = {"epochs": 10, "learning_rate": 1e-2, "ratio": [0.2, 0.4]}
SMALL["coop"] = {"epochs": 60, "learning_rate": 0.05, "class_specific": True}
SMALL["cocoop"] = {"epochs": 6, "learning_rate": 0.05}


def make(name: str, **changed):
    """Return a small unfitted learner; `seed` and parameters may be given."""
    cls, seed = get_learner(name), changed.pop("seed", 0)
    return cls(cls.Parameters.model_validate(SMALL.get(name, {}) | changed), seed=seed)


def samples(X, y=(), text=None) -> Samples:
    X = np.asarray(X, dtype=np.float32)
    text = np.zeros((int(max(y)) + 1, X.shape[1]), np.float32) if text is None else text
    return Samples("masked", {"masked": X}, np.asarray(y, dtype=np.int64), text)


def draw(n: int, seed: int, spread: float = 1.0):
    """Return X (n, d), y (n,), T (C, d): one centre for each class; T lies near the centres."""
    centres = np.random.default_rng(0).standard_normal((CLASSES, DIM))
    rng = np.random.default_rng(seed)
    y = np.arange(n) % CLASSES
    X = (centres[y] + spread * rng.standard_normal((n, DIM))).astype(np.float32)
    return X, y, centres.astype(np.float32)


TRAIN, VAL = samples(*draw(90, 1)), samples(*draw(30, 2))
NONE = samples(*draw(0, 2))


def predict(learner, X):
    return learner.predict_proba(samples(X, text=draw(0, 0)[2]))


@pytest.fixture(scope="module")
def fitted():
    return {name: make(name).fit(TRAIN, VAL) for name in FROM_FEATURES}


LEARNS = "A learner finds classes that are there; on noise it is at chance."


@pytest.mark.promise(LEARNS)
@pytest.mark.parametrize("name", FROM_FEATURES)
def test_a_learner_finds_classes_that_are_there_with_probabilities_that_sum_to_one(fitted, name):
    X, y, _ = draw(300, 3)
    proba = predict(fitted[name], X)
    assert proba.shape == (300, CLASSES) and proba.dtype == np.float32
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert (proba.argmax(axis=1) == y).mean() > 0.85


@pytest.mark.promise(LEARNS)
@pytest.mark.promise("Every learner is at chance on shuffled labels.")
@pytest.mark.parametrize("what", ["noise", "shuffled labels"])
@pytest.mark.parametrize("name", FROM_FEATURES)
def test_noise_in_place_of_features_and_shuffled_labels_give_chance(name, what):
    X, y, T = draw(960, 4)  # images and texts show a class
    rng = np.random.default_rng(7)
    if what == "noise":
        X = rng.standard_normal(X.shape, np.float32)
    else:
        y = rng.permutation(y)
    parts = (samples(X[rows], y[rows], T) for rows in (slice(240), slice(240, 360)))
    hits = (predict(make(name).fit(*parts), X[360:]).argmax(axis=1) == y[360:]).sum()
    low, high = stats.binom.interval(0.999, 600, 1 / CLASSES)
    assert low <= hits <= high


# The batches of clip-adapter and tip-adapter-f follow the order of the images: here it is one.
BATCHES = {"medfocus": 64, "medfocus-probe": 64, "clip-adapter": 200}


@pytest.mark.promise(
    "What images and classes are called, and their order, changes no prediction, except that "
    "batches of clip-adapter and tip-adapter-f follow the order of the images."
)
@pytest.mark.parametrize("what", ["classes", "rows"])
@pytest.mark.parametrize("n", [24, 200], ids=["few", "several batches"])
@pytest.mark.parametrize(
    ("name", "parameters"),
    [(name, {"batch_size": BATCHES[name]} if name in BATCHES else {}) for name in FROM_FEATURES]
    + [("linear-probe", {"c_min": c, "c_max": c, "c_steps": 1}) for c in (1e-4, 100.0)],
)
def test_the_order_of_classes_and_of_images_changes_no_prediction(name, parameters, n, what):
    classes = np.array([2, 0, 1]) if what == "classes" else np.arange(CLASSES)
    now, found = np.argsort(classes), []  # class k is class classes[k] of before
    parts = [draw(size, seed, spread=2) for size, seed in ((n, 1), (30, 2))]
    X = draw(200, 3, spread=2)[0]
    for names in (np.arange(CLASSES), classes):
        new, ours = np.argsort(names), []
        for k, (x, y, text) in enumerate(parts):
            moved = what == "rows" and found
            rows = np.random.default_rng(k).permutation(len(x)) if moved else np.arange(len(x))
            ours.append(samples(x[rows], new[y[rows]], text[names]))
        learner = make(name, **parameters).fit(*ours)
        found.append(learner.predict_proba(samples(X, text=ours[0].text)))
    sums = name == "lp-plus-plus" and what == "rows"  # float32, in the order of the images
    np.testing.assert_allclose(found[1][:, now], found[0], atol=5e-6 if sums else 1e-6, rtol=0)


@pytest.mark.promise("A fit that becomes infinite or NaN is reported as diverged.")
@pytest.mark.parametrize("name", FROM_FEATURES[1:])
def test_a_nan_feature_is_a_divergence_and_not_a_prediction(name):
    X, y, T = draw(60, 1)
    X[3, 4] = np.nan
    with pytest.raises(DivergedError, match="not finite"):
        make(name).fit(samples(X, y, T), NONE)


ONE = {
    "linear-probe": {"c_steps": 1},
    "out-of-core-probe": {"c_steps": 1},
    "medfocus": {"epochs": 1},
    "medfocus-probe": {"epochs": 1, "c_steps": 1},
    "nearest-prototype": {"scale": [1.0]},
    "k-nn": {"k": [3]},
    "tip-adapter": {"alpha": [1.0], "beta": [5.5]},
    "tip-adapter-f": {"alpha": [1.0], "beta": [5.5], "epochs": 1},
    "clip-adapter": {"ratio": [0.2], "epochs": 1},
    "lp-plus-plus": {"iterations": 10},
}


@pytest.mark.promise("Validation images choose hyperparameters and nothing else.")
@pytest.mark.parametrize("name", FROM_FEATURES[1:])
def test_where_there_is_nothing_to_choose_validation_images_change_no_parameter(name):
    first = make(name, **ONE.get(name, {})).fit(TRAIN, VAL)
    other = make(name, **ONE.get(name, {})).fit(TRAIN, samples(VAL.X[::-1].copy(), VAL.y, VAL.text))
    assert first.val_score != other.val_score
    for tensor, values in first.tensors.items():
        np.testing.assert_array_equal(other.tensors[tensor], values)


@pytest.mark.promise("No prediction depends on a true label or on other images.")
@pytest.mark.parametrize("name", FROM_FEATURES)
def test_labels_and_other_images_change_no_prediction(fitted, name):
    X, y, T = draw(30, 3, spread=2)
    without = predict(fitted[name], X)
    labelled = fitted[name].predict_proba(samples(X, (y + 1) % 3, T))
    np.testing.assert_array_equal(labelled, without)
    alone = [predict(fitted[name], X[[k]])[0] for k in range(5)]
    np.testing.assert_allclose(alone, without[:5], atol=1e-5)


def both_views(n: int, seed: int, lesion: bool) -> Samples:
    """Samples whose class shows in the masked view (the lesion) or in the whole one, but hardly in
    the other."""
    spreads = {"masked": 1.0 if lesion else 12.0, "whole": 12.0 if lesion else 1.0}
    X = {view: draw(n, seed + k, spread)[0] for k, (view, spread) in enumerate(spreads.items())}
    return Samples("", X, *draw(n, seed)[1:], ("a", "b", "c"))


@pytest.mark.promise(
    "Where the class is only in the lesion masked images win, alone and beside the whole image; "
    "where it is only in the background whole images win."
)
@pytest.mark.parametrize("where", ["lesion", "background"])
@pytest.mark.parametrize("name", FROM_FEATURES)
def test_the_view_that_holds_the_class_wins(name, where):
    lesion, found = where == "lesion", {}
    parts = [both_views(n, seed, lesion) for n, seed in ((60, 1), (30, 11), (300, 21))]
    for view in ("whole", "masked", *(["whole+masked"] if get_learner(name).joins else [])):
        train, val, test = (replace(part, view=view) for part in parts)
        proba = predict_joined(fit_joined(make(name), train, val), replace(test, y=test.y[:0]))
        found[view] = (proba.argmax(axis=1) == test.y).mean()
    better, worse = ("masked", "whole") if lesion else ("whole", "masked")
    assert found[better] > found[worse] + 0.2
    assert found.get("whole+masked", 1) > found[worse]
