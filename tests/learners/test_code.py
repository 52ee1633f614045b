"""Learners of other people: found by name or file; their changed source refits them alone."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.learners import get_learner, learner_names
from pipeline.learners.registry import code_digest
from pipeline.learners.runs import load_fitted
from tests.learners.projects import read_tables, small_params
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


ONCE = "A fit is computed once: again only if its own code, parameters or data have changed."
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


@pytest.mark.promise(ONCE)
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("learner_of_others", "SCALE = 1.0", "SCALE = 0.5"),
        ("base_of_others", "SHARPER * super", "SHARPER + super"),
    ],
    ids=["constant", "base"],
)
def test_changed_code_of_a_learner_or_of_its_base_refits_it_and_no_other(run, file, old, new):
    assert run()["done"] == 4
    assert run()["skipped"] == 4
    assert old in FILES[file]
    counts = run(**{file: FILES[file].replace(old, new)})
    assert (counts["done"], counts["skipped"]) == (2, 2)


@pytest.mark.promise(ONCE)
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


def test_a_learner_in_no_file_is_refused(tmp_path):
    text = LEARNER.replace("base_of_others import", "tests.learners.faulty import Faulty as")
    exec(text.replace("of-others", "of-nowhere"), {"__name__": "nowhere"})
    with pytest.raises(ConfigError, match=r"put it into a file.*learners.of-nowhere.file"):
        train(make_project(tmp_path), small_params("of-nowhere", train__views=MASKED))
