"""A changed source of a head of others refits it, whatever in its file changed, and no other."""

from __future__ import annotations

import importlib
import sys

import pytest

from pipeline.train import train_dataset
from tests.heads.projects import small_params
from tests.heads.test_train import make_project

BASE = """
from pipeline.heads.zero_shot import ZeroShot

SHARPER = 1.0

class Base(ZeroShot):
    needs_labels, parameters = True, ()

    def fit(self, X, y, *, T, X_val, y_val):
        return super().fit(T=SHARPER * T)
"""
HEAD = """
from base_of_others import Base
from pipeline.heads import register

SCALE = 1.0

def helper(X):
    return SCALE * X

@register("of-others")
class Theirs(Base):
    def predict_proba(self, X):
        return super().predict_proba(helper(X))
"""
FILES = {"base_of_others": BASE, "head_of_others_too": HEAD}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Write the files, load them as a new process would, and train; return the record."""
    paths = make_project(tmp_path / "project")
    monkeypatch.syspath_prepend(str(tmp_path))
    params = small_params(
        train__heads=["linear-probe", "of-others"],
        train__views={"official": ["masked"]},
        splits__fractions=[1.0],
    )

    def run(**files):
        for name, text in (FILES | files).items():
            (tmp_path / f"{name}.py").write_text(text)
            sys.modules.pop(name, None)
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        importlib.invalidate_caches()
        importlib.import_module("head_of_others_too")
        sys.dont_write_bytecode = before
        return train_dataset("toy", params, paths)

    yield run
    for name in FILES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("head_of_others_too", "SCALE = 1.0", "SCALE = 9.0"),
        ("head_of_others_too", "return SCALE * X", "return SCALE + X"),
        ("head_of_others_too", "super().predict_proba(helper(X))", "super().predict_proba(X)"),
        ("base_of_others", "SHARPER = 1.0", "SHARPER = 9.0"),
        ("base_of_others", "fit(T=SHARPER * T)", "fit(T=SHARPER + T)"),
    ],
    ids=["constant", "helper", "class", "constant of a base", "base"],
)
def test_a_change_in_the_file_of_a_head_or_of_its_base_refits_it_and_no_other(
    train, file, old, new
):
    assert train().done == 4
    assert train().skipped == 4
    assert old in FILES[file]
    record = train(**{file: FILES[file].replace(old, new)})
    assert (record.done, record.skipped) == (2, 2)


def test_a_head_without_a_file_trains(tmp_path):
    text = HEAD.replace("base_of_others import", "tests.heads.odd import Odd as")
    exec(text.replace("of-others", "of-nowhere"), {"__name__": "nowhere"})
    paths = make_project(tmp_path)
    params = small_params(train__heads=["of-nowhere"], train__views={"official": ["masked"]})
    assert not train_dataset("toy", params, paths).skipped
    assert not train_dataset("toy", params, paths).done
