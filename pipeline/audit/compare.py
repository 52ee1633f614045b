"""Copies across two datasets."""

from __future__ import annotations

import pandas as pd

from pipeline.config import Params
from pipeline.paths import Paths


def compare_datasets(a: str, b: str, params: Params, paths: Paths) -> pd.DataFrame:
    """Return the pairs of copies across two datasets (columns of audit_pairs.parquet)."""
    raise NotImplementedError
