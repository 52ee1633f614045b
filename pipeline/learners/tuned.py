"""What the learners on cached features share: one rule for what the validation part chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import Field

from pipeline.config import Rising
from pipeline.learners.base import (
    Learner,
    Samples,
    accuracy,
    check_finite,
    l2_normalise,
    log_loss,
)

T = TypeVar("T")


Grid = Annotated[
    tuple[Annotated[float, Field(gt=0)], ...],
    Field(min_length=1, max_length=7),
    Rising,
]
"""Candidates for one hyperparameter: at most seven, so that every learner has the same budget."""


def judge(proba: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return accuracy and minus the log loss; the candidate with the larger pair is the better.

    `proba` are probabilities (n, C) of images whose classes are `y` (n,).
    """
    return accuracy(proba, y), -log_loss(proba, y)


def middle(grid: Sequence[T]) -> T:
    """Return the middle candidate, the lower one of two."""
    return grid[(len(grid) - 1) // 2]


class Tuned(Learner):
    """A learner whose hyperparameters come from grids of at most seven candidates each.

    The rule is that of the linear probe. Every candidate (of two hyperparameters every pair) is
    judged on the validation part: the highest accuracy wins, then the lowest log loss, then the
    first of the grid. Without a validation part the middle of each grid is used. What is trained
    by steps keeps the step that the same rule prefers; without a validation part the last one.
    """

    def choose(
        self, val: Samples, predict: Callable[..., np.ndarray], **grids: Sequence[Any]
    ) -> None:
        """Choose one candidate of each grid; it goes into `chosen` and attribute `<name>_`.

        `predict(<name>=candidate, ...)` returns the probabilities of the validation images,
        (n, C); it is not called if there are none.
        """
        best, chosen = (-np.inf, -np.inf), {name: middle(grid) for name, grid in grids.items()}
        for values in product(*grids.values()) if len(val) else ():
            candidate = dict(zip(grids, values, strict=True))
            judged = judge(predict(**candidate), val.y)
            if judged > best:
                best, chosen = judged, candidate
        self.chosen |= chosen
        vars(self).update({f"{name}_": np.array(value) for name, value in chosen.items()})
        self.val_score = best[0] if len(val) else None


def unit(*samples: Samples) -> tuple[np.ndarray, ...]:
    """Return the image features of each part, and the text features of the first, with rows of
    length 1.

    Raises:
        DivergedError: a feature is infinite or NaN.
    """
    arrays = *(part.X for part in samples), samples[0].text
    check_finite("a feature of the training or validation part, or of the text", *arrays)
    return tuple(map(l2_normalise, arrays))


def one_hot(y: np.ndarray, n_classes: int) -> np.ndarray:
    """Return float32 (n, C): 1 at the class of each image."""
    return (y[:, None] == np.arange(n_classes)).astype(np.float32)
