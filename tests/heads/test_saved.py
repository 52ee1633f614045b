"""Heads on disk: tensors and JSON that belong together."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.heads import load_head
from pipeline.heads.linear_probe import LinearProbe
from pipeline.heads.saved import SavedHead, load_heads, save_heads
from tests.heads.test_heads import draw

PLACE = {"protocol": "official", "view": "masked", "fraction": 0.05, "seed": 3}


@pytest.fixture
def saved(tmp_path):
    X, y, T = draw(60, 1)
    head = LinearProbe(c_steps=2).fit(X, y, T=T, X_val=X[:6], y_val=y[:6])
    facts = {"n_train": 60, "n_val": 6}
    one = SavedHead(tuple(PLACE.values()), head.to_tensors(), head.to_config(), facts)
    save_heads(tmp_path, "linear-probe", ["a", "b", "c"], [one], {"made": "here"})
    return tmp_path, head, X


def test_a_loaded_head_predicts_the_same_bits_and_names_its_classes(saved):
    folder, head, X = saved
    again, classes = load_head(folder, "linear-probe", **PLACE)
    assert classes == ["a", "b", "c"]
    np.testing.assert_array_equal(again.predict_proba(X), head.predict_proba(X))


def test_two_files_a_head_and_no_pickle(saved):
    folder, *_ = saved
    assert sorted(p.name for p in folder.iterdir()) == [
        "linear-probe.json",
        "linear-probe.safetensors",
    ]
    _, cells = load_heads(folder, "linear-probe")
    assert cells["official/masked/0.05/3"]["n_train"] == 60


def test_a_head_that_was_not_trained_is_named_with_those_that_were(saved):
    with pytest.raises(PipelineError, match=r"official/masked/0\.05/3"):
        load_head(saved[0], "linear-probe", **{**PLACE, "seed": 4})


def test_of_all_that_was_trained_only_what_is_alike_is_listed(saved):
    with pytest.raises(PipelineError, match=r"there are: none$"):
        load_head(saved[0], "linear-probe", **{**PLACE, "view": "crop"})
    with pytest.raises(PipelineError, match=r"no saved head 'linear'.* linear-probe"):
        load_head(saved[0], "linear", **PLACE)


def test_no_file_is_an_error_with_the_command(tmp_path):
    with pytest.raises(PipelineError, match="pipeline train"):
        load_heads(tmp_path, "linear-probe")


def test_another_format_is_refused(saved):
    path = saved[0] / "linear-probe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(PipelineError, match="format 99"):
        load_heads(saved[0], "linear-probe")


def test_a_damaged_file_is_named_with_the_remedy(saved):
    (saved[0] / "linear-probe.json").write_text("{")
    with pytest.raises(PipelineError, match=r"damaged.*pipeline train"):
        load_heads(saved[0], "linear-probe")
