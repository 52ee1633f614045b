"""Images of which the right answer is known: the class is in the lesion, or in the background."""

from __future__ import annotations

from typing import Literal

from pipeline.intake import AddSummary
from pipeline.paths import Paths


def make_known_answer(
    paths: Paths,
    name: str,
    where: Literal["lesion", "background"] = "lesion",
    n: int = 120,
    seed: int = 0,
) -> AddSummary:
    """Write a two-class set `name` (with masks) whose class shows only `where` says."""
    raise NotImplementedError
