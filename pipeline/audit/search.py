"""Find copies among contents: candidates by low frequencies, then a closer look.

Two descriptors of a thumbnail lead to a pair; either is enough.
plain: the 32 x 32 thumbnail, centred and scaled to length 1, so that a dot product is Pearson's
    correlation, which ignores brightness and linear contrast. Two must correlate above
    `min_correlation`, and their structures not contradict it (above `PLAUSIBLE`).
structure: the 64 x 64 thumbnail minus its local mean, divided by its local spread (divisive
    normalisation). Gamma, histogram stretching and shading hardly change it, and the chest films
    of different patients, which correlate up to 0.97 at 32 x 32, differ in it. Two must correlate
    above `min_structure` at the best shift of up to 3 % of a side, by quarter pixels.

0.995 is the usual value for thumbnails; films of different patients stay below 0.975. 0.88 lies in
the gap between structures of non-copies and of copies; what is missed: docs/notes/audit.md.

Candidates have similar low frequencies of either (2-D DCT). The DCT is orthonormal, so that leaving
frequencies out only shrinks distances; and mirroring or turning an image by quarter turns only
moves and negates coefficients, so that the eight orientations need no second look at the image.
They are found in blocks of one matrix product, |x - y|^2 = |x|^2 + |y|^2 - 2 xy, which compares
every pair: work grows with n^2, memory with n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.fft import dctn, rfft2
from scipy.ndimage import gaussian_filter

from pipeline.audit.thumbnails import STRUCTURE_SIDE, Thumbnails
from pipeline.config import AuditParams
from pipeline.engine.cluster import DIED, Pool, in_workers, load_shared, ranges, shared
from pipeline.errors import PipelineError

CANDIDATE = 0.78  # correlation of low-frequency structure from which a pair is looked at closely
PLAUSIBLE = 0.5  # structure below which equal thumbnails are a coincidence of smooth images
SIGMA = 2.5  # pixels of the 64 x 64 thumbnail: the neighbourhood of `structure`
FLOOR = 0.1  # of the image's own spread: local spread below it counts as noise
SHIFT = 2  # pixels of the 64 x 64 thumbnail that a copy may be moved on either axis: 3 % of a side
# Half a thumbnail pixel is 0.8 % of a side. Structures are fine-grained: two that differ by half a
# pixel on both axes only correlate by about 0.8 at the nearest whole pixel, no more than
# neighbouring slices of a head do. So they are compared at every quarter of a pixel.
STEPS = 4  # shifts compared per thumbnail pixel, on either axis
SHIFTS = np.arange(-SHIFT * STEPS, SHIFT * STEPS + 1) / STEPS  # thumbnail pixels
MOVES = (0, -4 / 3, 4 / 3)  # of the windows searched for candidates, in the same unit
PLAIN_LOW, DETAIL_LOW = 8, 14  # low frequencies compared, on either axis
# Candidates kept of one content in one block: thousands of nearly equal frames must not become
# millions of pairs.
THUMBNAIL_PARTNERS, STRUCTURE_PARTNERS = 128, 32
ROWS, COLUMNS = 1024, 8192  # of a block: 32 MB of scores
FEWEST = 64  # rows of a block that a worker of an engine is given
CLOSE_BATCH = 256  # pairs looked at closely at a time
# (transpose, flip rows, flip columns), applied in that order, and the kinds of such copies. The
# first is the image as it is, the second is mirrored left-right.
ORIENTATIONS = tuple(product((False, True), repeat=3))
KINDS = np.array(["near", "mirror", *["turn"] * 6], dtype=object)


def find_copies(
    a: Thumbnails,
    b: Thumbnails | None,
    params: AuditParams,
    pool: Pool | None = None,
    path: Path | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find the copies within one set of thumbnails (b None), or across two; in the workers of
    `pool`, if there is one, which read the thumbnails from a file beside `path`.

    Returns:
        One row per pair of contents, sorted: left, right (of the other set when two are compared),
        kind (near | mirror | turn, any other of the eight orientations), score (correlation of the
        descriptor that found the pair) and by (thumbnail | structure). And content (of the left
        set) and kind of searches that had more candidates than are kept, so that some copies may be
        missing.
    """
    judged, cuts = [_judge(a, a, np.zeros((0, 3), np.int64), params)], []
    left, right = (np.flatnonzero(x.readable & ~x.blank()) for x in (a, b or a))
    if len(left) and len(right):  # else nothing was read, or all is blank
        for found, cut in _search((a, b, right, params), left, pool, path):
            judged.append(found)
            cuts += cut
    cut = pd.DataFrame(cuts, columns=["content", "kind"]).astype({"content": "int64"})
    return _best_of_each(pd.concat(judged)), cut


