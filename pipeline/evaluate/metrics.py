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


def metric_columns(n_classes: int) -> list[tuple[str, int]]:
    """Return (metric, class) of each column of `stacked`; class -1 = over all images."""
    single = [(metric, c) for metric in CLASS_METRICS for c in range(n_classes)]
    return [*((metric, -1) for metric in METRICS), *single]


def stacked(found: dict[str, np.ndarray]) -> np.ndarray:
    """Return the metrics of `from_sums` as one array (..., 6 + 3 C)."""
    over_all = np.stack([found[metric] for metric in METRICS], axis=-1)
    return np.concatenate([over_all, *(found[metric] for metric in CLASS_METRICS)], axis=-1)


@dataclass(frozen=True)
class Contributions:
    """What each image adds to the sums.

    Attributes:
        rows: float32 (n, K): C * C confusion cells, squared error, `bins` x (count, confidence,
            correct), C AUROC components of positives, C of negatives.
        n_classes: C.
        bins: number of confidence bins.
        auroc: AUROC of one class against the rest, float64 (C,); NaN where one side is empty.
    """

    rows: np.ndarray
    n_classes: int
    bins: int
    auroc: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """The sums over all images, float64 (K,)."""
        return self.rows.sum(axis=0, dtype=np.float64)


def contributions(proba: np.ndarray, y: np.ndarray, bins: int = 15) -> Contributions:
    """Return what each image adds to the sums.

    Args:
        proba: class probabilities, float32 (n, C).
        y: true classes, int (n,).
        bins: number of confidence bins of equal width on [0, 1].
    """
    proba = np.asarray(proba)
    n, n_classes = proba.shape
    rows = np.zeros((n, n_classes**2 + 1 + 3 * bins + 2 * n_classes), dtype=np.float32)
    here = np.arange(n)
    predicted = proba.argmax(axis=1)
    rows[here, y * n_classes + predicted] = 1
    start = n_classes**2
    rows[:, start] = ((proba - np.eye(n_classes, dtype=proba.dtype)[y]) ** 2).sum(axis=1)
    confidence = proba[here, predicted].astype(np.float64)
    which = confidence_bin(confidence, bins)
    start += 1
    rows[here, start + which] = 1
    rows[here, start + bins + which] = confidence
    rows[here, start + 2 * bins + which] = predicted == y
    start += 3 * bins
    auroc = np.full(n_classes, np.nan)
    for c in range(n_classes):
        positive = y == c
        if positive.all() or not positive.any():
            continue
        up, down = _auroc_components(proba[positive, c], proba[~positive, c])
        rows[positive, start + c] = up
        rows[~positive, start + n_classes + c] = down
        auroc[c] = up.mean()
    return Contributions(rows, n_classes, bins, auroc)


def confidence_bin(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Return the bin of each confidence; a value on an edge belongs to the upper bin."""
    which = np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="right") - 1
    return np.clip(which, 0, bins - 1)


def _auroc_components(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the structural components V10 and V01 of DeLong et al. (1988), float64.

    V10[i] is the share of negatives that score below positive i, ties counting half; V01[j] is the
    share of positives that score above negative j. The mean of either is the AUROC.
    """
    low, high = np.sort(negative), np.sort(positive)
    below = np.searchsorted(low, positive, "left") + np.searchsorted(low, positive, "right")
    above = np.searchsorted(high, negative, "left") + np.searchsorted(high, negative, "right")
    return below / (2 * len(low)), 1 - above / (2 * len(high))


def from_sums(sums: np.ndarray, about: Contributions) -> dict[str, np.ndarray]:
    """Return every metric for sums of contributions.

    Means over classes leave out classes without a true image, macro-AUROC also classes without any
    other image. Replicates of AUROC are first-order: mean(V10) + mean(V01) - AUROC under the
    resampling weights, which is exact with weights 1.

    A class that is never predicted has precision NaN. A class without a true image has recall NaN,
    and F1 NaN if it was not predicted either.

    Args:
        sums: (..., K), weighted sums of `about.rows`.
        about: the contributions that were summed.

    Returns:
        Each of `METRICS`, float64 (...,), each of `CLASS_METRICS` and "support" (number of true
        images), (..., C); NaN where undefined.
    """
    C, bins = about.n_classes, about.bins
    sums = np.asarray(sums, dtype=np.float64)
    confusion = sums[..., : C * C].reshape(*sums.shape[:-1], C, C)
    n = confusion.sum(axis=(-2, -1))
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    present = true > 0
    start = C * C + 1
    confidence = sums[..., start + bins : start + 2 * bins]
    correct = sums[..., start + 2 * bins : start + 3 * bins]
    start += 3 * bins
    other = n[..., None] - true
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc = sums[..., start : start + C] / true + sums[..., start + C :] / other - about.auroc
        auroc = np.clip(auroc, 0, 1)
        recall, f1 = hits / true, 2 * hits / (true + predicted)
        return {
            "accuracy": hits.sum(axis=-1) / n,
            "balanced_accuracy": _mean(recall, present),
            "macro_f1": _mean(f1, present),
            "macro_auroc": _mean(auroc, present & (other > 0) & np.isfinite(about.auroc)),
            "ece": np.abs(confidence - correct).sum(axis=-1) / n,
            "brier": sums[..., C * C] / n,
            "precision": hits / predicted,
            "recall": recall,
            "f1": f1,
            "support": true,
        }


def score(proba: np.ndarray, y: np.ndarray, bins: int = 15) -> dict[str, float]:
    """Return the `METRICS` of one set of predictions; arguments as `contributions`."""
    about = contributions(proba, y, bins)
    found = from_sums(about.total, about)
    return {name: float(found[name]) for name in METRICS}


def class_notes(y: np.ndarray, classes: list[str]) -> str:
    """Name the classes that means over classes leave out, and those with a single image."""
    counts = np.bincount(y, minlength=len(classes))
    absent = [name for name, n in zip(classes, counts, strict=True) if n == 0]
    single = [name for name, n in zip(classes, counts, strict=True) if n == 1]
    parts = []
    if absent:
        parts.append(f"left out of means over classes, no test image: {', '.join(absent)}")
    if single:
        parts.append(f"one test image only: {', '.join(single)}")
    return "; ".join(parts)


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis where the flag holds; NaN where it holds nowhere."""
    count = where.sum(axis=-1)
    total = np.where(where, values, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
