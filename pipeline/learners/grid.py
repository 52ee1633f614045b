"""The grid of a learner: protocol x view x fraction x seed, and the images of each cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config import CROSS_VALIDATED

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.learners.base import Learner, LearnerParams
    from pipeline.splits import SplitPlan

_NONE = np.array([], dtype=object)


@dataclass(frozen=True)
class Cell:
    """One protocol, view, fraction and seed; `train`, `val` and `test` are sorted image ids."""

    protocol: str
    view: str
    fraction: float
    seed: int
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def plan_cells(
    cls: type[Learner], own: LearnerParams, plan: SplitPlan, params: Params
) -> tuple[list[Cell], list[str]]:
    """Return the cells of a learner, and a note for each protocol that the manifest rules out.

    A learner without labels has one cell for each test set, at fraction 0: seed 0, and in
    cross-validation, where each seed tests another fold, one cell for each seed.

    Args:
        cls: the learner's class.
        own: its parameters, which may replace views, seeds and fractions.
        plan: the splits of the dataset.
        params: all parameters.
    """
    views = own.views if own.views is not None else params.train.views
    seeds = own.seeds if own.seeds is not None else params.train.seeds
    fractions = own.fractions or params.splits.fractions
    cells: list[Cell] = []
    notes: list[str] = []
    for protocol, names in views.items():
        if protocol not in plan.protocols:
            notes.append(f"protocol {protocol} is left out: the manifest does not allow it")
        elif cls.needs_labels:
            for seed in seeds:
                for fraction in fractions:
                    split = plan.get(protocol, seed, fraction)
                    parts = split.train, split.val, split.test
                    cells += [Cell(protocol, view, fraction, seed, *parts) for view in names]
        else:
            for seed in seeds if protocol in CROSS_VALIDATED else (0,):
                test = plan.get(protocol, seed, 1.0).test
                cells += [Cell(protocol, view, 0.0, seed, _NONE, _NONE, test) for view in names]
    return cells, notes