def _search(
    given: tuple, left: np.ndarray, pool: Pool | None, path: Path | None
) -> Iterator[tuple[pd.DataFrame, list]]:
    """Yield what `Search.copies` returns for each block, in any order; `given` are the arguments of
    `Search`."""
    if pool is None:
        search = Search(*given)
        yield from (search.copies(left[s : s + ROWS]) for s in range(0, len(left), ROWS))
        return
    with shared(given, path) as file:
        blocks = ranges(left, pool, FEWEST, ROWS)
        for _, found in in_workers(pool, SearchTask(file), blocks):
            if found is None:
                raise PipelineError(DIED, remedy="give workers more memory, and run again")
            yield found


@dataclass(frozen=True)
class SearchTask:
    """A `Task` of an engine: the copies of blocks; `file` has the arguments of `Search`."""

    file: Path

    def begin(self) -> Search:
        return Search(*load_shared(self.file))

    def run(self, search: Search, block: np.ndarray) -> tuple[pd.DataFrame, list]:
        return search.copies(block)


class Search:
    """The copies of blocks of contents among the contents `right` of the same set of thumbnails (b
    None), then the later ones only, or of another set."""

    def __init__(self, a: Thumbnails, b: Thumbnails | None, right: np.ndarray, params: AuditParams):
        self.a, self.b, self.right, self.params = a, b, right, params
        sides = PLAIN_LOW, DETAIL_LOW
        self.low, self.detail = (np.empty((len(right), n * n + 2), np.float32) for n in sides)
        # Leaving frequencies out shrinks distances, so that no pair is lost; plus rounding.
        reaches = 1 - params.min_correlation + 1e-5, 1 - CANDIDATE
        for start in range(0, len(right), ROWS):
            kinds = _low_frequencies(b or a, right[start : start + ROWS])
            for base, (vectors, *_), reach in zip(
                (self.low, self.detail), kinds, reaches, strict=True
            ):
                base[start : start + ROWS] = bases(vectors, reach)

    def copies(self, block: np.ndarray) -> tuple[pd.DataFrame, list]:
        """Return the copies (of `_judge`) of a block, and the cuts. Candidates are judged at once,
        so that no more than those of a block are in memory."""
        pairs, cut = self.candidates(block)
        return _judge(self.a, self.b or self.a, pairs, self.params), cut

    def candidates(self, block: np.ndarray) -> tuple[np.ndarray, list]:
        """Return pairs that may be copies, (n, 3) int64 orientation, left, right, sorted; and the
        cuts."""
        plains, details = _low_frequencies(self.a, block, MOVES)
        after = np.searchsorted(self.right, block[0]) if self.b is None else None
        found, cut = [np.zeros((0, 3), np.int64)], []
        for base, partners, variants in (
            (self.low, THUMBNAIL_PARTNERS, plains),
            (self.detail, STRUCTURE_PARTNERS, details),
        ):
            for orientation in range(len(ORIENTATIONS)) if self.params.mirrored else [0]:
                queries = [orient_frequencies(x, orientation) for x in variants]
                rows, columns, more = nearest(queries, base, partners, after=after)
                turned = np.full(len(rows), orientation)
                found.append(np.stack([turned, block[rows], self.right[columns]], axis=1))
                cut += [(content, KINDS[orientation]) for content in block[more]]
        return np.unique(np.concatenate(found), axis=0), cut


