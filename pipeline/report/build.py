"""Build the report: one self-contained HTML page for all datasets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.config import Params
from pipeline.paths import Paths


def build_report(params: Params, paths: Paths, datasets: Sequence[str] | None = None) -> Path:
    """Write `paths.report` and return it.

    The page needs no network: styles, scripts and pictures are inside. It is a function of
    the files it reads; no clock enters it. A dataset without metrics gets a section that says
    which command makes them.

    Args:
        params: the parameters of the run (shown in the page, and sizes of pictures).
        paths: where the files of `evaluate`, the stores, the records and the images lie.
        datasets: names to report on; default `params.datasets`.
    """
    raise NotImplementedError
