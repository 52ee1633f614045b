"""Find the near pairs among many vectors, in all orientations: a bound first, then the score.

A vector is (s, s) low DCT coefficients of an image. Two are near when |x - y|^2 / 2 < reach, which
is score = x y - |x|^2 / 2 - |y|^2 / 2 + reach > 0. Of a query the best of its variants counts, for
each of the eight orientations by itself. All pairs are compared, but with few multiplications:

- Turning is transposing and mirroring, and mirroring negates the coefficients of odd rows or odd
  columns. With the products of the four classes (even or odd row, even or odd column), the best
  score of the four mirrorings is max(ee + oo + |eo + oe|, ee - oo + |eo - oe|).
- Each class is turned to principal axes of the data. Products are of the first `LEADING` of these;
  what the others add is at most the product of their lengths (Cauchy-Schwarz).

No near pair is lost, whatever the data: where images are all alike more pairs pass the bound, and
their scores are computed. A tile of bounds is small enough for the cache of a core.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product

import numpy as np

CLASSES = tuple(product((0, 1), repeat=2))  # whether row and column are odd
SIGNS = np.array([[(-1.0) ** (i * r + j * c) for r, c in CLASSES] for i, j in CLASSES], np.float32)
"""Of the classes, when rows (i) and columns (j) are mirrored."""
LEADING = 16  # axes of a class that the bound has
TILE_ROWS, TILE_COLUMNS = 288, 512  # of a tile of bounds: 0.6 MB
SLACK = 1e-5  # for the rounding of a bound
PART = 8192  # vectors among which the partners of a query are counted
PARTS = 8  # whose pairs are in memory at a time


class Vectors:
    """Vectors that queries are compared with.

    Args:
        count: of vectors, given to `put` by parts.
        sample: (n, s, s) float32, s even: some of these; the axes are theirs.
        reach: half the square of the distance below which two vectors are near.
    """

    def __init__(self, count: int, sample: np.ndarray, reach: float):
        self.reach, self.axes = np.float32(reach), []
        for row, column in CLASSES:
            both = [x[:, row::2, column::2] for x in (sample, sample.swapaxes(1, 2))]
            both = np.concatenate(both).reshape(2 * len(sample), -1).astype(float)
            self.axes.append(np.linalg.eigh(both.T @ both)[1][:, ::-1].astype(np.float32))
        size = len(self.axes[0])
        self.leading = min(LEADING, size)
        # Columns of each class: leading axes, then (in the first) two constants and the length of
        # the other axes, which only the bound has, then these.
        starts = [0, *(3 + size * np.arange(1, 5))]
        self.classes = [slice(a, b) for a, b in pairwise(starts)]
        self.bounds = [slice(a, a + self.leading + 3 * (a == 0)) for a in starts[:4]]
        self.rows = np.empty((count, starts[-1]), np.float32)

    def put(self, start: int, vectors: np.ndarray) -> None:
        """Put vectors (n, s, s) float32 at the places from `start` on."""
        self.rows[start : start + len(vectors)] = self._turned(vectors, query=False)

    def _turned(self, vectors: np.ndarray, *, query: bool) -> np.ndarray:
        """Return vectors by axes, (n, d) float32; the product of a query and another one, without
        the lengths, is their score."""
        first, *others = (
            vectors[:, row::2, column::2].reshape(len(vectors), -1) @ axes
            for (row, column), axes in zip(CLASSES, self.axes, strict=True)
        )
        half = (vectors.reshape(len(vectors), -1) ** 2).sum(axis=1) / 2
        one = np.ones_like(half)
        rest = np.hstack([part[:, self.leading :] for part in (first, *others)])
        given = (-half, one) if query else (one, self.reach - half)
        given = np.column_stack([*given, np.linalg.norm(rest, axis=1)])
        return np.hstack([first[:, : self.leading], given, first[:, self.leading :], *others])

    def near(
        self,
        variants: Sequence[np.ndarray],
        partners: int,
        *,
        after: int | None = None,
        mirrored: bool = True,
        each: Callable = map,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the vectors near to a block of queries.

        Args:
            variants: of the queries, each (m, s, s) float32.
            partners: vectors kept of a query in an orientation and `PART` vectors, best first.
            after: number of the block's first row if the block is a part of the vectors: then only
                vectors after each query's own are returned.
            mirrored: whether all orientations are compared, or the first only.
            each: maps a function over parts of the block, as `map` does.

        Returns:
            int64 (n, 3): orientation, row in the block, number of the vector; (k, 2): orientation
            and row of the queries that had more partners than are kept.
        """
        variants = [*variants, *(x.swapaxes(1, 2) for x in variants if mirrored)]
        queries = [self._turned(x, query=True) for x in variants]
        signs, turns = (SIGNS, 2) if mirrored else (SIGNS[:1], 1)
        size = max(1, TILE_ROWS // len(queries))

        def compare(start: int) -> tuple[np.ndarray, np.ndarray]:
            rows = np.stack([x[start : start + size] for x in queries])
            found, cut = [np.zeros((0, 3), np.int64)], [np.zeros((0, 2), np.int64)]
            exact = rows.copy()
            exact[..., self.bounds[0].stop - 1] = 0
            for row, near in self._passing(rows, start, after, mirrored):
                vectors = self.rows[near]
                products = [exact[:, row, of] @ vectors[:, of].T for of in self.classes]
                scores = np.tensordot(signs, np.stack(products), 1)  # mirroring, variant, vector
                scores = scores.reshape(len(signs), turns, -1, len(near)).max(axis=2)
                scores = scores.swapaxes(0, 1).reshape(-1, len(near))
                turn, at = np.nonzero(scores > 0)
                score, near = scores[turn, at], near[at]
                if len(near) > partners:
                    group = turn * len(self.rows) + (near - (after or 0)) // PART
                    order = np.lexsort((-score, group))
                    turn, near, group = turn[order], near[order], group[order]
                    kept = np.arange(len(near)) - np.searchsorted(group, group) < partners
                    more = np.unique(turn[~kept])
                    cut.append(np.stack([more, np.full(len(more), start + row)], axis=1))
                    turn, near = turn[kept], near[kept]
                found.append(np.stack([turn, np.full(len(near), start + row), near], axis=1))
            return np.concatenate(found), np.concatenate(cut)

        found = zip(*each(compare, range(0, len(queries[0]), size)), strict=True)
        return tuple(map(np.concatenate, found))

    def _passing(
        self, queries: np.ndarray, start: int, after: int | None, mirrored: bool
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield rows of queries (variants, m, d) with the numbers of the vectors whose bound is
        above 0, sorted, among `PARTS` parts at a time."""
        count, width = queries.shape[1], PART * PARTS
        flat = queries.reshape(-1, queries.shape[2])
        memory = np.empty((len(CLASSES) + 1, len(flat) * TILE_COLUMNS), np.float32)
        for first in range(after or 0, len(self.rows), width):
            passing = []
            for at in range(first, min(first + width, len(self.rows)), TILE_COLUMNS):
                block = self.rows[at : min(at + TILE_COLUMNS, first + width)]
                shape = len(flat), len(block)
                out = memory[:, : math.prod(shape)].reshape(-1, *shape)
                self._bound(flat, block, out, mirrored)
                best = np.maximum.reduce(out[0].reshape(len(queries), -1), axis=0)
                row, column = np.divmod(np.flatnonzero(best > -SLACK), len(block))
                passing.append((row, column + at))
            row, column = map(np.concatenate, zip(*passing, strict=True))
            if after is not None:
                later = column > after + start + row
                row, column = row[later], column[later]
            order = np.argsort(row, kind="stable")
            ends = np.searchsorted(row[order], np.arange(count + 1))
            for of in np.flatnonzero(np.diff(ends)):
                yield of, column[order[ends[of] : ends[of + 1]]]

    def _bound(self, queries: np.ndarray, block: np.ndarray, out: np.ndarray, mirrored: bool):
        """Write the bounds of queries (m, d) and vectors (n, d) to out[0]; out is (5, m, n)."""
        best, ee, eo, oe, oo = out
        for of, one in zip(self.bounds, out[1:], strict=True):
            np.matmul(queries[:, of], block[:, of].T, out=one)
        np.add(ee, oo, out=best)
        np.subtract(ee, oo, out=ee)
        np.add(eo, oe, out=oo)
        np.subtract(eo, oe, out=eo)
        if not mirrored:
            best += oo
            return
        best += np.abs(oo, out=oo)
        ee += np.abs(eo, out=eo)
        np.maximum(best, ee, out=best)
