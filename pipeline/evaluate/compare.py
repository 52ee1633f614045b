"""Paired differences between heads and between views, Holm-corrected."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config import Params
    from pipeline.paths import Paths


def compare_runs(dataset: str, params: Params, paths: Paths, a: str, b: str) -> pd.DataFrame:
    """Compare two heads, two views or two `head/view` pairs: differences a - b with Holm.

    Args:
        a, b: both a head name, both a view name, or both `head/view`.

    Returns:
        One row per protocol, subset, head/view that stays the same, fraction and metric: `a`,
        `b`, `difference`, `lo`, `hi`, `p`, `p_holm`, `n_images`.

    Raises:
        PipelineError: no predictions, or a name that they do not hold.
    """
    raise NotImplementedError
