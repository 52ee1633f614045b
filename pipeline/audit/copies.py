"""Pairs of contents that are copies: candidates by their low frequencies, then a closer look.

Two ways lead to a pair; either is enough.
thumbnail: the 32 x 32 thumbnails correlate above `min_correlation` (re-saved, resized, brightness,
    linear contrast), and the structure does not speak against it (above `PLAUSIBLE`).
structure: the 64 x 64 structures correlate above `min_structure` at the best of all shifts of up to
    3 % of a side by quarter pixels (any contrast change, slight shifts as well).

Where the thresholds come from: 0.995 is the usual figure for thumbnails; different patients' chest
films stay below 0.975. For structure, 0.88 lies in the valley between non-copies (different
patients' chest films: none of 14.8 million pairs above it; one head examined twice: 0.885, the one
such pair seen among 6,619 brain images) and copies made of the same images (re-saved, resized,
shifted by up to 3 %, gamma, stretched: 98 of 100 above 0.91). Local equalisation (CLAHE) and
histogram equalisation of mostly black images reach lower (0.74 and more) and may be missed.
Figures: docs/audit.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from pipeline.audit.descriptors import (
    MIRROR,
    ORIENTATIONS,
    PLAIN_FREQUENCIES,
    SAME,
    STRUCTURE_FREQUENCIES,
    frequencies,
    inverse,
    orient,
    orient_frequencies,
    structure,
    unit,
)
from pipeline.audit.search import ROWS, Base
from pipeline.audit.shifts import best_shift, moved_window
from pipeline.audit.thumbnails import Thumbnails
from pipeline.config import AuditParams

CANDIDATE = 0.78  # correlation of low-frequency structure from which a pair is looked at closely
PLAUSIBLE = 0.5  # structure below which equal thumbnails are a coincidence of smooth images
MOVES = (0, -4 / 3, 4 / 3)  # of the windows searched, thumbnail pixels on either axis
THUMBNAIL_PARTNERS, STRUCTURE_PARTNERS = 128, 32  # candidates kept of an image in one block
BATCH = 256  # pairs looked at closely at a time
KINDS = np.array(["near", "mirror", *["turn"] * 6], dtype=object)  # of the eight orientations


@dataclass(frozen=True)
class Cut:
    """Contents that had more candidates than are kept, so that some copies may have been missed.

    Attributes:
        content: (n,) int64, of the left set; one may be there several times.
        kind: (n,) object: the kind of copy looked for, as in `Copies`.
        by: (n,) object: the way it was looked for.
    """

    content: np.ndarray
    kind: np.ndarray
    by: np.ndarray


NO_CUT = Cut(np.zeros(0, np.int64), np.zeros(0, object), np.zeros(0, object))


@dataclass(frozen=True)
class Copies:
    """Pairs of contents, one row a pair, sorted by left and right.

    Attributes:
        left, right: (n,) int64 contents (right of the other set when two are compared).
        kind: (n,) object: near | mirror | turn (turn = any other of the eight orientations).
        score: (n,) float64: correlation by the way that found the pair.
        by: (n,) object: thumbnail | structure.
        cut: where candidates were left out.
    """

    left: np.ndarray
    right: np.ndarray
    kind: np.ndarray
    score: np.ndarray
    by: np.ndarray
    cut: Cut = NO_CUT


@dataclass(frozen=True)
class Judged:
    """Copies among a block's candidates; a pair may be there in several orientations.

    Attributes:
        pairs: (n, 3) int64: orientation, left and right content.
        score: (n,) float64 correlation, of the thumbnails or the structures.
        by_plain: (n,) bool, the thumbnails are equal.
    """

    pairs: np.ndarray
    score: np.ndarray
    by_plain: np.ndarray


def find_copies(
    a: Thumbnails, b: Thumbnails | None, params: AuditParams, *, index: bool | None = None
) -> Copies:
    """Find the copies within one set of thumbnails (b None), or across two.

    Args:
        a, b: the thumbnails.
        params: thresholds, and whether mirrored and turned copies are looked for.
        index: force or forbid the inverted file; None = by size.
    """
    left = a.comparable()
    other, right = (a, left) if b is None else (b, b.comparable())
    if not len(left) or not len(right):  # nothing could be read, or all is blank
        return _best_of_each([])
    orientations = range(len(ORIENTATIONS)) if params.mirrored else [SAME]
    searches = {
        "thumbnail": _ByThumbnail(a, other, right, params, index),
        "structure": _ByStructure(a, other, right, params, index),
    }
    judged, cuts = [], []
    # Each block's candidates are judged at once: however many near-equal frames there are, no more
    # than a block's candidates are held.
    for start in range(0, len(left), ROWS):
        part = left[start : start + ROWS]
        after = start if b is None else None
        found = []
        for by, search in searches.items():
            for orientation, rows, columns, cut in search.candidates(part, orientations, after):
                found.append(_collect(part[rows], right[columns], orientation, within=b is None))
                cuts += [(content, KINDS[orientation], by) for content in part[cut]]
        pairs = np.unique(np.concatenate(found), axis=0)
        judged.append(_judge(a, other, pairs, params))
    content, kind, by = np.array(cuts, dtype=object).reshape(-1, 3).T
    return replace(_best_of_each(judged), cut=Cut(content.astype(np.int64), kind, by))


def _collect(i: np.ndarray, j: np.ndarray, orientation: int, *, within: bool) -> np.ndarray:
    """Return (orientation, left content, right content) rows; within one set left < right."""
    turned = np.full(len(i), orientation)
    if within:
        swap = i > j
        i, j = np.where(swap, j, i), np.where(swap, i, j)
        turned = np.where(swap, inverse(orientation), turned)
        keep = i != j
        i, j, turned = i[keep], j[keep], turned[keep]
    return np.stack([turned, i, j], axis=1)


Found = Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]
"""Orientation, rows in the block, numbers of the contents compared with, rows with too many."""


class _ByThumbnail:
    """Candidates by the low frequencies of the 32 x 32 thumbnails."""

    def __init__(self, a, other, right, params, index):
        self.a = a
        base = _gather(lambda part: self._vectors(other.plain(part)), right)
        # |x - y|^2 = 2 - 2 r >= |Px - Py|^2 for the projection P on low frequencies: whoever has
        # r above the threshold has Px.Py above (|Px|^2 + |Py|^2) / 2 - (1 - r). Nothing is lost.
        self.half = (base**2).sum(axis=(1, 2)) / 2
        self.store = Base(base.reshape(len(base), -1), index=index)
        self.slack = 1 - params.min_correlation + 1e-5  # rounding

    def _vectors(self, images: np.ndarray) -> np.ndarray:
        return frequencies(images, PLAIN_FREQUENCIES)

    def candidates(self, part: np.ndarray, orientations: Sequence[int], after: int | None) -> Found:
        coefficients = self._vectors(self.a.plain(part))
        half = (coefficients**2).sum(axis=(1, 2)) / 2 - self.slack
        threshold = np.concatenate([half, self.half]).astype(np.float32)
        for orientation in orientations:
            query = orient_frequencies(coefficients, orientation).reshape(len(part), -1)
            found = self.store.above([query], threshold, partners=THUMBNAIL_PARTNERS, after=after)
            yield orientation, *found


class _ByStructure:
    """Candidates by the low frequencies of the 64 x 64 structures, at nine shifts."""

    def __init__(self, a, other, right, params, index):
        self.a = a
        base = _gather(lambda part: self._vectors(structure(other.structure(part))), right)
        self.store = Base(base.reshape(len(base), -1), index=index)

    def _vectors(self, images: np.ndarray, down: float = 0, right: float = 0) -> np.ndarray:
        low = frequencies(moved_window(images, down, right), STRUCTURE_FREQUENCIES)
        length = np.linalg.norm(low, axis=(1, 2), keepdims=True)
        return low / np.maximum(length, 1e-6)

    def candidates(self, part: np.ndarray, orientations: Sequence[int], after: int | None) -> Found:
        detail = structure(self.a.structure(part))
        moved = [self._vectors(detail, *move) for move in product(MOVES, repeat=2)]
        for orientation in orientations:
            queries = [
                np.ascontiguousarray(orient_frequencies(v, orientation)).reshape(len(part), -1)
                for v in moved
            ]
            found = self.store.above(queries, CANDIDATE, partners=STRUCTURE_PARTNERS, after=after)
            yield orientation, *found


def _gather(make, contents: np.ndarray) -> np.ndarray:
    starts = range(0, max(len(contents), 1), ROWS)
    return np.concatenate([make(contents[start : start + ROWS]) for start in starts])


def _judge(a: Thumbnails, b: Thumbnails, pairs: np.ndarray, params: AuditParams) -> Judged:
    """Look closely at candidates (orientation, left, right), sorted; keep those that are copies."""
    plain = np.zeros(len(pairs))
    detail = np.zeros(len(pairs))
    for start in range(0, len(pairs), BATCH):
        part = slice(start, start + BATCH)
        turned, i, j = pairs[part].T
        for orientation in np.unique(turned):
            at = np.flatnonzero(turned == orientation)
            small = unit(orient(a.plain(i[at]), orientation))
            plain[start + at] = (small.astype(float) * unit(b.plain(j[at]))).sum(axis=1)
            large = orient(_structures(a, i[at]), orientation)
            detail[start + at] = best_shift(large, _structures(b, j[at]))
    by_plain = (plain > params.min_correlation) & (detail > PLAUSIBLE)
    keep = by_plain | (detail > params.min_structure)
    return Judged(pairs[keep], np.where(by_plain, plain, detail)[keep], by_plain[keep])


def _best_of_each(judged: list[Judged]) -> Copies:
    """Keep one row a pair.

    Equal thumbnails say more than alike structure: a mirrored slice of a head, which is nearly
    symmetric, is alike in structure unmirrored too. Then the plainest kind.
    """
    pairs = np.concatenate([np.zeros((0, 3), np.int64), *(one.pairs for one in judged)])
    score = np.concatenate([np.zeros(0), *(one.score for one in judged)])
    by_plain = np.concatenate([np.zeros(0, bool), *(one.by_plain for one in judged)])
    turned, i, j = pairs.T
    order = np.lexsort((turned, -score, np.minimum(turned, MIRROR + 1), ~by_plain, j, i))
    i, j = i[order], j[order]
    first = np.ones(len(i), bool)
    first[1:] = (i[1:] != i[:-1]) | (j[1:] != j[:-1])
    chosen = order[first]
    by = np.where(by_plain, "thumbnail", "structure").astype(object)
    return Copies(
        i[first], j[first], KINDS[turned[chosen]], np.clip(score[chosen], -1, 1), by[chosen]
    )


def _structures(thumbnails: Thumbnails, contents: np.ndarray) -> np.ndarray:
    distinct, at = np.unique(contents, return_inverse=True)
    return structure(thumbnails.structure(distinct))[at]
