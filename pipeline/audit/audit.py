"""Audit one dataset: groups of copies, and which of them straddle train and test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pipeline.config import Params
from pipeline.paths import Paths


def audit_dataset(dataset: str, params: Params, paths: Paths) -> dict[str, Any]:
    """Find the copies in a dataset; writes audit.parquet, audit_pairs.parquet and audit.json.

    Returns:
        the content of audit.json (counts, parameters, unreadable images by name and reason).
    """
    raise NotImplementedError


def clean_test_ids(audit: pd.DataFrame, splits: pd.Series, *, mirrored: bool = False) -> np.ndarray:
    """Return the sorted image_id of the test images without a copy in train."""
    raise NotImplementedError


def straddling_pairs(pairs: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Return at most `limit` pairs of audit_pairs.parquet to show, one a test image, best first."""
    raise NotImplementedError
