"""Find copies among contents: candidates by low frequencies, then a closer look.

Two descriptors lead to a pair; either is enough.
thumbnail: the 32 x 32 thumbnails correlate above `min_correlation` (re-saved, resized, brightness,
    linear contrast), and the structures do not contradict it (above `PLAUSIBLE`).
structure: the 64 x 64 structures correlate above `min_structure` at the best shift of up to 3 % of
    a side, by quarter pixels (any contrast change, slight shifts as well).

0.995 is the usual value for thumbnails; films of different patients stay below 0.975. 0.88 lies in
the gap between structures of non-copies and of copies; what is missed: docs/notes/audit.md.

Candidates are found in blocks of one matrix product, |x - y|^2 = |x|^2 + |y|^2 - 2 xy, which
compares every pair: work grows with n^2, memory with n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import pandas as pd

from pipeline.audit.descriptors import (
    ORIENTATIONS,
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

    Returns:
        One row per pair of contents, sorted: left, right (of the other set when two are compared),
        kind (near | mirror | turn, any other of the eight orientations), score (correlation of the
        descriptor that found the pair) and by (thumbnail | structure). And content (of the left
        set) and kind of searches that had more candidates than are kept, so that some copies may be
        missing.
    """
    judged, cuts = [_judge(a, a, np.zeros((0, 3), np.int64), params)], []
    # The candidates of each block are judged at once, so that no more than those are in memory.
    for pairs, cut in _candidates(a, b, params):
        judged.append(_judge(a, b or a, pairs, params))
        cuts += cut
    cut = pd.DataFrame(cuts, columns=["content", "kind"]).astype({"content": "int64"})
    return _best_of_each(pd.concat(judged)), cut


def _candidates(
    a: Thumbnails, b: Thumbnails | None, params: AuditParams
) -> Iterator[tuple[np.ndarray, list]]:
    """Yield pairs that may be copies, (n, 3) int64 orientation, left, right, sorted; and the cuts;
    of `ROWS` contents of the left set against all of the right set."""
    left, right = (np.flatnonzero(x.readable & ~x.blank()) for x in (a, b or a))
    if not len(left) or not len(right):  # nothing was read, or all is blank
        return
    low, detail = (
        np.concatenate(
            [_flat(describe(b or a, right[s : s + ROWS])[0]) for s in range(0, len(right), ROWS)]
        )
        for describe in (_thumbnail_frequencies, _structure_frequencies)
    )
    # Leaving frequencies out shrinks distances, so that no pair is lost; plus rounding.
    low, detail = bases(low, 1 - params.min_correlation + 1e-5), bases(detail, 1 - CANDIDATE)
    for start in range(0, len(left), ROWS):
        part = left[start : start + ROWS]
        found, cut = [np.zeros((0, 3), np.int64)], []
        for base, partners, variants in (
            (low, THUMBNAIL_PARTNERS, _thumbnail_frequencies(a, part)),
            (detail, STRUCTURE_PARTNERS, _structure_frequencies(a, part, MOVES)),
        ):
            for orientation in range(len(ORIENTATIONS)) if params.mirrored else [0]:
                queries = [_flat(orient_frequencies(low, orientation)) for low in variants]
                after = start if b is None else None
                rows, columns, more = nearest(queries, base, partners, after=after)
                turned = np.full(len(rows), orientation)
                found.append(np.stack([turned, part[rows], right[columns]], axis=1))
                cut += [(content, KINDS[orientation]) for content in part[more]]
        yield np.unique(np.concatenate(found), axis=0), cut


def _thumbnail_frequencies(thumbnails: Thumbnails, contents: np.ndarray) -> list[np.ndarray]:
    return [frequencies(thumbnails.plain[contents], 8)]


def _structure_frequencies(
    thumbnails: Thumbnails, contents: np.ndarray, moves: Sequence[float] = (0,)
) -> list[np.ndarray]:
    """Return the low frequencies of structure windows scaled to length 1, one array per move."""
    detail = structure(thumbnails.structure[contents])
    variants = []
    for down, right in product(moves, repeat=2):
        low = frequencies(moved_window(detail, down, right), 14)
        length = np.linalg.norm(low, axis=(1, 2), keepdims=True)
        variants.append(low / np.maximum(length, 1e-6))
    return variants


