"""Samples of a ground-truth mask -> the region, by one cut for all frames of a file.

The levels of the whole file decide, never the brightest sample of one frame: an almost empty
slice of a volume is cut where its neighbours are.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterable

import numpy as np

from pipeline.errors import ImageError
from pipeline.images import normalise
from pipeline.images.types import Pixels

HALF = 127  # of 8 bits
FEW = 16  # more levels than these, and all low: labels only if they fill areas
MIDDLE = 1 / 8  # of the largest level; what is nearer to black or white may be coding noise
FLAT_SHARE = 0.5  # of the levels between, that fill 3 x 3 samples: labels, not a smooth edge
KEEP = 64  # cuts of files that are remembered, for their next frame

Frames = Callable[[], Iterable[Pixels]]


class Cuts:
    """Finds the cut of a file, and remembers those of files of many frames."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[bytes, tuple[float, float]] = {}

    def __call__(self, data: bytes, frames: Frames) -> tuple[float, float]:
        """Return (top, cut) as `find_cut` does.

        Args:
            data: the file's bytes.
            frames: reads all frames of it that can be read.
        """
        key = hashlib.blake2b(data, digest_size=16).digest()
        with self._lock:  # threads that want frames of one file wait for one scan
            if key not in self._known:
                found = find_cut(frames)
                while len(self._known) >= KEEP:
                    del self._known[next(iter(self._known))]
                self._known[key] = found
            return self._known[key]


def cut_region(pixels: Pixels, top: float, cut: float) -> np.ndarray:
    """Return the region of one frame, bool (h, w).

    Args:
        pixels: the frame.
        top, cut: what `find_cut` says of the frame's file.

    Raises:
        ImageError: the file has no cut that is certain.
    """
    if math.isnan(cut):
        raise ImageError(
            "holds neither labels nor a mask with smooth edges nor probabilities up to 1",
            remedy="save it with 0 outside and 255 (or 1) inside the region",
        )
    values = _grey(pixels, top)
    region = values if values.dtype == bool else values > cut
    valid = normalise.finite(pixels)
    return region if valid is None else region & valid


def find_cut(frames: Frames) -> tuple[float, float]:
    """Find the sample value above which all frames of a file are cut.

    Fractions that round to 0 or 1 are probabilities, cut at 0.5. Of a file of two levels the
    upper one is the region. Of more whole levels, those that fill areas are labels, and all but
    zero count, as they do where none is above 127; else they are the edges of a smooth mask, cut
    at 127, or above 255 at half of the file's largest.

    Args:
        frames: yields the frames, each time it is called.

    Returns:
        The largest sample as stored, which inverted deep samples are taken from; and the cut, NaN
        where the samples are none of these.
    """
    first = next(iter(frames()), None)
    if first is None or first.threshold == "nonzero":
        return 0.0, 0.0
    if first.threshold == "half":
        return 0.0, float(HALF)
    top = 0.0
    if first.invert and not first.display:
        top = max(float(_samples(p, p.values).max(initial=0)) for p in frames())
    levels: set[float] = set()
    whole, low, high = True, math.inf, -math.inf
    for pixels in frames():
        unique = np.unique(_samples(pixels, _grey(pixels, top)))
        if unique.size:
            low, high = min(low, float(unique[0])), max(high, float(unique[-1]))
        if len(levels) <= FEW:
            levels.update(unique[: FEW + 1].astype(float).tolist())
        whole = whole and (unique.dtype.kind != "f" or bool((unique == np.rint(unique)).all()))
    if not whole and low >= -0.5 and high < 1.5:
        return top, 0.5
    if len(levels) <= 2:
        return top, low if len(levels) == 2 else 0.0
    if not whole:
        return top, float(HALF) if low >= 0 and HALF < high <= 255 else math.nan
    if high <= HALF and len(levels) <= FEW:
        return top, 0.0
    if _flat_share(frames, top, high) >= FLAT_SHARE:
        return top, 0.0
    if high <= HALF:
        return top, math.nan
    return top, float(HALF) if high <= 255 else high / 2


def _flat_share(frames: Frames, top: float, high: float) -> float:
    """Return which share of the levels between black and white fills 3 x 3 samples somewhere."""
    between, flat = set(), set()
    for pixels in frames():
        values = _grey(pixels, top)
        middle = (values > MIDDLE * high) & (values < (1 - MIDDLE) * high)
        if pixels.valid is not None:
            middle &= pixels.valid
        between.update(np.unique(values[middle]).tolist())
        rows, columns = values.shape
        inner = values[1:-1, 1:-1]
        same = middle[1:-1, 1:-1].copy()
        for y in range(3):
            for x in range(3):
                same &= values[y : rows - 2 + y, x : columns - 2 + x] == inner
        flat.update(np.unique(inner[same]).tolist())
    return len(flat) / len(between) if between else 0.0


def _samples(pixels: Pixels, values: np.ndarray) -> np.ndarray:
    valid = normalise.finite(pixels)
    return (values if valid is None else values[valid]).reshape(-1)


def _grey(pixels: Pixels, top: float) -> np.ndarray:
    """Return (h, w) samples, bright in the region: inverted, and darkened by their alpha."""
    values = pixels.values
    if values.ndim == 3:
        values = values.max(axis=2)
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0)
    if pixels.invert and values.dtype == bool:
        values = ~values
    elif pixels.invert:
        values = np.uint8(255) - values if pixels.display else top - values
    return normalise.on_black(values, pixels.alpha)
