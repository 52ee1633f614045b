"""Every learner through `train`: one or two jobs, test images there or not, saved or not."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from pipeline.config import DEFAULT_LEARNERS, LEARNERS, load_params
from pipeline.learners.base import find_learner
from pipeline.learners.runs import load_fitted
from pipeline.manifest import read_manifest
from pipeline.store import open_features
from tests.learners.projects import FROM_FEATURES, read_tables, small_params
from tests.learners.test_learners import TRAIN, VAL, make, samples
from tests.project import small

from .test_train import CLASSES, MASKED, digests, fitted_arrays, make_project, train

PARAMS = small_params(*FROM_FEATURES, train__views=MASKED, train__seeds=[1])
MORE = FROM_FEATURES[len(DEFAULT_LEARNERS) :]  # tests/learners/test_train.py has the others


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    paths = make_project(tmp_path_factory.mktemp("every"))
    assert train(paths, PARAMS)["failed"] == 0
    return paths


@pytest.mark.promise("Training gives the same bits for any number of jobs and any row order.")
def test_two_jobs_give_the_same_bits_as_one(trained, tmp_path):
    paths = make_project(tmp_path)
    train(paths, PARAMS, learners=MORE, jobs=2)
    ours = digests(paths)
    assert len(ours) == 3 * len(MORE) and ours.items() <= digests(trained).items()


@pytest.mark.promise("A learner is fitted on the training images of its split and no others.")
def test_without_any_test_row_every_learner_is_the_same(trained, tmp_path):
    manifest = read_manifest(trained.manifest("toy"))
    rest = manifest[manifest["split"] != "test"].reset_index(drop=True)
    paths = make_project(tmp_path, manifest=rest)
    train(paths, PARAMS, learners=FROM_FEATURES[1:])
    for name in FROM_FEATURES[1:]:
        now, then = fitted_arrays(paths, name), fitted_arrays(trained, name)
        assert len(now) == len(then) > 0
        for one, two in zip(now, then, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.promise("A saved learner, loaded again, predicts the same bits.")
@pytest.mark.parametrize("name", MORE)
def test_a_saved_learner_gives_the_stored_predictions(trained, name):
    fitted = load_fitted(trained, "toy", name, view="masked", fraction=0.2)
    store, table = open_features(trained.features("toy")), read_tables(trained)[1]
    text = store.class_features(CLASSES)
    for seed, learner in zip(fitted.seeds, fitted.learners, strict=True):
        mine = table[(table["learner"] == name) & (table["seed"] == seed)]
        mine = mine[mine["fraction"] < 0.5]
        X = store.image_features("masked", list(mine["image_id"]))
        proba = learner.predict_proba(samples(X, text=text))
        np.testing.assert_array_equal(proba, mine[[f"p:{c}" for c in CLASSES]])


@pytest.mark.parametrize("name", MORE)
def test_a_class_without_training_images_is_no_failure(name):
    some = np.flatnonzero(TRAIN.y != 1)
    proba = make(name).fit(TRAIN.take(some, labelled=True), VAL).predict_proba(VAL)
    assert np.isfinite(proba).all() and (proba.argmax(axis=1) == VAL.y)[VAL.y != 1].mean() > 0.8


def test_the_lines_to_add_are_all_parameters_of_all_other_learners_with_their_defaults(repo):
    assert tuple(small()["learners"]) == DEFAULT_LEARNERS
    shipped = load_params(repo / "params.yaml").learners
    assert {*LEARNERS} - {*shipped} == {"out-of-core-probe"}
    for name in MORE:
        cls, params = find_learner(name, shipped.get(name, {}), repo)
        assert params.deciding() == cls.Parameters().deciding(), f"{name}: not the defaults"
    page = (repo / "docs/learners.md").read_text(encoding="utf-8")
    assert all(f"\n| `{name}` |" in page for name in LEARNERS)
    sections = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])["learners"]
    assert tuple(sections) == LEARNERS[len(DEFAULT_LEARNERS) :]
    for name, section in sections.items():
        cls, params = find_learner(name, section, repo)
        assert params == cls.Parameters() and set(section) == set(params.deciding())
