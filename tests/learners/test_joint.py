"""Joint views: stored features side by side, alike in weight, in fits and in saved learners."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import ConfigError, StoreError
from pipeline.learners import Samples
from pipeline.learners.joint import fit_joined, predict_joined
from pipeline.learners.runs import load_fitted
from pipeline.learners.train import train_dataset
from pipeline.learners.zero_shot import ZeroShot
from pipeline.manifest import read_manifest
from pipeline.store import open_features
from tests.learners.projects import read_tables, small_params, write_features
from tests.learners.test_learners import NAMES, TRAINED, draw, make

from .test_train import CLASSES, ONCE, digests, make_project, train

JOINT = {"official": ["whole", "masked", "whole+masked"]}
ANSWER = (
    "A joint view holds what any of its views shows: it beats the view that shows nothing, and its "
    "weights are those of the training part."
)


def samples(n: int, seed: int, longer: float = 1.0, view: str = "whole+masked") -> Samples:
    """The masked view shows the class; the whole view is noise, and `longer` times as long."""
    X, y, T = draw(n, seed)
    noise = np.random.default_rng(seed + 50).standard_normal(X.shape).astype(np.float32)
    return Samples(view, {"whole": np.float32(longer) * noise, "masked": X}, y, T)


TRAIN, VAL, TEST = samples(90, 1), samples(30, 2), samples(300, 3)
NONE = samples(0, 2)


def mean_length(X: np.ndarray) -> float:
    return float(np.mean([np.sqrt(np.sum(row.astype(np.float64) ** 2)) for row in X]))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.promise(ANSWER)
@pytest.mark.parametrize("name", TRAINED)
def test_a_joint_view_is_its_views_at_equal_mean_norm_of_the_training_part(name):
    """By hand: scaled, side by side, prompts repeated; then the learner as for any other view."""
    ours = fit_joined(make(name), TRAIN, VAL)
    scale = {v: 1 / mean_length(TRAIN.features[v]) for v in ("whole", "masked")}

    def by_hand(part: Samples) -> Samples:
        X = np.concatenate([part.features[v] * scale[v] for v in scale], axis=1)
        text = np.concatenate([part.text, part.text], axis=1)
        return Samples("both", {"both": X.astype(np.float32)}, part.y, text)

    other = make(name).fit(by_hand(TRAIN), by_hand(VAL))
    proba = predict_joined(ours, TEST)
    np.testing.assert_allclose(proba, other.predict_proba(by_hand(TEST)), atol=1e-3)
    assert (proba.argmax(axis=1) == TEST.y).mean() > 0.85
    noise = make(name).fit(*(replace(part, view="whole") for part in (TRAIN, VAL)))
    assert (noise.predict_proba(replace(TEST, view="whole")).argmax(1) == TEST.y).mean() < 0.5
    longer = fit_joined(make(name), samples(90, 1, 64), samples(30, 2, 64))
    np.testing.assert_array_equal(predict_joined(longer, samples(300, 3, 64)), proba)


def test_zero_shot_on_a_joint_view_takes_the_mean_of_the_cosines():
    fitted = fit_joined(ZeroShot(), NONE, NONE)
    cosines = [unit(TEST.features[v]) @ unit(TEST.text).T for v in ("whole", "masked")]
    z = 100 * (cosines[0] + cosines[1]) / 2
    z = np.exp(z - z.max(axis=1, keepdims=True))
    expected = z / z.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(predict_joined(fitted, TEST), expected, atol=1e-4)


@pytest.mark.promise("Validation images choose hyperparameters and nothing else.")
@pytest.mark.parametrize("name", TRAINED)
def test_validation_chooses_among_weights_and_without_it_the_first_is_taken(name):
    given = {"block_weights": [1.0, 4.0, 0.01]}
    chosen = fit_joined(make(name, **given), TRAIN, VAL)
    weight = chosen.chosen["block_weight"]
    alone = fit_joined(make(name, block_weights=[weight]), TRAIN, VAL)
    np.testing.assert_array_equal(predict_joined(chosen, TEST), predict_joined(alone, TEST))
    # Where the class is only in the masked view, its weight does not fall.
    assert weight in (1.0, 4.0)
    first = fit_joined(make(name, **given), TRAIN, NONE)
    fixed = fit_joined(make(name), TRAIN, NONE)
    np.testing.assert_array_equal(predict_joined(first, TEST), predict_joined(fixed, TEST))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    paths = make_project(tmp_path_factory.mktemp("joint"))
    train(paths, small_params(train__views=JOINT))
    return paths


@pytest.mark.promise(ANSWER)
def test_runs_on_a_joint_view_are_rows_like_others_and_keep_what_either_view_shows(trained):
    runs, table = read_tables(trained)
    assert set(runs["status"]) == {"ok"}
    right = (table["y_true"].astype(str) == table["y_pred"].astype(str)).groupby(
        [table["learner"], table["view"], table["fraction"]], observed=True
    )
    full = right.mean().xs(1.0, level="fraction")
    for name in TRAINED:
        assert full[name, "whole+masked"] > full[name, "whole"] + 0.3


@pytest.mark.promise("A saved learner, loaded again, predicts the same bits.")
@pytest.mark.parametrize("name", NAMES)
def test_a_saved_learner_of_a_joint_view_has_its_scales_and_gives_the_stored_predictions(
    trained, name
):
    fitted = load_fitted(trained, "toy", name, view="whole+masked")
    store = open_features(trained.features("toy"))
    text = store.class_features(fitted.classes)
    table = read_tables(trained)[1].query("view == 'whole+masked' and learner == @name")
    table = table[table["fraction"] == table["fraction"].max()]
    for seed, learner in zip(fitted.seeds, fitted.learners, strict=True):
        mine = table[table["seed"] == seed]
        ids = list(mine["image_id"])
        X = {view: store.image_features(view, ids) for view in learner.views("whole+masked")}
        given = Samples("whole+masked", X, np.zeros(0, np.int64), text)
        proba = predict_joined(learner, given)
        np.testing.assert_array_equal(proba, mine[[f"p:{c}" for c in fitted.classes]])


@pytest.mark.promise(ONCE)
def test_other_features_of_any_joined_view_or_other_weights_refit_what_reads_them(tmp_path):
    params = small_params("linear-probe", train__views=JOINT)
    paths = make_project(tmp_path)
    assert train(paths, params)["done"] == 3 * 4
    before = digests(paths)["linear-probe/fitted.safetensors"]
    more = {"learners.linear-probe": {"c_steps": 4, "block_weights": [1.0, 2.0]}}
    counts = train(paths, small_params("linear-probe", train__views=JOINT, **more))
    assert (counts["done"], counts["skipped"]) == (4, 8)
    store, manifest = open_features(paths.features("toy")), read_manifest(paths.manifest("toy"))
    ids = list(manifest["image_id"])
    views = {v: store.image_features(v, ids) for v in ("whole", "masked")}
    text = store.class_features(CLASSES)
    write_features(paths, "toy", manifest, views | {"whole": 2 * views["whole"]}, text, CLASSES)
    counts = train(paths, params)
    assert (counts["done"], counts["skipped"]) == (8, 4)  # whole and whole+masked
    assert digests(paths)["linear-probe/fitted.safetensors"] != before


def test_the_probe_of_a_joint_view_is_the_same_with_and_without_a_fit_to_start_from(tmp_path):
    own = {"epochs": 5, "attention_dim": 8, "block_weights": [1.0, 2.0]}
    more = {f"learners.{name}": own for name in ("medfocus", "medfocus-probe")}
    views, found = {"official": ["whole+masked"]}, []
    params = small_params("medfocus", "medfocus-probe", train__views=views, **more)
    for names in (["medfocus", "medfocus-probe"], ["medfocus-probe"]):
        paths = make_project(tmp_path / str(len(names)))
        for name in names:
            train(paths, params, learners=[name])
        found.append(digests(paths)["medfocus-probe/fitted.safetensors"])
    assert found[0] == found[1]


@pytest.mark.promise("A mistyped learner or parameter is refused before any work.")
def test_a_learner_that_cannot_join_and_a_view_that_is_not_stored_are_named(tmp_path, monkeypatch):
    paths = make_project(tmp_path, n=12)
    views = {"official": ["whole+crop"]}
    with pytest.raises(StoreError, match=r"no view 'crop'.*encode"):
        train_dataset("toy", small_params("zero-shot", train__views=views), paths)
    monkeypatch.setattr(ZeroShot, "joins", False)
    with pytest.raises(ConfigError, match=r"cannot join.*whole\+crop.*learners.zero-shot.views"):
        train_dataset("toy", small_params("zero-shot", train__views=views), paths)
    for view in ("whole+whole", "whole+maskd", "whole+"):
        with pytest.raises(ConfigError, match=r"train\.views"):
            small_params(train__views={"official": [view]})
