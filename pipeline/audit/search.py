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

Candidates are found in blocks of one matrix product, |x - y|^2 = |x|^2 + |y|^2 - 2 xy, which
compares every pair: work grows with n^2, memory with n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pandas as pd

from pipeline.audit.descriptors import (
    MIRROR,
    ORIENTATIONS,
    SAME,
    best_shift,
    frequencies,
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
CLOSE_BATCH = 256  # pairs looked at closely at a time
KINDS = np.array(["near", "mirror", *["turn"] * 6], dtype=object)  # of the eight orientations


def find_copies(
    a: Thumbnails, b: Thumbnails | None, params: AuditParams
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find the copies within one set of thumbnails (b None), or across two.

    Args:
        a, b: the thumbnails.
        params: thresholds, and whether mirrored and turned copies are searched for.

    Returns:
        One row per pair of contents, sorted: left, right (of the other set when two are compared),
        kind (near | mirror | turn, any other of the eight orientations), score (correlation of the
        descriptor that found the pair) and by (thumbnail | structure). And content (of the left
        set), kind and by of searches that had more candidates than are kept, so that some copies
        may be missing.
    """
    left = a.comparable()
    other, right = (a, left) if b is None else (b, b.comparable())
    judged, cuts = [_judge(a, other, np.zeros((0, 3), np.int64), params)], []
    orientations = range(len(ORIENTATIONS)) if params.mirrored else [SAME]
    if not len(left) or not len(right):  # nothing was read, or all is blank
        orientations, searches = [], []
    else:
        low, detail = (
            _in_blocks(describe, other, right)
            for describe in (_thumbnail_frequencies, _structure_frequencies)
        )
        # Leaving frequencies out shrinks distances, so that no pair is lost; plus rounding.
        reach = 1 - params.min_correlation + 1e-5
        searches = [
            ("thumbnail", _thumbnail_frequencies, Vectors(low, reach, THUMBNAIL_PARTNERS)),
            (
                "structure",
                _moved_structure_frequencies,
                Vectors(detail, 1 - CANDIDATE, STRUCTURE_PARTNERS),
            ),
        ]
    # The candidates of each block are judged at once, so that no more than those are in memory.
    for start in range(0, len(left), ROWS):
        part = left[start : start + ROWS]
        found = [np.zeros((0, 3), np.int64)]
        for by, describe, vectors in searches:
            variants = describe(a, part)
            for orientation in orientations:
                queries = [_flat(orient_frequencies(low, orientation)) for low in variants]
                rows, columns, more = vectors.near(queries, after=start if b is None else None)
                turned = np.full(len(rows), orientation)
                found.append(np.stack([turned, part[rows], right[columns]], axis=1))
                cuts += [(content, KINDS[orientation], by) for content in part[more]]
        judged.append(_judge(a, other, np.unique(np.concatenate(found), axis=0), params))
    cut = pd.DataFrame(cuts, columns=["content", "kind", "by"]).astype({"content": "int64"})
    return _best_of_each(pd.concat(judged)), cut


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
        partners: near vectors kept of one query in one block, the nearest.
        columns: vectors in a block.
    """

    def __init__(self, vectors: np.ndarray, reach: float, partners: int, columns: int = COLUMNS):
        # |x - y|^2 / 2 < reach is one product: (x, -|x|^2 / 2, 1) (y, 1, reach - |y|^2 / 2) > 0.
        ones, half = np.ones(len(vectors), np.float32), _half_squares(vectors)
        self.products = np.column_stack([vectors, ones, np.float32(reach) - half])
        self.partners, self.columns = partners, columns

    def near(
        self, queries: list[np.ndarray], *, after: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the vectors near to a block of queries.

        Args:
            queries: variants of the block, each (m, d) float32; the nearest variant counts.
            after: number of the block's first row if the block is a part of the vectors: then only
                vectors after each query's own are returned.

        Returns:
            Rows in the block and numbers of vectors, one pair each; and the sorted rows that had
            more partners than are kept. int64.
        """
        ones = np.ones(len(queries[0]), np.float32)
        queries = [np.column_stack([query, -_half_squares(query), ones]) for query in queries]
        rows, columns, cut = ([np.zeros(0, np.int64)] for _ in range(3))
        for start in range(after or 0, len(self.products), self.columns):
            block = self.products[start : start + self.columns]
            score = queries[0] @ block.T
            for query in queries[1:]:
                np.maximum(score, query @ block.T, out=score)
            if after is not None:
                own = np.arange(len(score))[:, None] + after
                score[start + np.arange(len(block)) <= own] = -1
            row, column, more = _positive(score, self.partners)
            rows.append(row)
            columns.append(start + column)
            cut.append(more)
        return np.concatenate(rows), np.concatenate(columns), np.unique(np.concatenate(cut))


def _half_squares(vectors: np.ndarray) -> np.ndarray:
    return (vectors**2).sum(axis=1) / 2


def _positive(scores: np.ndarray, partners: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where scores are above 0, the `partners` largest of each row; and the rows cut."""
    hit = scores > 0
    more = np.flatnonzero(hit.sum(axis=1) > partners)
    for row in more:
        keep = np.argpartition(scores[row], -partners)[-partners:]
        hit[row] = False
        hit[row, keep] = True
    return *np.nonzero(hit), more


def _judge(a: Thumbnails, b: Thumbnails, pairs: np.ndarray, params: AuditParams) -> pd.DataFrame:
    """Look closely at candidates and keep those that are copies.

    Args:
        a, b: the sets of the left and the right contents.
        pairs: (n, 3) int64 orientation, left, right; sorted.
        params: thresholds.

    Returns:
        The columns orientation, left, right, score (float64 correlation of the thumbnails or the
        structures) and plain (whether the thumbnails are equal); a pair may appear in several
        orientations.
    """
    plain, detail = np.zeros(len(pairs)), np.zeros(len(pairs))
    for start in range(0, len(pairs), CLOSE_BATCH):
        turned, i, j = pairs[start : start + CLOSE_BATCH].T
        for orientation in np.unique(turned):
            at = np.flatnonzero(turned == orientation)
            small = unit(orient(a.plain(i[at]), orientation))
            plain[start + at] = (small.astype(float) * unit(b.plain(j[at]))).sum(axis=1)
            large = orient(_structures(a, i[at]), orientation)
            detail[start + at] = best_shift(large, _structures(b, j[at]))
    equal = (plain > params.min_correlation) & (detail > PLAUSIBLE)
    table = pd.DataFrame(pairs, columns=["orientation", "left", "right"])
    table = table.assign(score=np.where(equal, plain, detail), plain=equal)
    return table[equal | (detail > params.min_structure)]


def _structures(thumbnails: Thumbnails, contents: np.ndarray) -> np.ndarray:
    distinct, at = np.unique(contents, return_inverse=True)
    return structure(thumbnails.structure(distinct))[at]


def _best_of_each(judged: pd.DataFrame) -> pd.DataFrame:
    """Keep one row per pair.

    Equal thumbnails say more than similar structure: a mirrored slice of a head, which is nearly
    symmetric, has a similar structure unmirrored too. Then the plainest kind counts.
    """
    turned = judged["orientation"]
    order = judged.assign(
        alike=~judged["plain"], rank=turned.clip(upper=MIRROR + 1), less=-judged["score"]
    ).sort_values(["left", "right", "alike", "rank", "less", "orientation"])
    best = order.drop_duplicates(["left", "right"])
    return pd.DataFrame(
        {
            "left": best["left"],
            "right": best["right"],
            "kind": KINDS[best["orientation"]],
            "score": best["score"].clip(-1, 1),
            "by": np.where(best["plain"], "thumbnail", "structure"),
        }
    ).reset_index(drop=True)
