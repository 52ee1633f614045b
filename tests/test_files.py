"""Atomic writes: the old file or the new one, never a half."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.files import atomic_write, atomic_write_json, sha256_file, sha256_json


def test_an_error_while_writing_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_is_replaced_not_edited_so_hard_links_keep_the_old_bytes(tmp_path: Path) -> None:
    target, link = tmp_path / "a.json", tmp_path / "link"
    atomic_write_json(target, {"n": 1})
    os.link(target, link)
    before = link.read_bytes()
    atomic_write_json(target, {"n": 2})
    assert link.read_bytes() == before != target.read_bytes()


def test_nan_is_refused_in_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        atomic_write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_json_hash_ignores_key_order_only() -> None:
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": "1"})


def test_file_hash_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x").startswith("ba7816bf8f01cfea")
