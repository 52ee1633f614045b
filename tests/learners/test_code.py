"""Learners of other people: found by name or file; their changed source refits them alone."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.learners import get_learner, learner_names, register
from pipeline.learners.fits import load_fitted
from pipeline.learners.registry import code_digest
from pipeline.learners.zero_shot import ZeroShot
from tests.learners.projects import read_tables, small_params
from tests.learners.test_learners import samples
from tests.learners.test_train import MASKED, digests, make_project, train

BASE = """
from pipeline.learners.zero_shot import ZeroShot

SHARPER = 1.0

class Base(ZeroShot):
    needs_labels = True

    def predict_proba(self, samples):
        return SHARPER * super().predict_proba(samples)
"""
LEARNER = """
from base_of_others import Base
from pipeline.learners import register

SCALE = 1.0

def helper(x):
    return SCALE * x

@register("of-others")
class Theirs(Base):
    def predict_proba(self, samples):
        return super().predict_proba(samples) * helper(1.0)
"""
FILES = {"base_of_others": BASE, "learner_of_others": LEARNER}


def test_the_built_in_learners_are_known_and_an_unknown_name_lists_them():
    assert {"zero-shot", "linear-probe", "medfocus", "medfocus-probe"} <= set(learner_names())
    with pytest.raises(ConfigError, match="linear-probe"):
        get_learner("lineer-probe")


def test_a_decorator_registers_a_learner_and_a_later_one_replaces_it():
    for _ in range(2):

        @register("mine-for-a-test")
        class Mine(ZeroShot):
            pass

        assert get_learner("mine-for-a-test") is Mine and Mine.name == "mine-for-a-test"


OWN = "A learner in a file or package of its own needs no change in the library."


@pytest.mark.promise(OWN)
def test_a_package_brings_a_learner_by_entry_point(tmp_path, monkeypatch):
    (tmp_path / "packaged_learner.py").write_text(
        "from pipeline.learners.zero_shot import ZeroShot\nclass Theirs(ZeroShot): pass\n"
    )
    info = tmp_path / "packaged_learner-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: packaged-learner\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[pipeline.learners]\ntheirs = packaged_learner:Theirs\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "theirs" in learner_names()
    assert get_learner("theirs").__module__ == "packaged_learner"


@pytest.mark.promise(OWN)
def test_the_example_is_trained_also_by_worker_processes_and_touches_no_other(tmp_path, repo):
    script = Path(shutil.copy(repo / "examples/prototype_learner.py", tmp_path))
    assert len(script.read_text().splitlines()) < 40
    paths = make_project(tmp_path)
    train(paths, small_params("linear-probe", train__views=MASKED))
    before = digests(paths)
    params = small_params(
        "linear-probe", train__views=MASKED, **{"learners.prototype": {"file": script.name}}
    )
    assert train(paths, params, jobs=2) == {"done": 4, "skipped": 4, "failed": 0, "total": 8}
    assert train(paths, params)["skipped"] == 8
    assert before.items() <= digests(paths).items()
    table = read_tables(paths)[1].query("learner == 'prototype'")
    assert (table["y_true"].astype(str) == table["y_pred"].astype(str)).mean() > 0.8
    fitted = load_fitted(paths, "toy", "prototype", view="masked")
    assert fitted.seeds == [0, 1] and fitted.learners[0].means_.shape == (3, 24)


@pytest.mark.parametrize("absent", range(3))
def test_a_class_without_an_image_has_probability_0_in_the_example(repo, absent):
    prototype = get_learner("prototype", repo / "examples/prototype_learner.py")
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 8)).astype(np.float32), np.arange(30) % 3
    there = y != absent
    train_part = samples(X[there], y[there], np.ones((3, 8), np.float32))
    proba = prototype().fit(train_part, train_part).predict_proba(samples(X, y))
    assert np.isfinite(proba).all() and (proba[:, absent] == 0).all()
    others = [c for c in range(3) if c != absent]
    two = samples(X[there], np.searchsorted(others, y[there]), np.ones((2, 8), np.float32))
    alone = prototype().fit(two, two).predict_proba(samples(X, y))
    np.testing.assert_allclose(proba[:, others], alone, atol=1e-6)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Write the files, load them as a new process would, and train; return the counts."""
    paths = make_project(tmp_path / "project")
    monkeypatch.syspath_prepend(str(tmp_path))
    params = small_params("linear-probe", "of-others", train__views=MASKED, splits__fractions=[1.0])

    def run(**files):
        for name, text in (FILES | files).items():
            (tmp_path / f"{name}.py").write_text(text)
            sys.modules.pop(name, None)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        importlib.invalidate_caches()
        importlib.import_module("learner_of_others")
        return train(paths, params)

    yield run
    for name in FILES:
        sys.modules.pop(name, None)


@pytest.mark.promise(
    "A fit is computed once: again only if its own code, parameters or data have changed."
)
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("learner_of_others", "SCALE = 1.0", "SCALE = 0.5"),
        ("learner_of_others", "return SCALE * x", "return SCALE + x"),
        ("learner_of_others", "helper(1.0)", "helper(2.0)"),
        ("base_of_others", "SHARPER = 1.0", "SHARPER = 0.5"),
        ("base_of_others", "SHARPER * super", "SHARPER + super"),
    ],
    ids=["constant", "helper", "class", "constant of a base", "base"],
)
def test_changed_code_of_a_learner_or_of_its_base_refits_it_and_no_other(run, file, old, new):
    assert run()["done"] == 4
    assert run()["skipped"] == 4
    assert old in FILES[file]
    counts = run(**{file: FILES[file].replace(old, new)})
    assert (counts["done"], counts["skipped"]) == (2, 2)


@pytest.mark.promise(
    "A fit is computed once: again only if its own code, parameters or data have changed."
)
@pytest.mark.parametrize(
    ("module", "changed"),
    [
        ("base", {"zero-shot", "linear-probe", "medfocus", "medfocus-probe"}),
        ("fitting", {"zero-shot", "linear-probe", "medfocus", "medfocus-probe"}),
        ("linear_probe", {"linear-probe", "medfocus-probe"}),
        ("medfocus", {"medfocus", "medfocus-probe"}),
        ("zero_shot", {"zero-shot"}),
        ("registry", set()),
        ("train", set()),
    ],
)
def test_the_code_of_a_built_in_learner_is_that_of_its_own_modules(
    tmp_path, monkeypatch, module, changed
):
    names = ("zero-shot", "linear-probe", "medfocus", "medfocus-probe")
    before = {name: code_digest(get_learner(name)) for name in names}
    source = importlib.import_module(f"pipeline.learners.{module}")
    copy = tmp_path / "copy.py"
    with open(source.__file__, encoding="utf-8") as file:
        copy.write_text(file.read() + "# changed\n")
    monkeypatch.setattr(source, "__file__", str(copy))
    assert {name for name in names if code_digest(get_learner(name)) != before[name]} == changed


def test_a_learner_without_a_file_trains(tmp_path):
    text = LEARNER.replace("base_of_others import", "tests.learners.faulty import Faulty as")
    exec(text.replace("of-others", "of-nowhere"), {"__name__": "nowhere"})
    paths = make_project(tmp_path)
    params = small_params("of-nowhere", train__views=MASKED)
    assert train(paths, params)["skipped"] == 0
    assert train(paths, params)["done"] == 0
