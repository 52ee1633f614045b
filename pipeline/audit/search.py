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
How they are found among all pairs: nearest.py. Most are no copies, which a bound shows for a few
percent of the cost of their scores (`possible`). Work grows with n^2, memory with n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.fft import dct, dctn, rfft2
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from threadpoolctl import threadpool_info, threadpool_limits

from pipeline.audit.nearest import Vectors
from pipeline.audit.thumbnails import PLAIN_SIDE, STRUCTURE_SIDE, Thumbnails
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
ROWS = 1024  # of a block of queries
BLOCKS = 8  # whose candidates are judged together
FEWEST = 64  # rows of a block that a worker of an engine is given
CLOSE_BATCH = 256  # pairs looked at closely at a time
LOOKS = 1024  # contents whose `_looks` are made at a time
HIGHEST = 15  # frequency of those, of 32
MARGIN = 1e-3  # of a bound on a correlation, for rounding
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
        cores = max((of["num_threads"] for of in threadpool_info()), default=1)
        with threadpool_limits(1), ThreadPoolExecutor(cores) as threads:
            search, size = Search(*given, each=threads.map), BLOCKS * ROWS
            yield from (search.copies(left[s : s + size]) for s in range(0, len(left), size))
        return
    with shared(given, path) as file:
        blocks = ranges(left, pool, FEWEST, BLOCKS * ROWS)
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

    def __init__(
        self,
        a: Thumbnails,
        b: Thumbnails | None,
        right: np.ndarray,
        params: AuditParams,
        each: Callable = map,
    ):
        self.a, self.b, self.right, self.params, self.each = a, b, right, params, each
        # Leaving frequencies out shrinks distances, so that no pair is lost; plus rounding.
        reaches = 1 - params.min_correlation + 1e-5, 1 - CANDIDATE
        for start in range(0, len(right), ROWS):
            kinds = [kind for (kind, *_) in _low_frequencies(b or a, right[start : start + ROWS])]
            if start == 0:
                given = zip(kinds, reaches, strict=True)
                self.vectors = [Vectors(len(right), kind, reach) for kind, reach in given]
            for vectors, kind in zip(self.vectors, kinds, strict=True):
                vectors.put(start, kind)

    def copies(self, contents: np.ndarray) -> tuple[pd.DataFrame, list]:
        """Return the copies (of `_judge`) of some contents, and the cuts. Candidates are judged at
        once, so that no more than those of a few blocks are in memory."""
        blocks = (contents[at : at + ROWS] for at in range(0, len(contents), ROWS))
        pairs, cuts = zip(*map(self.candidates, blocks), strict=True)
        judged = _judge(self.a, self.b or self.a, np.concatenate(pairs), self.params)
        return judged, list(chain(*cuts))

    def candidates(self, block: np.ndarray) -> tuple[np.ndarray, list]:
        """Return pairs that may be copies, (n, 3) int64 orientation, left, right, sorted; and the
        cuts."""
        after = int(np.searchsorted(self.right, block[0])) if self.b is None else None
        how = {"after": after, "mirrored": self.params.mirrored, "each": self.each}
        found, cut = [], []
        for vectors, partners, variants in zip(
            self.vectors,
            (THUMBNAIL_PARTNERS, STRUCTURE_PARTNERS),
            _low_frequencies(self.a, block, MOVES),
            strict=True,
        ):
            near, more = vectors.near(variants, partners, **how)
            turned, rows, columns = near.T
            found.append(np.stack([turned, block[rows], self.right[columns]], axis=1))
            cut += zip(block[more[:, 1]].tolist(), KINDS[more[:, 0]], strict=True)
        return np.unique(np.concatenate(found), axis=0), cut