def _flat(coefficients: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(coefficients).reshape(len(coefficients), -1)


def bases(vectors: np.ndarray, reach: float) -> np.ndarray:
    """Return what `nearest` compares with: (n, d + 2) float32, of vectors (n, d) float32.

    |x - y|^2 / 2 < reach is one product: (x, -|x|^2 / 2, 1) (y, 1, reach - |y|^2 / 2) > 0.
    """
    half = (vectors**2).sum(axis=1) / 2
    return np.column_stack([vectors, np.ones_like(half), np.float32(reach) - half])


def nearest(
    queries: list[np.ndarray],
    base: np.ndarray,
    partners: int,
    *,
    after: int | None = None,
    width: int = COLUMNS,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the vectors (see `bases`) near to a block of queries.

    Args:
        queries: variants of the block, each (m, d) float32; the nearest variant counts.
        partners: near vectors kept of one query among the `width` compared at a time.
        after: number of the block's first row if the block is a part of the vectors: then only
            vectors after each query's own are returned.

    Returns:
        int64: rows in the block and numbers of vectors, one pair each; and the rows that had more
        partners than are kept.
    """
    ones = np.ones(len(queries[0]), np.float32)
    queries = [np.column_stack([x, -(x**2).sum(axis=1) / 2, ones]) for x in queries]
    found, cut = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
    for start in range(after or 0, len(base), width):
        block = base[start : start + width]
        score = queries[0] @ block.T
        for query in queries[1:]:
            np.maximum(score, query @ block.T, out=score)
        if after is not None:
            own = np.arange(len(score))[:, None] + after
            score[start + np.arange(len(block)) <= own] = -1
        hit = score > 0
        more = np.flatnonzero(hit.sum(axis=1) > partners)
        for row in more:
            hit[row] = False
            hit[row, np.argpartition(score[row], -partners)[-partners:]] = True
        found.append(np.argwhere(hit) + np.array([0, start]))
        cut.append(more)
    return *np.concatenate(found).T, np.unique(np.concatenate(cut))


def _judge(a: Thumbnails, b: Thumbnails, pairs: np.ndarray, params: AuditParams) -> pd.DataFrame:
    """Look closely at candidates and keep those that are copies, perhaps in several orientations.

    Returns:
        orientation, left, right, score (float64 correlation of the thumbnails or the structures)
        and plain (whether the thumbnails are equal).
    """
    plain, detail = np.zeros(len(pairs)), np.zeros(len(pairs))
    for start in range(0, len(pairs), CLOSE_BATCH):
        turned, i, j = pairs[start : start + CLOSE_BATCH].T
        for orientation in np.unique(turned):
            at = np.flatnonzero(turned == orientation)
            small = unit(orient(a.plain[i[at]], orientation))
            plain[start + at] = (small.astype(float) * unit(b.plain[j[at]])).sum(axis=1)
            large = orient(_structures(a, i[at]), orientation)
            detail[start + at] = best_shift(large, _structures(b, j[at]))
    equal = (plain > params.min_correlation) & (detail > PLAUSIBLE)
    table = pd.DataFrame(pairs, columns=["orientation", "left", "right"])
    table = table.assign(score=np.where(equal, plain, detail), plain=equal)
    return table[equal | (detail > params.min_structure)]


def _structures(thumbnails: Thumbnails, contents: np.ndarray) -> np.ndarray:
    distinct, at = np.unique(contents, return_inverse=True)
    return structure(thumbnails.structure[distinct])[at]


def _best_of_each(judged: pd.DataFrame) -> pd.DataFrame:
    """Keep one row per pair.

    Equal thumbnails say more than similar structure: a mirrored slice of a head, which is nearly
    symmetric, has a similar structure unmirrored too. Then the plainest kind counts.
    """
    rank = judged["orientation"].clip(upper=2)  # as it is, mirrored, turned
    order = judged.assign(alike=~judged["plain"], rank=rank, less=-judged["score"])
    order = order.sort_values(["left", "right", "alike", "rank", "less", "orientation"])
    best = order.drop_duplicates(["left", "right"], ignore_index=True)
    return best[["left", "right"]].assign(
        kind=KINDS[best["orientation"]],
        score=best["score"].clip(-1, 1),
        by=np.where(best["plain"], "thumbnail", "structure"),
    )
