"""`pipeline data sample`: a few hundred phantoms per task, in a few seconds."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.intake import AddSummary
from pipeline.paths import Paths


def make_sample(
    paths: Paths,
    datasets: Sequence[str] = ("brain", "covid", "lung", "breast"),
    n: int = 160,
    seed: int = 0,
) -> list[AddSummary]:
    """Write phantoms to data/<dataset>/ and their manifests (synthetic = 1)."""
    raise NotImplementedError
