"""Masks do not depend on sam2's optional compiled extension: a false one changes no bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from .site import Site, stage_command

ANSWERS = {
    "that fails": "raise RuntimeError('the extension was called')",
    # Everything is one region of one pixel: sam2 would take all background for small holes.
    "that is wrong": "return (torch.ones_like(mask, dtype=torch.int32),) * 2",
}
PLANTED = """
import sys, types
import torch

def get_connected_componnets(mask):
    {answer}

planted = types.ModuleType("sam2._C")
planted.get_connected_componnets = get_connected_componnets
sys.modules["sam2._C"] = planted
from sam2 import _C
assert _C is planted
from pipeline.cli import main
main()
"""


@pytest.mark.parametrize("extension", ANSWERS)
def test_masks_are_the_same_with_an_extension(
    whole: Site, half: Site, tmp_path: Path, extension: str
) -> None:
    site = whole.before("segment", half, tmp_path / "site")
    program = ["-c", PLANTED.format(answer=ANSWERS[extension])]
    said = site.run(*stage_command("segment"), program=program).expect(0, "20 computed")
    assert "was called" not in said
    assert site.outputs("segment") == whole.outputs("segment")
