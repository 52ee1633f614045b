"""The result pages in git: results/<dataset>.md and .csv, results/README.md with the answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.config import Params
from pipeline.paths import Paths


def write_results(
    params: Params, paths: Paths, datasets: Sequence[str] | None = None
) -> list[Path]:
    """Write the result pages from the tables of `evaluate` and return their paths.

    Every sentence of `results/README.md` that states a figure is generated from the data.

    Args:
        params: the parameters of the run.
        paths: the project folder; pages go to `paths.results`.
        datasets: names to write about; default `params.datasets`. Datasets without metrics
            are named in the README with the command that makes them.
    """
    raise NotImplementedError
