"""Learners of other people: found by name or file; their changed source refits them alone."""

from __future__ import annotations

import importlib
import sys

import pytest

from pipeline.errors import ConfigError
from pipeline.learners import get_learner, learner_names, register
from pipeline.learners.registry import code_digest
from pipeline.learners.zero_shot import ZeroShot
from tests.learners.projects import read_tables, small_params
from tests.learners.test_train import MASKED, make_project, train

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
def test_a_file_brings_a_learner_also_to_worker_processes(tmp_path):
    paths = make_project(tmp_path)
    (tmp_path / "mine.py").write_text(
        BASE.replace("class Base", '@register("of-a-file")\nclass Base').replace(
            "\nSHARPER", "from pipeline.learners import register\n\nSHARPER", 1
        )
    )
    params = small_params(
        "linear-probe", train__views=MASKED, **{"learners.of-a-file": {"file": "mine.py"}}
    )
    assert train(paths, params, jobs=2) == {"done": 8, "skipped": 0, "failed": 0, "total": 8}
    assert train(paths, params) == {"done": 0, "skipped": 8, "failed": 0, "total": 8}
    assert set(read_tables(paths)[0]["learner"]) == {"linear-probe", "of-a-file"}


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