def _low_frequencies(
    thumbnails: Thumbnails, contents: np.ndarray, moves: Sequence[float] = (0,)
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the low frequencies of thumbnails; and of windows of their structures, one array per
    move, scaled to length 1."""
    windows, detail = [], structure(thumbnails.structure[contents])
    for down, right in product(moves, repeat=2):
        low = frequencies(moved_window(detail, down, right), DETAIL_LOW)
        length = np.linalg.norm(low, axis=(1, 2), keepdims=True)
        windows.append(low / np.maximum(length, 1e-6))
    plain = frequencies(thumbnails.plain[contents], PLAIN_LOW)
    thumbnails.forget()
    return [plain], windows


def bases(vectors: np.ndarray, reach: float) -> np.ndarray:
    """Return what `nearest` compares with: (n, d + 2) float32, of vectors (n, ...) float32.

    |x - y|^2 / 2 < reach is one product: (x, -|x|^2 / 2, 1) (y, 1, reach - |y|^2 / 2) > 0.
    """
    vectors = vectors.reshape(len(vectors), -1)
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
        queries: variants of the block, each (m, ...) float32; the nearest variant counts.
        partners: near vectors kept of one query among the `width` compared at a time.
        after: number of the block's first row if the block is a part of the vectors: then only
            vectors after each query's own are returned.

    Returns:
        int64: rows in the block and numbers of vectors, one pair each; and the rows that had more
        partners than are kept.
    """
    ones = np.ones(len(queries[0]), np.float32)
    queries = [x.reshape(len(x), -1) for x in queries]
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
    """Look closely at candidates and keep copies: orientation, left, right, score (correlation of
    the thumbnails or the structures, float64) and plain (whether the thumbnails are equal)."""
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
    """Keep one row per pair: equal thumbnails say more than similar structure (a mirrored slice of
    a head, nearly symmetric, has that unmirrored too), then the plainest kind."""
    rank = judged["orientation"].clip(upper=2)  # as it is, mirrored, turned
    order = judged.assign(alike=~judged["plain"], rank=rank, less=-judged["score"])
    order = order.sort_values(["left", "right", "alike", "rank", "less", "orientation"])
    best = order.drop_duplicates(["left", "right"], ignore_index=True)
    return best[["left", "right"]].assign(
        kind=KINDS[best["orientation"]],
        score=best["score"].clip(-1, 1),
        by=np.where(best["plain"], "thumbnail", "structure"),
    )


def orient(images: np.ndarray, orientation: int) -> np.ndarray:
    """Turn or mirror images (n, side, side) as `ORIENTATIONS[orientation]` says."""
    transpose, rows, columns = ORIENTATIONS[orientation]
    images = images.swapaxes(-1, -2) if transpose else images
    return images[..., :: -1 if rows else 1, :: -1 if columns else 1]


def unit(values: np.ndarray) -> np.ndarray:
    """Flatten (n, ...) to (n, d) float32, each centred and of length 1; constant rows become 0."""
    flat = np.asarray(values, np.float32).reshape(len(values), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.divide(flat, length, out=np.zeros_like(flat), where=length > 1e-6)


def structure(thumbnails: np.ndarray) -> np.ndarray:
    """Return the local structure of thumbnails (n, 64, 64) uint8, (n, 64, 64) float32; `FLOOR`
    keeps coding noise on an even background from counting as structure."""
    images = np.asarray(thumbnails, np.float32)
    spread = images.std(axis=(1, 2), keepdims=True)
    images = (images - images.mean(axis=(1, 2), keepdims=True)) / np.maximum(spread, 1e-6)
    scale = (0, SIGMA, SIGMA)
    detail = images - gaussian_filter(images, scale)
    energy = gaussian_filter(detail * detail, scale)
    return detail / np.sqrt(energy + FLOOR * FLOOR)


def frequencies(images: np.ndarray, count: int) -> np.ndarray:
    """Return the low DCT coefficients, `count` per axis, of images (n, side, side) of length 1:
    (n, count, count) float32; [:, 0, 0] is 0."""
    scaled = unit(images).reshape(images.shape)
    return dctn(scaled, axes=(1, 2), norm="ortho")[:, :count, :count].astype(np.float32)


def orient_frequencies(coefficients: np.ndarray, orientation: int) -> np.ndarray:
    """Return the DCT coefficients of the turned images: `frequencies(orient(x, o))` from x's."""
    transpose, rows, columns = ORIENTATIONS[orientation]
    signs = np.where(np.arange(coefficients.shape[-1]) % 2, -1, 1).astype(np.float32)
    turned = coefficients.swapaxes(-1, -2) if transpose else coefficients
    turned = turned * signs[:, None] if rows else turned
    return turned * signs if columns else turned


def best_shift(images: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """Return the highest correlation of each template's window over shifts of up to `SHIFT` pixels.

    images, templates: (n, 64, 64) float32. Returns (n,) float32; may exceed 1 slightly.
    Normalised cross-correlation, equal to skimage.feature.match_template at whole pixels. Between
    pixels the image is interpolated by its Fourier series, without blur; the length of its window
    there is interpolated from the whole pixels around.
    """
    images = np.asarray(images, np.float32)
    side = STRUCTURE_SIDE - 2 * SHIFT
    inner = np.s_[..., SHIFT:-SHIFT, SHIFT:-SHIFT]
    # Centred, so that the mean of the moving window falls out of the product; zero around it, so
    # that nothing enters from the opposite edge of the image.
    fixed = np.zeros_like(images)
    fixed[inner] = unit(templates[inner]).reshape(-1, side, side)
    product = (_DOWN @ (rfft2(images) * rfft2(fixed).conj()) @ _RIGHT).real
    total, energy = _box_sums(images, side), _box_sums(images**2, side)
    length = np.sqrt(np.maximum(energy - total**2 / side**2, 1e-6))
    return (product / (_BETWEEN @ length.astype(np.float32) @ _BETWEEN.T)).max(axis=(1, 2))


def moved_window(images: np.ndarray, down: float, right: float) -> np.ndarray:
    """Cut the window that leaves `SHIFT` pixels on each side of images (n, side, side) float32,
    moved by at most `SHIFT` pixels; between pixels by linear interpolation, a slight blur."""
    side = images.shape[-1]
    window = np.arange(SHIFT, side - SHIFT)
    rows, columns = (_between(window + move, np.arange(side)) for move in (down, right))
    return rows @ images @ columns.T


def _between(places: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the weights of linear interpolation, (places, pixels) float32."""
    return np.maximum(1 - np.abs(places[:, None] - pixels), 0).astype(np.float32)


def _waves(frequencies: np.ndarray) -> np.ndarray:
    """Return each frequency's wave at the shifts, (shifts, frequencies) complex64."""
    waves = np.exp(2j * np.pi * np.outer(SHIFTS, frequencies))
    highest = np.abs(frequencies) == 0.5  # has no phase between two pixels: its real part stays
    waves[:, highest] = waves[:, highest].real
    return waves.astype(np.complex64)


_DOWN = _waves(np.fft.fftfreq(STRUCTURE_SIDE)) / STRUCTURE_SIDE**2
_RIGHT = _waves(np.fft.rfftfreq(STRUCTURE_SIDE)).T
_RIGHT[1:-1] *= 2  # rfft2 leaves out the mirrored half of these
_BETWEEN = _between(SHIFTS, np.arange(-SHIFT, SHIFT + 1))


def _box_sums(images: np.ndarray, side: int) -> np.ndarray:
    """Return the sum over the window of `side` pixels at each place, (n, places, places)."""
    sums = np.zeros((len(images), images.shape[1] + 1, images.shape[2] + 1))
    sums[:, 1:, 1:] = images.cumsum(axis=1, dtype=float).cumsum(axis=2)
    rows = sums[:, side:] - sums[:, :-side]
    return rows[:, :, side:] - rows[:, :, :-side]
