"""Candidate pairs: every two vectors whose dot product is above a threshold, without an n^2 table.

Up to `INDEX_FROM` contents every pair is looked at, in blocks of float32 matrix products: work
grows with n^2, memory with n. Above, an inverted file is used (k-means cells, each vector compared
with the members of its nearest cells; Jegou et al. 2011, "Product quantization for nearest
neighbor search", section IV, without the quantizer): with about 2 sqrt(n) cells work grows with
n^1.5. Measured figures: benchmarks/audit_scale.py and its results in docs/audit.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.cluster import MiniBatchKMeans

ROWS, COLUMNS = 1024, 8192  # of a block: 32 MB of scores
INDEX_FROM = 100_000  # vectors from which the inverted file is used
PROBES = 6  # cells looked at for each vector


class Base:
    """The vectors that queries are compared with.

    Args:
        vectors: (n, d) float32.
        index: use the inverted file; None = from `INDEX_FROM` vectors on.
        columns: vectors in a block.
        seed: of the k-means.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        *,
        index: bool | None = None,
        columns: int = COLUMNS,
        seed: int = 0,
    ):
        self.vectors = vectors
        self.columns = columns
        self.cells: list[np.ndarray] | None = None
        if len(vectors) >= INDEX_FROM if index is None else index:
            self._build(seed)

    def _build(self, seed: int) -> None:
        count = max(1, int(2 * np.sqrt(len(self.vectors))))
        rng = np.random.default_rng(seed)
        sample = rng.choice(len(self.vectors), min(len(self.vectors), 40 * count), replace=False)
        means = MiniBatchKMeans(
            count, random_state=seed, n_init=1, max_iter=20, batch_size=4096, init="random"
        ).fit(self.vectors[np.sort(sample)])
        self.centres = means.cluster_centers_.astype(np.float32)
        own = np.concatenate([self._nearest(part, 1)[:, 0] for part in _parts(self.vectors)])
        order = np.argsort(own, kind="stable")
        self.cells = np.split(order, np.cumsum(np.bincount(own, minlength=count))[:-1])

    def _nearest(self, vectors: np.ndarray, probes: int) -> np.ndarray:
        """Return the numbers of the nearest cells, (n, probes)."""
        distance = (self.centres**2).sum(axis=1) - 2 * vectors @ self.centres.T
        probes = min(probes, len(self.centres))
        return np.argpartition(distance, probes - 1, axis=1)[:, :probes]

    def above(
        self,
        queries: list[np.ndarray],
        threshold: float | np.ndarray,
        *,
        partners: int,
        after: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the base vectors close to a block of queries.

        Args:
            queries: variants of the same block, each (m, d) float32; the closest variant counts.
            threshold: the dot product to exceed; or (m + n,) values t such that row r and vector
                c must exceed t[r] + t[m + c].
            partners: how many of one query are kept within one block of the base or one cell, the
                closest: thousands of nearly equal frames must not become millions of pairs.
            after: the block's first row in the base, if it is a part of it: then only vectors
                after each query's own are returned. The inverted file ignores it.

        Returns:
            rows in the block and numbers of base vectors; and, sorted, the rows that had more
            partners than were kept. int64 each.
        """
        blocks = self._exact(queries[0], after) if self.cells is None else self._probe(queries[0])
        rows, columns, cut = [], [], []
        for row, column in blocks:
            scores = queries[0][row] @ self.vectors[column].T
            for query in queries[1:]:
                np.maximum(scores, query[row] @ self.vectors[column].T, out=scores)
            if isinstance(threshold, np.ndarray):
                scores -= threshold[row][:, None]
                scores -= threshold[len(queries[0]) :][column]
            else:
                scores -= threshold
            row, column = _numbers(row), _numbers(column)
            if after is not None and self.cells is None:
                scores[column <= row[:, None] + after] = -1
            r, c, more = _best(scores, partners)
            rows.append(row[r])
            columns.append(column[c])
            cut.append(row[more])
        found = [np.concatenate(part or [np.zeros(0, np.int64)]) for part in (rows, columns, cut)]
        return found[0], found[1], np.unique(found[2])

    def _exact(self, queries: np.ndarray, after: int | None) -> Iterator[tuple]:
        for left in range(after or 0, len(self.vectors), self.columns):
            yield slice(0, len(queries)), slice(left, min(left + self.columns, len(self.vectors)))

    def _probe(self, queries: np.ndarray) -> Iterator[tuple]:
        nearest = np.concatenate([self._nearest(part, PROBES) for part in _parts(queries)])
        row = np.repeat(np.arange(len(queries)), nearest.shape[1])
        order = np.argsort(nearest.ravel(), kind="stable")
        cell, starts = np.unique(nearest.ravel()[order], return_index=True)
        for number, rows in zip(cell, np.split(row[order], starts[1:]), strict=True):
            if len(self.cells[number]):
                yield rows, self.cells[number]


def _parts(vectors: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(vectors), ROWS):
        yield vectors[start : start + ROWS]


def _numbers(block: slice | np.ndarray) -> np.ndarray:
    return np.arange(block.start, block.stop) if isinstance(block, slice) else block


def _best(scores: np.ndarray, partners: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where scores are above 0, at most `partners` a row, the largest; and the rows cut."""
    hit = scores > 0
    more = np.flatnonzero(hit.sum(axis=1) > partners)
    for row in more:
        keep = np.argpartition(scores[row], -partners)[-partners:]
        hit[row] = False
        hit[row, keep] = True
    return *np.nonzero(hit), more
