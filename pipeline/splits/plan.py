"""The plan of all splits of one dataset: protocol x seed x fraction -> train, val, test ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config import SplitsParams


@dataclass(frozen=True)
class Split:
    """Three disjoint, sorted arrays of image_id (str). `train` and `val` are the labels used."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


class SplitPlan:
    """All splits of a dataset; see `plan_splits`."""

    protocols: tuple[str, ...]
    notes: list[str]

    def get(self, protocol: str, seed: int, fraction: float) -> Split:
        """Return who trains, chooses and is tested."""
        raise NotImplementedError

    def export(self, path: str | Path, seeds=(0,)) -> None:
        """Write every split as a CSV with hashes."""
        raise NotImplementedError


def plan_splits(
    manifest: pd.DataFrame, params: SplitsParams, audit: pd.DataFrame | None = None
) -> SplitPlan:
    """Plan the protocols official, grouped and ground_truth."""
    raise NotImplementedError
