"""Every learner through `train`: one or two jobs, test images there or not, saved or not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.config import DEFAULT_LEARNERS, LEARNERS, load_params
from pipeline.errors import PipelineError
from pipeline.evaluate import evaluate_dataset
from pipeline.learners.base import find_learner, get_learner
from pipeline.learners.train import train_dataset
from pipeline.manifest import read_manifest
from tests.learners.projects import FROM_FEATURES, read_tables, small_params
from tests.learners.test_learners import TRAIN, VAL, make
from tests.project import small

from .test_train import MASKED, PROBE, check_saved, digests, fitted_arrays, make_project, train

VIEWS = ("masked", "whole+masked")
PARAMS = small_params(
    *FROM_FEATURES,
    train__views={"official": VIEWS},
    train__seeds=[1],
    **{"learners.out-of-core-probe.views": MASKED},  # it does not join
)
MORE = FROM_FEATURES[len(DEFAULT_LEARNERS) :]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    paths = make_project(tmp_path_factory.mktemp("every"))
    train(paths, PARAMS)
    return paths


@pytest.mark.promise("Training gives the same bits for any number of jobs and any row order.")
def test_two_jobs_another_row_order_and_order_of_learners_give_the_same_bits(trained, tmp_path):
    manifest = read_manifest(trained.manifest("toy"))
    shuffled = manifest.sample(frac=1, random_state=0).reset_index(drop=True)
    paths = make_project(tmp_path, manifest=shuffled)
    train(paths, PARAMS, learners=FROM_FEATURES[::-1], jobs=2)  # the probe fits its own F
    same, other = digests(paths), digests(trained)
    # The feature stores have their rows in another order; runs and fits are the same.
    assert {k for k in same if same[k] != other[k]} <= {
        f"{n}/{t}.parquet" for n in FROM_FEATURES for t in ("runs", "predictions")
    }
    assert set(read_tables(paths)[0]["status"]) == {"ok"}
    for one, two in zip(read_tables(paths), read_tables(trained), strict=True):
        pd.testing.assert_frame_equal(one, two)


@pytest.mark.promise("A learner is fitted on the training images of its split and no others.")
def test_without_any_test_row_the_same_fits_are_saved_and_evaluate_says_what_is_missing(
    trained, tmp_path
):
    manifest = read_manifest(trained.manifest("toy"))
    rest = manifest[manifest["split"] != "test"].reset_index(drop=True)
    paths, fitted = make_project(tmp_path, manifest=rest), FROM_FEATURES[1:]
    record = train_dataset("toy", PARAMS, paths, fitted)[0]
    assert any("no image says test" in note for note in record.parameters["notes"])
    for name in fitted:
        now, then = fitted_arrays(paths, name), fitted_arrays(trained, name)
        assert len(now) == len(then) > 0
        for one, two in zip(now, then, strict=True):
            np.testing.assert_array_equal(one, two)
    assert not train(paths, PARAMS, learners=fitted)["done"]
    with pytest.raises(PipelineError, match="no test image"):
        evaluate_dataset("toy", PROBE, paths)


@pytest.mark.promise("A saved learner, loaded again, predicts the same bits.")
@pytest.mark.parametrize("name", FROM_FEATURES)
def test_a_saved_learner_gives_the_stored_predictions(trained, name):
    for view in VIEWS if get_learner(name).joins else VIEWS[:1]:
        check_saved(trained, name, view)


@pytest.mark.parametrize("name", FROM_FEATURES[1:])
def test_a_class_without_training_images_is_no_failure(name):
    some = np.flatnonzero(TRAIN.y != 1)
    proba = make(name).fit(TRAIN.take(some, labelled=True), VAL).predict_proba(VAL)
    assert np.isfinite(proba).all() and (proba.argmax(axis=1) == VAL.y)[VAL.y != 1].mean() > 0.8
    assert name != "linear-probe" or not proba[:, 1].any()


def test_the_lines_to_add_are_all_parameters_of_all_other_learners_with_their_defaults(repo):
    assert tuple(small()["learners"]) == DEFAULT_LEARNERS
    shipped = load_params(repo / "params.yaml").learners
    assert {*MORE} - {*shipped} == {"out-of-core-probe"}
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
