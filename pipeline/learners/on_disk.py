"""Features that do not fit in memory: rows of a file, read in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

BLOCK = 4096  # rows


@dataclass(frozen=True)
class OnDisk:
    """Features of n images, float32 (n, d), in the place of an array of `Samples.features`.

    Attributes:
        file: float32 of all images, row by row.
        width: length d of a row.
        rows: row of each image in the file, int64 (n,).
    """

    file: Path
    width: int
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.width

    def __getitem__(self, rows: np.ndarray) -> Self:
        """Return some of the images; nothing is read."""
        return replace(self, rows=self.rows[rows])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the features of the images from `start` to before `stop`, in memory."""
        # Mapped anew, so that no more than a block counts as this process's memory.
        every = np.memmap(self.file, np.float32, "r").reshape(-1, self.width)
        return np.asarray(every[self.rows[start:stop]])


def blocks(X: np.ndarray | OnDisk) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (its rows, float32 block) of features (n, d), in order."""
    for start in range(0, len(X), BLOCK):
        at = slice(start, min(start + BLOCK, len(X)))
        yield at, X.read(at.start, at.stop) if isinstance(X, OnDisk) else X[at]
