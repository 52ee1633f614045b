"""Heads by name: built in, registered by a script, brought by an installed package."""

from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.heads import get_head, head_names, register
from pipeline.heads.zero_shot import ZeroShot


def test_the_four_heads_are_known():
    assert {"zero-shot", "linear-probe", "medfocus", "medfocus-probe"} <= set(head_names())


def test_an_unknown_name_is_an_error_that_lists_the_known():
    with pytest.raises(ConfigError, match="linear-probe"):
        get_head("lineer-probe")


def test_a_decorator_registers_a_head():
    @register("mine-for-a-test")
    class Mine(ZeroShot):
        pass

    assert get_head("mine-for-a-test") is Mine and Mine.name == "mine-for-a-test"


def test_a_package_brings_a_head_by_entry_point(tmp_path, monkeypatch):
    (tmp_path / "head_of_others.py").write_text(
        "from pipeline.heads.zero_shot import ZeroShot\nclass Theirs(ZeroShot): pass\n"
    )
    info = tmp_path / "head_of_others-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: head-of-others\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pipeline.heads]\ntheirs = head_of_others:Theirs\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "theirs" in head_names()
    assert get_head("theirs").__module__ == "head_of_others"
