"""Find copies among contents: candidates by low frequencies, then a closer look.

Two descriptors lead to a pair; either is enough.
thumbnail: the 32 x 32 thumbnails correlate above `min_correlation` (re-saved, resized, brightness,
    linear contrast), and the structures do not contradict it (above `PLAUSIBLE`).
structure: the 64 x 64 structures correlate above `min_structure` at the best shift of up to 3 % of
    a side, by quarter pixels (any contrast change, slight shifts as well).

Where the thresholds come from: 0.995 is the usual value for thumbnails; films of different patients
stay below 0.975. For structure, 0.88 lies in the gap between non-copies (films of different
patients: none of 14.8 million pairs above it; one head examined twice: 0.885, the only such pair
among 6,619 brain images) and copies made from the same images (re-saved, resized, shifted by up to
3 %, gamma, stretched: 98 of 100 above 0.91). Local equalisation (CLAHE) and histogram equalisation
of mostly black images reach less (0.74 and more) and may be missed. Figures: docs/notes/audit.md.

Candidates are found in blocks of one matrix product: |x - y|^2 = |x|^2 + |y|^2 - 2 xy. Up to
`INDEX_FROM` contents every pair is compared: work grows with n^2, memory with n. Above, an inverted
file is used (k-means cells; each vector is compared with the members of its nearest cells; Jegou et
al. 2011, "Product quantization for nearest neighbor search", section IV, without the quantizer):
with about 2 sqrt(n) cells work grows with n^1.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from sklearn.cluster import MiniBatchKMeans

from pipeline.audit.descriptors import (
    MIRROR,
    ORIENTATIONS,
    SAME,
    best_shift,
    frequencies,
    inverse,
    moved_window,
    orient,
    orient_frequencies,
    structure,
    unit,
)
from pipeline.audit.thumbnails import Thumbnails
from pipeline.config import AuditParams

CANDIDATE = 0.78  # correlation of low-frequency structure from which a pair is looked at closely
PLAUSIBLE = 0.5  # structure below which equal thumbnails are a coincidence of smooth images
MOVES = (0, -4 / 3, 4 / 3)  # of the windows searched, thumbnail pixels on either axis
# Candidates kept of one content in one block: thousands of nearly equal frames must not become
# millions of pairs.
THUMBNAIL_PARTNERS, STRUCTURE_PARTNERS = 128, 32
ROWS, COLUMNS = 1024, 8192  # of a block: 32 MB of scores
INDEX_FROM = 100_000  # contents from which the inverted file is used
CELLS = 6  # cells looked at for each vector
CLOSE_BATCH = 256  # pairs looked at closely at a time
KINDS = np.array(["near", "mirror", *["turn"] * 6], dtype=object)  # of the eight orientations

Block = slice | np.ndarray


@dataclass(frozen=True)
class Cut:
    """Contents that had more candidates than are kept, so that some copies may be missing.

    Attributes:
        content: (n,) int64, of the left set; may repeat.
        kind: (n,) object, the kind of copy searched for, as in `Copies`.
        by: (n,) object, the descriptor searched by.
    """

    content: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    kind: np.ndarray = field(default_factory=lambda: np.zeros(0, object))
    by: np.ndarray = field(default_factory=lambda: np.zeros(0, object))


@dataclass(frozen=True)
class Copies:
    """Pairs of contents that are copies, one row per pair, sorted by left and right.

    Attributes:
        left, right: (n,) int64 contents (right of the other set when two are compared).
        kind: (n,) object: near | mirror | turn (any other of the eight orientations).
        score: (n,) float64 correlation of the descriptor that found the pair.
        by: (n,) object: thumbnail | structure.
        cut: where candidates were left out.
    """

    left: np.ndarray
    right: np.ndarray
    kind: np.ndarray
    score: np.ndarray
    by: np.ndarray
    cut: Cut = field(default_factory=Cut)


def find_copies(
    a: Thumbnails, b: Thumbnails | None, params: AuditParams, *, index: bool | None = None
) -> Copies:
    """Find the copies within one set of thumbnails (b None), or across two.

    Args:
        a, b: the thumbnails.
        params: thresholds, and whether mirrored and turned copies are searched for.
        index: whether the inverted file is used; None = by size.
    """
    left = a.comparable()
    other, right = (a, left) if b is None else (b, b.comparable())
    if not len(left) or not len(right):  # nothing was read, or all is blank
        return _best_of_each([])
    orientations = range(len(ORIENTATIONS)) if params.mirrored else [SAME]
    searches = {
        "thumbnail": (
            _thumbnail_frequencies,
            # Leaving frequencies out shrinks distances, so that no pair is lost; plus rounding.
            Vectors(
                _in_blocks(_thumbnail_frequencies, other, right),
                reach=1 - params.min_correlation + 1e-5,
                partners=THUMBNAIL_PARTNERS,
                index=index,
            ),
        ),
        "structure": (
            _moved_structure_frequencies,
            Vectors(
                _in_blocks(_structure_frequencies, other, right),
                reach=1 - CANDIDATE,
                partners=STRUCTURE_PARTNERS,
                index=index,
            ),
        ),
    }
    judged, cuts = [], []
    # The candidates of each block are judged at once, so that no more than those are in memory.
    for start in range(0, len(left), ROWS):
        part = left[start : start + ROWS]
        found = []
        for by, (describe, vectors) in searches.items():
            variants = describe(a, part)
            for orientation in orientations:
                queries = [_flat(orient_frequencies(low, orientation)) for low in variants]
                rows, columns, more = vectors.near(queries, after=start if b is None else None)
                found.append(_collect(part[rows], right[columns], orientation, within=b is None))
                cuts += [(content, KINDS[orientation], by) for content in part[more]]
        judged.append(_judge(a, other, np.unique(np.concatenate(found), axis=0), params))
    content, kind, by = np.array(cuts, dtype=object).reshape(-1, 3).T
    return _best_of_each(judged, Cut(content.astype(np.int64), kind, by))


def _thumbnail_frequencies(thumbnails: Thumbnails, contents: np.ndarray) -> list[np.ndarray]:
    return [frequencies(thumbnails.plain(contents), 8)]


def _structure_frequencies(
    thumbnails: Thumbnails, contents: np.ndarray, moves: Sequence[float] = (0,)
) -> list[np.ndarray]:
    """Return the low frequencies of structure windows scaled to length 1, one array per move."""
    detail = structure(thumbnails.structure(contents))
    variants = []
    for down, right in product(moves, repeat=2):
        low = frequencies(moved_window(detail, down, right), 14)
        length = np.linalg.norm(low, axis=(1, 2), keepdims=True)
        variants.append(low / np.maximum(length, 1e-6))
    return variants


def _moved_structure_frequencies(thumbnails: Thumbnails, contents: np.ndarray) -> list[np.ndarray]:
    return _structure_frequencies(thumbnails, contents, MOVES)


def _in_blocks(describe: Callable, thumbnails: Thumbnails, contents: np.ndarray) -> np.ndarray:
    starts = range(0, len(contents), ROWS)
    return np.concatenate([_flat(describe(thumbnails, contents[s : s + ROWS])[0]) for s in starts])


def _flat(coefficients: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(coefficients).reshape(len(coefficients), -1)


class Vectors:
    """Vectors to compare blocks of queries with.

    Args:
        vectors: (n, d) float32.
        reach: half the squared distance below which two vectors are near.
        partners: near vectors kept of one query in one block or cell, the nearest.
        index: use the inverted file; None = from `INDEX_FROM` vectors on.
        columns: vectors in a block.
        seed: of the k-means.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        *,
        reach: float,
        partners: int,
        index: bool | None = None,
        columns: int = COLUMNS,
        seed: int = 0,
    ):
        # |x - y|^2 / 2 < reach is one product: (x, -|x|^2 / 2, 1) (y, 1, reach - |y|^2 / 2) > 0.
        n = len(vectors)
        half = _half_squares(vectors)
        self.vectors = vectors
        self.products = np.column_stack([vectors, np.ones(n, np.float32), np.float32(reach) - half])
        self.partners, self.columns = partners, columns
        self.cells: list[np.ndarray] | None = None
        if n >= INDEX_FROM if index is None else index:
            self._make_cells(seed)

    def _make_cells(self, seed: int) -> None:
        count = max(1, int(2 * np.sqrt(len(self.vectors))))
        rng = np.random.default_rng(seed)
        sample = rng.choice(len(self.vectors), min(len(self.vectors), 40 * count), replace=False)
        means = MiniBatchKMeans(
            count, random_state=seed, n_init=1, max_iter=20, batch_size=4096, init="random"
        ).fit(self.vectors[np.sort(sample)])
        self.centres = means.cluster_centers_.astype(np.float32)
        parts = [self.vectors[s : s + ROWS] for s in range(0, len(self.vectors), ROWS)]
        own = np.concatenate([self._nearest_cells(part, 1)[:, 0] for part in parts])
        order = np.argsort(own, kind="stable")
        self.cells = np.split(order, np.cumsum(np.bincount(own, minlength=count))[:-1])

    def _nearest_cells(self, vectors: np.ndarray, count: int) -> np.ndarray:
        """Return the numbers of the nearest cells, (n, count)."""
        distance = (self.centres**2).sum(axis=1) - 2 * vectors @ self.centres.T
        count = min(count, len(self.centres))
        return np.argpartition(distance, count - 1, axis=1)[:, :count]

    def near(
        self, queries: list[np.ndarray], *, after: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the vectors near to a block of queries.

        Args:
            queries: variants of the block, each (m, d) float32; the nearest variant counts.
            after: number of the block's first row if the block is a part of the vectors: then only
                vectors after each query's own are returned. The inverted file ignores it.

        Returns:
            Rows in the block and numbers of vectors, one pair each; and the sorted rows that had
            more partners than are kept. int64.
        """
        ones = np.ones(len(queries[0]), np.float32)
        queries = [np.column_stack([query, -_half_squares(query), ones]) for query in queries]
        rows, columns, cut = [], [], []
        for row, column in self._blocks(queries[0], after):
            score = queries[0][row] @ self.products[column].T
            for query in queries[1:]:
                np.maximum(score, query[row] @ self.products[column].T, out=score)
            row, column = _numbers(row), _numbers(column)
            if after is not None and self.cells is None:
                score[column <= row[:, None] + after] = -1
            r, c, more = _positive(score, self.partners)
            rows.append(row[r])
            columns.append(column[c])
            cut.append(row[more])
        found = [np.concatenate(part or [np.zeros(0, np.int64)]) for part in (rows, columns, cut)]
        return found[0], found[1], np.unique(found[2])

    def _blocks(self, queries: np.ndarray, after: int | None) -> Iterator[tuple[Block, Block]]:
        """Yield the blocks to compare; with an inverted file, the queries near each cell."""
        if self.cells is None:
            for left in range(after or 0, len(self.vectors), self.columns):
                right = min(left + self.columns, len(self.vectors))
                yield slice(0, len(queries)), slice(left, right)
            return
        nearest = self._nearest_cells(queries[:, :-2], CELLS)
        row = np.repeat(np.arange(len(queries)), nearest.shape[1])
        order = np.argsort(nearest.ravel(), kind="stable")
        cell, starts = np.unique(nearest.ravel()[order], return_index=True)
        for number, rows in zip(cell, np.split(row[order], starts[1:]), strict=True):
            if len(self.cells[number]):
                yield rows, self.cells[number]


def _half_squares(vectors: np.ndarray) -> np.ndarray:
    return (vectors**2).sum(axis=1) / 2


def _numbers(block: Block) -> np.ndarray:
    return np.arange(block.start, block.stop) if isinstance(block, slice) else block


def _positive(scores: np.ndarray, partners: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where scores are above 0, the `partners` largest of each row; and the rows cut."""
    hit = scores > 0
    more = np.flatnonzero(hit.sum(axis=1) > partners)
    for row in more:
        keep = np.argpartition(scores[row], -partners)[-partners:]
        hit[row] = False
        hit[row, keep] = True
    return *np.nonzero(hit), more


def _collect(i: np.ndarray, j: np.ndarray, orientation: int, *, within: bool) -> np.ndarray:
    """Return rows (orientation, left content, right content); within one set left < right."""
    turned = np.full(len(i), orientation)
    if within:
        swap = i > j
        i, j = np.where(swap, j, i), np.where(swap, i, j)
        turned = np.where(swap, inverse(orientation), turned)
        keep = i != j
        i, j, turned = i[keep], j[keep], turned[keep]
    return np.stack([turned, i, j], axis=1)


@dataclass(frozen=True)
class Judged:
    """Copies among a block's candidates; a pair may appear in several orientations.

    Attributes:
        pairs: (n, 3) int64: orientation, left and right content.
        score: (n,) float64 correlation of the thumbnails or the structures.
        by_plain: (n,) bool, whether the thumbnails are equal.
    """

    pairs: np.ndarray
    score: np.ndarray
    by_plain: np.ndarray


def _judge(a: Thumbnails, b: Thumbnails, pairs: np.ndarray, params: AuditParams) -> Judged:
    """Look closely at candidates (orientation, left, right), sorted; keep those that are copies."""
    plain, detail = np.zeros(len(pairs)), np.zeros(len(pairs))
    for start in range(0, len(pairs), CLOSE_BATCH):
        turned, i, j = pairs[start : start + CLOSE_BATCH].T
        for orientation in np.unique(turned):
            at = np.flatnonzero(turned == orientation)
            small = unit(orient(a.plain(i[at]), orientation))
            plain[start + at] = (small.astype(float) * unit(b.plain(j[at]))).sum(axis=1)
            large = orient(_structures(a, i[at]), orientation)
            detail[start + at] = best_shift(large, _structures(b, j[at]))
    by_plain = (plain > params.min_correlation) & (detail > PLAUSIBLE)
    keep = by_plain | (detail > params.min_structure)
    return Judged(pairs[keep], np.where(by_plain, plain, detail)[keep], by_plain[keep])


def _structures(thumbnails: Thumbnails, contents: np.ndarray) -> np.ndarray:
    distinct, at = np.unique(contents, return_inverse=True)
    return structure(thumbnails.structure(distinct))[at]


def _best_of_each(judged: list[Judged], cut: Cut | None = None) -> Copies:
    """Keep one row per pair.

    Equal thumbnails say more than similar structure: a mirrored slice of a head, which is nearly
    symmetric, has a similar structure unmirrored too. Then the plainest kind counts.
    """
    pairs = np.concatenate([np.zeros((0, 3), np.int64), *(one.pairs for one in judged)])
    score = np.concatenate([np.zeros(0), *(one.score for one in judged)])
    by_plain = np.concatenate([np.zeros(0, bool), *(one.by_plain for one in judged)])
    turned, i, j = pairs.T
    order = np.lexsort((turned, -score, np.minimum(turned, MIRROR + 1), ~by_plain, j, i))
    i, j = i[order], j[order]
    first = np.ones(len(i), bool)
    first[1:] = (i[1:] != i[:-1]) | (j[1:] != j[:-1])
    best = order[first]
    by = np.where(by_plain, "thumbnail", "structure").astype(object)[best]
    scores = np.clip(score[best], -1, 1)
    return Copies(i[first], j[first], KINDS[turned[best]], scores, by, cut or Cut())
