"""Learners of other people: found by name or file; their changed source refits them alone."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.learners import get_learner
from pipeline.learners.base import code_digest
from pipeline.learners.runs import load_fitted
from tests.learners.projects import read_tables, small_params
from tests.learners.test_learners import NAMES, TRAINED

from .test_train import MASKED, ONCE, digests, make_project, train

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
    assert get_learner("theirs").__module__ == "packaged_learner"


@pytest.mark.promise(OWN)
@pytest.mark.promise(ONCE)
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
    script.write_text(script.read_text().replace("-np.inf", "-9.0"))
    assert train(paths, params) == {"done": 4, "skipped": 4, "failed": 0, "total": 8}


@pytest.mark.promise(ONCE)
@pytest.mark.parametrize("module", ("base", "runs", "linear_probe", "medfocus", "train"))
def test_the_code_of_a_learner_is_that_of_its_bases_and_of_the_learners_it_uses(
    tmp_path, monkeypatch, module
):
    before = {name: code_digest(get_learner(name)) for name in NAMES}
    source = importlib.import_module(f"pipeline.learners.{module}")
    copy = tmp_path / "copy.py"
    copy.write_text(Path(source.__file__).read_text(encoding="utf-8") + "# changed\n")
    monkeypatch.setattr(source, "__file__", str(copy))
    after = {name: code_digest(get_learner(name)) for name in NAMES}
    changed = {"linear_probe": TRAINED, "medfocus": TRAINED[1:], "train": ()}.get(module, NAMES)
    assert tuple(name for name in NAMES if after[name] != before[name]) == changed


def test_a_learner_in_no_file_is_refused(tmp_path):
    text = "from pipeline.learners import Learner, register\n@register('mine')\nclass M(Learner): 0"
    exec(text, {"__name__": "nowhere"})
    with pytest.raises(ConfigError, match=r"put it into a file.*learners\.mine\.file"):
        train(make_project(tmp_path), small_params("mine", train__views=MASKED))
