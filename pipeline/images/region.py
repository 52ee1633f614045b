"""Samples of a ground-truth mask to the region, by one threshold for all frames of a file.

The levels of the entire file decide, never the maximum of one frame: an almost empty slice of a
volume has the same threshold as its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

from pipeline.errors import ImageError
from pipeline.images.formats import Pixels
from pipeline.images.normalise import finite, on_black, select

HALF = 127  # of 8 bits
FEW = 16  # more levels than this, all low: labels only if they fill areas
MIDDLE = 1 / 8  # of the highest level; levels nearer to black or white may be coding noise
FLAT_SHARE = 0.5  # of the levels between, that fill 3 x 3 samples: labels, not a smooth edge

Frames = Callable[[], Iterable[Pixels]]


def extract_region(pixels: Pixels, top: float, threshold: float) -> np.ndarray:
    """Return the region of one frame, bool (h, w).

    Args:
        pixels: the frame.
        top, threshold: result of `find_threshold` for the file of the frame.

    Raises:
        ImageError: the file has no certain threshold.
    """
    if math.isnan(threshold):
        raise ImageError(
            "has neither labels nor a mask with smooth edges nor probabilities up to 1",
            remedy="save it with 0 outside and 255 (or 1) inside the region",
        )
    values, valid = _grey(pixels, top), finite(pixels)
    region = values if values.dtype == bool else values > threshold
    return region if valid is None else region & valid


def find_threshold(frames: Frames) -> tuple[float, float]:
    """Find the sample value above which samples belong to the region, for all frames of a file.

    Fractions that round to 0 or 1 are probabilities, with threshold 0.5. Of two levels the higher
    one is the region. More integer levels are labels if they fill areas, or if there are few and
    none is above 127: then everything but zero is the region. Otherwise they are the edges of a
    smooth mask, with threshold 127, or half of the file's maximum if that is above 255. JPEG and
    WebP always have the threshold 127, because of coding noise; in a palette image everything but
    black is the region. Store probabilities as floats: 8-bit ones of few low levels are labels.

    Args:
        frames: returns the frames, each time it is called.

    Returns:
        The maximum of the samples as stored (deep inverted samples are subtracted from it), and
        the threshold, NaN if the samples are none of these.
    """
    first = next(iter(frames()), None)
    if first is None or first.threshold == "nonzero":
        return 0.0, 0.0
    if first.threshold == "half":
        return 0.0, float(HALF)
    top = 0.0
    if first.invert and not first.display:
        top = max(float(select(p.values, finite(p)).max(initial=0)) for p in frames())
    levels: set[float] = set()
    whole, low, high = True, math.inf, -math.inf
    for pixels in frames():
        unique = np.unique(select(_grey(pixels, top), finite(pixels)))
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
    if (high <= HALF and len(levels) <= FEW) or _flat_share(frames, top, high) >= FLAT_SHARE:
        return top, 0.0
    if high <= HALF:
        return top, math.nan
    return top, float(HALF) if high <= 255 else high / 2


def _flat_share(frames: Frames, top: float, high: float) -> float:
    """Return the fraction of the levels between black and white that fill 3 x 3 samples."""
    between, flat = set(), set()
    for pixels in frames():
        values = _grey(pixels, top).astype(np.float64)
        middle = (values > MIDDLE * high) & (values < (1 - MIDDLE) * high)
        if pixels.valid is not None:
            middle &= pixels.valid
        same = middle & (maximum_filter(values, 3) == minimum_filter(values, 3))
        between.update(np.unique(values[middle]).tolist())
        flat.update(np.unique(values[1:-1, 1:-1][same[1:-1, 1:-1]]).tolist())
    return len(flat) / len(between) if between else 0.0


def _grey(pixels: Pixels, top: float) -> np.ndarray:
    """Return (h, w) samples, high in the region: inverted and darkened as they are displayed."""
    values = pixels.values
    if values.ndim == 3:
        values = values.max(axis=2)
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0)
    if pixels.invert and values.dtype == bool:
        values = ~values
    elif pixels.invert:
        values = np.uint8(255) - values if pixels.display else top - values
    return on_black(values, pixels.alpha)