def _low_frequencies(
    thumbnails: Thumbnails, contents: np.ndarray, moves: Sequence[float] = (0,)
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the low frequencies of thumbnails; and of windows of their structures, which leave
    `SHIFT` pixels on each side, one array per move, scaled to length 1. Between pixels a window is
    interpolated linearly, a slight blur."""
    window = np.arange(SHIFT, STRUCTURE_SIDE - SHIFT)
    waves = dct(np.eye(len(window), dtype=np.float32), axis=0, norm="ortho")[:DETAIL_LOW]
    cut = [waves @ _between(window + move, np.arange(STRUCTURE_SIDE)) for move in moves]
    cut = np.concatenate(cut)
    low = cut @ structure(thumbnails.structure[contents], _blurred) @ cut.T
    low = low.reshape(len(contents), len(moves), DETAIL_LOW, len(moves), DETAIL_LOW)
    low[:, :, 0, :, 0] = 0
    low /= np.maximum(np.linalg.norm(low, axis=(2, 4), keepdims=True), 1e-6)
    plain = frequencies(thumbnails.plain[contents], PLAIN_LOW)
    thumbnails.forget()
    windows = product(range(len(moves)), repeat=2)
    return [plain], [low[:, down, :, right] for down, right in windows]


def _judge(a: Thumbnails, b: Thumbnails, pairs: np.ndarray, params: AuditParams) -> pd.DataFrame:
    """Look closely at candidates and keep copies: orientation, left, right, score (correlation of
    the thumbnails or the structures, float64) and plain (whether the thumbnails are equal)."""
    pairs = pairs[possible(a, b, pairs, params)]
    plain, detail = np.zeros(len(pairs)), np.zeros(len(pairs))
    for start in range(0, len(pairs), CLOSE_BATCH):
        turned, i, j = pairs[start : start + CLOSE_BATCH].T
        for orientation in np.unique(turned):
            at = np.flatnonzero(turned == orientation)
            small = unit(orient(a.plain[i[at]], orientation))
            plain[start + at] = (small.astype(float) * unit(b.plain[j[at]])).sum(axis=1)
            lefts, of = np.unique(i[at], return_inverse=True)  # often one, with many others
            large = orient(structure(a.structure[lefts]), orientation)
            rights, to = np.unique(j[at], return_inverse=True)
            detail[start + at] = best_shift(large, of, structure(b.structure[rights])[to])
    equal = (plain > params.min_correlation) & (detail > PLAUSIBLE)
    table = pd.DataFrame(pairs, columns=["orientation", "left", "right"])
    table = table.assign(score=np.where(equal, plain, detail), plain=equal)
    return table[equal | (detail > params.min_structure)]


def possible(a: Thumbnails, b: Thumbnails, pairs: np.ndarray, params: AuditParams) -> np.ndarray:
    """Return which pairs of `_judge` it may keep, (n,) bool: all but those that bounds on their
    correlations exclude.

    Those of structures are of low frequencies, in which the correlations at all shifts are a small
    product; the others add at most the product of their lengths (Cauchy-Schwarz, Parseval).
    """
    kept = np.zeros(len(pairs), bool)
    if not len(pairs):
        return kept
    lefts, i = np.unique(pairs[:, 1], return_inverse=True)
    rights, j = np.unique(pairs[:, 2], return_inverse=True)
    plain, waves, rest, shortest = _looks(a, lefts, template=False)
    group = j // LOOKS * len(ORIENTATIONS) + pairs[:, 0]
    order = np.argsort(group, kind="stable")
    ends = np.searchsorted(group[order], np.arange(group.max() + len(ORIENTATIONS) + 1))
    for start in range(0, len(rights), LOOKS):
        to_plain, to_waves, to_rest, _ = _looks(b, rights[start : start + LOOKS], template=True)
        for turned in range(len(ORIENTATIONS)):
            k = start // LOOKS * len(ORIENTATIONS) + turned
            own = order[ends[k] : ends[k + 1]]
            for at in (own[s : s + CLOSE_BATCH] for s in range(0, len(own), CLOSE_BATCH)):
                x, y = i[at], j[at] - start
                alike = (orient(plain[x], turned) * to_plain[y]).sum(axis=(1, 2))
                both = orient(waves[x], turned)[..., HIGHEST:] * to_waves[y].conj()
                both = both.reshape(-1, HIGHEST + 1) @ _RIGHT[: HIGHEST + 1]
                both = both.reshape(len(at), -1, len(SHIFTS))
                best = (_DOWN[:, _LOW] @ both).real.max(axis=(1, 2))
                best = (best + rest[x] * to_rest[y]) / shortest[x] + MARGIN
                equal = (alike > params.min_correlation - MARGIN) & (best > PLAUSIBLE)
                kept[at] = equal | (best > params.min_structure)
    return kept


def _looks(thumbnails: Thumbnails, contents: np.ndarray, *, template: bool) -> list[np.ndarray]:
    """Return of each content the unit thumbnail (n, 32, 32); of its structure, or the unit window
    of it that `best_shift` compares if it is the template, the low frequencies (n, 31, 31) complex,
    of a template the half (n, 31, 16), about the middle, so that `orient` turns them too; the
    length of the others; and the least length of a moved window."""
    made = []
    for start in range(0, len(contents), LOOKS):
        part = contents[start : start + LOOKS]
        plain = unit(thumbnails.plain[part]).reshape(len(part), PLAIN_SIDE, PLAIN_SIDE)
        detail = structure(thumbnails.structure[part], _blurred)
        shortest = np.ones(len(part), np.float32)
        if template:
            detail = _inner(detail)
        else:
            side = STRUCTURE_SIDE - 2 * SHIFT
            total, energy = _box_sums(detail, side), _box_sums(detail**2, side)
            square = np.maximum((1 - 1e-5) * energy - total**2 / side**2, 1e-6)
            shortest = np.sqrt(square.min(axis=(1, 2)))
        waves = _CENTRED @ (detail @ _CENTRED[HIGHEST:].T)
        square = np.abs(waves) ** 2
        low = (2 * square.sum(axis=(1, 2)) - square[..., 0].sum(axis=1)) / STRUCTURE_SIDE**2
        whole = (detail**2).sum(axis=(1, 2))
        rest = np.sqrt(np.maximum(whole - low, 0) + 1e-5 * whole)
        if not template:
            waves = np.concatenate([waves[:, ::-1, :0:-1].conj(), waves], axis=2)
        made.append((plain, waves, rest, shortest))
    thumbnails.forget()
    return [np.concatenate(kind) for kind in zip(*made, strict=True)]


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


def _gaussian(images: np.ndarray) -> np.ndarray:
    return gaussian_filter(images, (0, SIGMA, SIGMA))


def _blurred(images: np.ndarray) -> np.ndarray:
    """Return what `_gaussian` does but for rounding, three times as fast."""
    return _BLUR @ images @ _BLUR.T


def structure(thumbnails: np.ndarray, blurred: Callable = _gaussian) -> np.ndarray:
    """Return the local structure of thumbnails (n, 64, 64) uint8, (n, 64, 64) float32; `FLOOR`
    keeps coding noise on an even background from counting as structure."""
    images = np.asarray(thumbnails, np.float32)
    spread = images.std(axis=(1, 2), keepdims=True)
    images = (images - images.mean(axis=(1, 2), keepdims=True)) / np.maximum(spread, 1e-6)
    detail = images - blurred(images)
    return detail / np.sqrt(blurred(detail * detail) + FLOOR * FLOOR)


def frequencies(images: np.ndarray, count: int) -> np.ndarray:
    """Return the low DCT coefficients, `count` per axis, of images (n, side, side) of length 1:
    (n, count, count) float32; [:, 0, 0] is 0."""
    scaled = unit(images).reshape(images.shape)
    return dctn(scaled, axes=(1, 2), norm="ortho")[:, :count, :count].astype(np.float32)


def best_shift(images: np.ndarray, of: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """Return the highest correlation of each template's window over shifts of up to `SHIFT` pixels
    of its image.

    images (m, 64, 64), templates (n, 64, 64): float32; of (n,): number of the image of a template.
    Returns (n,) float32; may exceed 1 slightly.
    Normalised cross-correlation, equal to skimage.feature.match_template at whole pixels. Between
    pixels the image is interpolated by its Fourier series, without blur; the length of its window
    there is interpolated from the whole pixels around.
    """
    images = np.asarray(images, np.float32)
    side = STRUCTURE_SIDE - 2 * SHIFT
    product = (_DOWN @ (rfft2(images)[of] * rfft2(_inner(templates)).conj()) @ _RIGHT).real
    total, energy = _box_sums(images, side), _box_sums(images**2, side)
    length = np.sqrt(np.maximum(energy - total**2 / side**2, 1e-6))
    length = (_BETWEEN @ length.astype(np.float32) @ _BETWEEN.T)[of]
    return (product / length).max(axis=(1, 2))


def _inner(templates: np.ndarray) -> np.ndarray:
    """Return the inner windows, centred, so that the mean of a moving window falls out of the
    product, and of length 1; zero around them, so that nothing enters from the opposite edge."""
    side, inner = STRUCTURE_SIDE - 2 * SHIFT, np.s_[..., SHIFT:-SHIFT, SHIFT:-SHIFT]
    fixed = np.zeros(templates.shape, np.float32)
    fixed[inner] = unit(templates[inner]).reshape(-1, side, side)
    return fixed


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
_LOW = np.arange(-HIGHEST, HIGHEST + 1)
_CENTRED = np.outer(_LOW, np.arange(STRUCTURE_SIDE) - (STRUCTURE_SIDE - 1) / 2)
_CENTRED = np.exp(-2j * np.pi / STRUCTURE_SIDE * _CENTRED).astype(np.complex64)
_BLUR = gaussian_filter1d(np.eye(STRUCTURE_SIDE, dtype=np.float32), SIGMA, axis=0)
_BETWEEN = _between(SHIFTS, np.arange(-SHIFT, SHIFT + 1))


def _box_sums(images: np.ndarray, side: int) -> np.ndarray:
    """Return the sum over the window of `side` pixels at each place, (n, places, places)."""
    sums = np.zeros((len(images), images.shape[1] + 1, images.shape[2] + 1))
    sums[:, 1:, 1:] = images.cumsum(axis=1, dtype=float).cumsum(axis=2)
    rows = sums[:, side:] - sums[:, :-side]
    return rows[:, :, side:] - rows[:, :, :-side]
