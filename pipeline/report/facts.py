"""The numbers that the summary, the page and the result pages each put into words of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.report import select
from pipeline.report.inputs import DatasetInputs
from pipeline.report.tables import interval, many


@dataclass(frozen=True)
class Dice:
    """Mean Dice of masks with its interval.

    Attributes:
        mean, lo, hi: over `images`.
        images: those that were judged.
        lacking: those without a mask or a readable ground truth, which no mean has.
        where: what images these are, "test images" or "images".
    """

    mean: float
    lo: float
    hi: float
    images: int
    lacking: int
    where: str

    def __str__(self) -> str:
        """ "0.84 [0.81, 0.87]"."""
        return interval(self.mean, self.lo, self.hi, as_percent=False, digits=2)

    @property
    def judged(self) -> str:
        """The number of images, and of those that are not in it: "262 test images"."""
        text = f"{self.images:,} {self.where}"
        if not self.lacking:
            return text
        return f"{text} (not {many(self.lacking, 'other')} without a mask or readable ground truth)"


def dice(found: DatasetInputs, strategy: str | None = None) -> Dice | None:
    """Return the Dice of the stored masks, or of a floor, on the set's own test part if it has one;
    None where no mask was judged."""
    quality = found.mask_quality
    if quality is None or quality.empty:
        return None
    mine = quality[quality["strategy"] == (strategy or select.stored_strategy(quality))]
    part, where = select.judged_part(mine)
    images = int(np.isfinite(part["dice"]).sum())
    if not images:
        return None
    return Dice(*found.mean_interval(part, "dice"), images, len(part) - images, where)


@dataclass(frozen=True)
class Copies:
    """What the leak audit found across the set's own split.

    Attributes:
        test: test images.
        plain: those with a copy in train.
        every: the same, mirrored and turned copies counted too.
        before, after: the rows of the baseline with the most labels, on all test images and on
            those without any copy; None where not measured.
    """

    test: int
    plain: int
    every: int
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


def copies(found: DatasetInputs) -> Copies | None:
    """Count the test images that have a copy in train; None without an audit."""
    table = found.audit_images
    if table is None:
        return None
    if "split" not in table and found.manifest is not None:
        table = table.merge(found.manifest[["image_id", "split"]], on="image_id", how="left")
    test = table[table["split"] == "test"] if "split" in table else table.iloc[:0]
    counts = (int(test[column].sum()) for column in ("copy_in_train", "copy_in_train_any"))
    rows = (
        ()
        if found.metrics is None
        else (
            select.with_most_labels(found.metrics, select.BASELINE, ("official", subset))
            for subset in ("full", "clean_any")
        )
    )
    return Copies(len(test), *counts, *rows)
