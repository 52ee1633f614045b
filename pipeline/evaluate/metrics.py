"""Metrics as functions of sums over images, so that a bootstrap is one matrix product.

Every image contributes a row of numbers: its cell of the confusion matrix, its squared error, its
confidence bin and its ranks. Every metric is a function of the sum of these rows. Sums with
weights 1 give the metric, sums with resampling weights its bootstrap replicates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc", "ece", "brier")
OVER_CLASSES = ("balanced_accuracy", "macro_f1", "macro_auroc")
"""Metrics that are means over classes."""
CLASS_METRICS = ("precision", "recall", "f1")
"""Metrics of a single class."""


def metric_columns(n_classes: int) -> np.ndarray:
    """Return the metric of each column of `from_sums`, text (F,); F = 6 + 3 C."""
    return np.array([*METRICS, *np.repeat(CLASS_METRICS, n_classes)])


@dataclass(frozen=True)
class Contributions:
    """What each image adds to the sums.

    Attributes:
        rows: float32 (n, K): C * C confusion cells, squared error, `bins` x (count, confidence,
            correct), C AUROC components of positives, C of negatives.
        present: whether each class has an image, bool (C,).
        auroc: AUROC of one class against the rest, float64 (C,); NaN where one side is empty.
    """

    rows: np.ndarray
    present: np.ndarray
    auroc: np.ndarray


def contributions(proba: np.ndarray, y: np.ndarray, bins: int = 15) -> Contributions:
    """Return what each image adds to the sums.

    Args:
        proba: class probabilities, float32 (n, C).
        y: true classes, int (n,).
        bins: number of confidence bins of equal width on [0, 1]; a confidence on an edge belongs
            to the upper bin.
    """
    n, C = proba.shape
    here, predicted = np.arange(n), proba.argmax(axis=1)
    confidence = proba[here, predicted].astype(np.float64)
    which = np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="right") - 1
    bin_of = C * C + 1 + np.clip(which, 0, bins - 1)
    rows = np.zeros((n, C * C + 1 + 3 * bins + 2 * C), dtype=np.float32)
    rows[here, y * C + predicted] = 1
    rows[:, C * C] = ((proba - np.eye(C, dtype=proba.dtype)[y]) ** 2).sum(axis=1)
    rows[here, bin_of] = 1
    rows[here, bin_of + bins] = confidence
    rows[here, bin_of + 2 * bins] = predicted == y
    auroc, present = np.full(C, np.nan), np.bincount(y, minlength=C) > 0
    for c in np.flatnonzero(present) if present.sum() > 1 else ():
        positive = y == c
        up, down = _auroc_components(proba[positive, c], proba[~positive, c])
        rows[positive, c - 2 * C] = up
        rows[~positive, c - C] = down
        auroc[c] = up.mean()
    return Contributions(rows, present, auroc)


def _auroc_components(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the structural components V10 and V01 of DeLong et al. (1988), float64.

    V10[i] is the share of negatives that score below positive i, ties counting half; V01[j] is the
    share of positives that score above negative j. The mean of either is the AUROC.
    """
    low, high = np.sort(negative), np.sort(positive)
    below = np.searchsorted(low, positive, "left") + np.searchsorted(low, positive, "right")
    above = np.searchsorted(high, negative, "left") + np.searchsorted(high, negative, "right")
    return below / (2 * len(low)), 1 - above / (2 * len(high))


def from_sums(sums: np.ndarray, about: Contributions) -> np.ndarray:
    """Return every metric for sums of contributions, float64 (..., F), NaN where undefined.

    Means over classes leave out classes without a true image, macro-AUROC also classes without any
    other image. Replicates of AUROC are first-order: mean(V10) + mean(V01) - AUROC under the
    resampling weights, which is exact with weights 1.

    A class that is never predicted has precision NaN. A class without a true image has recall NaN,
    and F1 NaN if it was not predicted either, or if only the resample lacks it: its F1 would be 0
    for lack of images, not for errors.

    Args:
        sums: (..., K), weighted sums of `about.rows`.
        about: the contributions that were summed.
    """
    C = len(about.present)
    sums = np.asarray(sums, dtype=np.float64)
    confusion = sums[..., : C * C].reshape(*sums.shape[:-1], C, C)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    n, present = confusion.sum(axis=(-2, -1)), true > 0
    other = n[..., None] - true
    _, confidence, correct = np.split(sums[..., C * C + 1 : -2 * C], 3, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc = sums[..., -2 * C : -C] / true + sums[..., -C:] / other - about.auroc
        precision, recall, f1 = hits / predicted, hits / true, 2 * hits / (true + predicted)
        over_all = (
            hits.sum(axis=-1) / n,
            _mean(recall, present),
            _mean(f1, present),
            _mean(np.clip(auroc, 0, 1), present & (other > 0) & np.isfinite(about.auroc)),
            np.abs(confidence - correct).sum(axis=-1) / n,
            sums[..., C * C] / n,
        )
    f1[~present & about.present] = np.nan
    return np.concatenate([np.stack(over_all, axis=-1), precision, recall, f1], axis=-1)


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis where the flag holds; NaN where it holds nowhere."""
    count = where.sum(axis=-1)
    return np.where(where, values, 0.0).sum(axis=-1) / np.where(count, count, np.nan)
