"""The grid of a training run: protocol x view x fraction x seed, and the images of each cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config import CROSS_VALIDATED
from pipeline.heads.registry import get_head

if TYPE_CHECKING:
    from pipeline.config import TrainParams
    from pipeline.splits import SplitPlan


@dataclass(frozen=True)
class Cell:
    """One protocol, view, fraction and seed; all heads of a cell see the same images.

    `train`, `val` and `test` are sorted arrays of image_id. `heads` are the names to fit.
    """

    protocol: str
    view: str
    fraction: float
    seed: int
    heads: tuple[str, ...]
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    @property
    def where(self) -> tuple[str, str, float, int]:
        return self.protocol, self.view, self.fraction, self.seed


def plan_cells(
    plan: SplitPlan, params: TrainParams, fractions: tuple[float, ...]
) -> tuple[list[Cell], list[str]]:
    """Return the cells and, as text, the protocols that were asked for but do not exist here.

    A head without labels gets one cell for each test set, at fraction 0: seed 0, and in
    cross-validation, where every seed tests another fold, one for each seed.
    """
    labelled = tuple(name for name in params.heads if get_head(name).needs_labels)
    unlabelled = tuple(name for name in params.heads if not get_head(name).needs_labels)
    cells: list[Cell] = []
    notes: list[str] = []
    nobody = np.array([], dtype=object)
    for protocol, views in params.views.items():
        if protocol not in plan.protocols:
            notes.append(f"protocol {protocol} is left out: the manifest does not allow it")
            continue
        for seed in params.seeds if labelled else ():
            for fraction in fractions:
                split = plan.get(protocol, seed, fraction)
                cells += [
                    Cell(
                        protocol,
                        view,
                        fraction,
                        seed,
                        labelled,
                        split.train,
                        split.val,
                        split.test,
                    )
                    for view in views
                ]
        tests = params.seeds if protocol in CROSS_VALIDATED else (0,)
        for seed in tests if unlabelled else ():
            test = plan.get(protocol, seed, fractions[-1]).test
            cells += [
                Cell(protocol, view, 0.0, seed, unlabelled, nobody, nobody, test) for view in views
            ]
    return cells, notes
