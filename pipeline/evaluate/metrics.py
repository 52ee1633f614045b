"""The six metrics, as functions of sums over images, so that a bootstrap is one matrix product.

Every image contributes a row of numbers (which cell of the confusion matrix it falls in, its
squared error, its confidence bin, its ranks); every metric is a function of the sums of such
rows. With weights 1 the sums give the metric itself, with resampling weights its replicates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc", "ece", "brier")


@dataclass(frozen=True)
class Contributions:
    """What each image adds to the metrics' sums.

    Attributes:
        rows: float32 (n, K): C * C confusion cells, squared error, `bins` x (count, confidence,
            correct), C AUROC components of positives, C of negatives.
        n_classes: C.
        bins: of ECE.
        auroc: one class against the rest, float64 (C,); NaN where a side is absent.
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
    """Return what each image adds.

    Args:
        proba: class probabilities, float32 (n, C).
        y: true classes, int (n,).
        bins: confidence bins of equal width on [0, 1].
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
    """Return the bin of each confidence, of `bins` of equal width on [0, 1]; a value on an edge is
    in the upper one."""
    which = np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="right") - 1
    return np.clip(which, 0, bins - 1)


def _auroc_components(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the structural components V10 and V01 of DeLong et al. (1988), float64.

    V10[i] is the share of negatives below positive i, ties counting half; V01[j] the share of
    positives above negative j. The mean of either is the AUROC.
    """
    low, high = np.sort(negative), np.sort(positive)
    below = np.searchsorted(low, positive, "left") + np.searchsorted(low, positive, "right")
    above = np.searchsorted(high, negative, "left") + np.searchsorted(high, negative, "right")
    return below / (2 * len(low)), 1 - above / (2 * len(high))


def from_sums(sums: np.ndarray, about: Contributions) -> dict[str, np.ndarray]:
    """Return each metric for sums of contributions.

    Classes without a true image are left out of the means over classes (macro-F1, macro-AUROC,
    balanced accuracy), and AUROC also those without another image; `notes` says which. The
    replicates of AUROC are first-order: AUROC + mean(V10) - AUROC + mean(V01) - AUROC under the
    resampling weights, which is exact at weights 1.

    Args:
        sums: (..., K), weighted sums of `about.rows`.
        about: where the rows come from.

    Returns:
        name -> float64 (...,); NaN where nothing is left.
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
        up = sums[..., start : start + C] / true
        down = sums[..., start + C :] / other
        auroc = np.clip(up + down - about.auroc, 0, 1)
        return {
            "accuracy": hits.sum(axis=-1) / n,
            "balanced_accuracy": _mean(hits / true, present),
            "macro_f1": _mean(2 * hits / (true + predicted), present),
            "macro_auroc": _mean(auroc, present & (other > 0) & np.isfinite(about.auroc)),
            "ece": np.abs(confidence - correct).sum(axis=-1) / n,
            "brier": sums[..., C * C] / n,
        }


def per_class(sums: np.ndarray, n_classes: int) -> dict[str, np.ndarray]:
    """Return precision, recall, f1 and support of each class, (..., C).

    A class never predicted has precision NaN; one without a true image has recall NaN, and F1
    NaN as well when it was not predicted either.
    """
    C = n_classes
    sums = np.asarray(sums, dtype=np.float64)
    confusion = sums[..., : C * C].reshape(*sums.shape[:-1], C, C)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": hits / predicted,
            "recall": hits / true,
            "f1": 2 * hits / (true + predicted),
            "support": true,
        }


def score(proba: np.ndarray, y: np.ndarray, bins: int = 15) -> dict[str, float]:
    """Return the six metrics of one set of predictions."""
    about = contributions(proba, y, bins)
    return {name: float(value) for name, value in from_sums(about.total, about).items()}


def notes(y: np.ndarray, classes: list[str]) -> str:
    """Say which classes the means over classes leave out, and which rest on one image."""
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
    """Mean over the last axis of the values where the flag holds, NaN where none does."""
    count = where.sum(axis=-1)
    total = np.where(where, values, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
