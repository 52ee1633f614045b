"""Joint views: stored features side by side, alike in weight, in fits and in saved learners."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.preprocessing import normalize

from pipeline.errors import ConfigError, StoreError
from pipeline.learners import Samples
from pipeline.learners.joint import fit_joined, predict_joined
from pipeline.learners.train import train_dataset
from pipeline.learners.zero_shot import ZeroShot
from pipeline.manifest import read_manifest
from pipeline.store import open_features
from tests.learners.projects import small_params, write_features
from tests.learners.test_learners import TRAINED, draw, make

from .test_train import CLASSES, MISTYPED, ONCE, digests, make_project, train

VIEWS = ("whole", "masked")
JOINT = {"official": [*VIEWS, "whole+masked"]}
ANSWER = (
    "A joint view holds what any of its views shows: it beats the view that shows nothing, and its "
    "weights are those of the training part."
)


def samples(n: int, seed: int, longer: float = 1.0) -> Samples:
    """The views masked and inside show the class, the second in features of another length than
    those of the texts; the whole view is noise, and `longer` times as long."""
    X, y, T = draw(n, seed)
    noise = np.random.default_rng(seed + 50).standard_normal(X.shape).astype(np.float32)
    shown = {"masked": X, "inside": np.tile(X, 2)[:, :-3]}
    return Samples("whole+masked", {"whole": np.float32(longer) * noise, **shown}, y, T)


TRAIN, VAL, TEST = samples(90, 1), samples(30, 2), samples(300, 3)
NONE = samples(0, 2)
INSIDE = [replace(part, view="whole+inside") for part in (TRAIN, VAL, TEST)]


@pytest.mark.promise(ANSWER)
@pytest.mark.parametrize("name", TRAINED)
def test_a_joint_view_is_its_views_at_equal_mean_norm_of_the_training_part(name):
    """By hand: scaled, side by side, prompts repeated; then the learner as for any other view."""
    ours = fit_joined(make(name), TRAIN, VAL)
    lengths = {v: np.linalg.norm(TRAIN.features[v].astype(float), axis=1) for v in VIEWS}
    scale = {v: 1 / length.mean() for v, length in lengths.items()}

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
    cosines = [normalize(TEST.features[v]) @ normalize(TEST.text).T for v in VIEWS]
    expected = softmax(100 * np.mean(cosines, axis=0), axis=1)
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
    views = {v: store.image_features(v, ids) for v in VIEWS}
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


@pytest.mark.parametrize("name", ("linear-probe", "nearest-prototype", "k-nn"))
def test_a_learner_without_texts_joins_features_of_several_lengths(name):
    learner = fit_joined(make(name), *INSIDE[:2])
    assert (predict_joined(learner, INSIDE[2]).argmax(axis=1) == TEST.y).mean() > 0.7


@pytest.mark.parametrize("lambda_", (0.0, 0.5))
def test_token_attention_takes_a_view_of_another_length_and_finds_its_classes(lambda_):
    learner = make("medfocus", fusion="token-attention", epochs=40, **{"lambda": lambda_})
    learner.check_lengths(INSIDE[0])
    with pytest.raises(ConfigError, match=r"medfocus compares"):  # the first is compared with T
        learner.check_lengths(replace(TRAIN, view="inside+whole"))
    learner = fit_joined(learner, *INSIDE[:2])
    assert (predict_joined(learner, INSIDE[2]).argmax(axis=1) == TEST.y).mean() > 0.6


@pytest.mark.promise(MISTYPED)
@pytest.mark.parametrize("name", ("zero-shot", "tip-adapter"))
def test_a_learner_that_compares_with_texts_refuses_other_lengths_by_name(name):
    with pytest.raises(ConfigError, match=rf"{name} compares .*inside.*learners\.{name}\.views"):
        make(name).check_lengths(INSIDE[0])


@pytest.mark.promise(MISTYPED)
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
