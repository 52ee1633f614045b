"""Samples of any depth to 8-bit display values, by a range that outliers do not move."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.ndimage import binary_dilation

from pipeline.errors import ImageError
from pipeline.images.formats import AGAIN, Pixels

LOW, HIGH = 0.5, 99.5  # percentiles that become 0 and 255
VOLUME_SAMPLES = 2**22  # of a volume, for its range
PLATEAU_SHARE = 0.1  # a burnt-in marker covers at most this fraction of the pixels
PLATEAU_GAP = 0.02  # its minimum distance from the rest, as a fraction of the rest's range
EDGE = 2  # pixels around a marker that anti-aliased letters blend into the image
EDGE_SHARE = 0.001  # smaller markers, edges included, are beyond the percentiles anyway
SQUARE = np.ones((3, 3), dtype=bool)  # 8-connected neighbours
FEW_LEVELS = 16  # with fewer levels it is a label map, whose highest level is not a marker
DISGUISED_SHARE = 0.99  # of the nonzero samples, to identify 8-bit values times 257 or 256


def to_display(pixels: Pixels) -> np.ndarray:
    """Return the (h, w, 3) uint8 image that a viewer shows.

    8-bit display values are unchanged. Anything else is scaled by the range of the pixels (`span`),
    or else by `display_range`, with one range for all channels, which keeps the hue. Transparency
    is composed on black; invalid pixels too.
    """
    values, valid = pixels.values, finite(pixels)
    if not pixels.display:
        values = _scale(values, valid) if pixels.span is None else _stretch(values, *pixels.span)
    if pixels.invert:
        values = 255 - values
    values = on_black(values, pixels.alpha)
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    if valid is not None:
        values = np.where(valid[..., None], values, np.uint8(0))
    return np.ascontiguousarray(values, dtype=np.uint8)


def on_black(values: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Multiply (h, w) or (h, w, 3) samples by the (h, w) opacity, keeping their dtype."""
    if alpha is None:
        return values
    shade = values * (alpha if values.ndim == 2 else alpha[..., None])
    return (np.rint(shade) if values.dtype.kind in "ui" else shade).astype(values.dtype)


def finite(pixels: Pixels) -> np.ndarray | None:
    """Return which pixels are valid and finite, bool (h, w); None for all."""
    values, valid = pixels.values, pixels.valid
    if values.dtype.kind != "f":
        return valid
    good = np.isfinite(values)
    good = good.all(axis=2) if good.ndim == 3 else good
    return good if valid is None else good & valid


def select(values: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """Return the samples of the valid pixels, (n,)."""
    return (values if valid is None else values[valid]).reshape(-1)


def display_range(values: np.ndarray, valid: np.ndarray | None = None) -> tuple[float, float]:
    """Return the (low, high) of (h, w) or (h, w, channels) samples that become black and white.

    The range is the 0.5th to the 99.5th percentile after leaving out burnt-in markers and hot or
    dead pixels: samples of the extreme value, with the anti-aliased pixels around them, if they
    are apart from the rest. If both percentiles are equal (a small object on uniform background),
    it is the range of the rest, and then of everything; for a label map (fewer than `FEW_LEVELS`
    levels) always. `valid` is bool (h, w), the pixels that count: at least one, all finite.
    """
    samples = select(values, valid)
    if _few_levels(samples):
        return float(samples.min()), float(samples.max())
    rest = select(values, _outside_markers(values, valid))
    low, high = np.percentile(rest, (LOW, HIGH), method="nearest")
    if low == high:
        low, high = rest.min(), rest.max()
    if low == high:
        low, high = samples.min(), samples.max()
    return float(low), float(high)


def volume_range(frames: Iterable[Pixels], count: int) -> tuple[float, float] | None:
    """Return the (low, high) of all `count` frames of a volume that become black and white: the
    0.5th and the 99.5th percentile; of some evenly spaced samples where there are millions. None
    if there is nothing to scale."""
    found = []
    for pixels in frames:
        if pixels.display or pixels.values.ndim != 2 or pixels.values.dtype.kind not in "uif":
            return None
        samples = select(pixels.values, finite(pixels))
        found.append(samples[:: max(1, samples.size * count // VOLUME_SAMPLES)])
    samples = np.concatenate(found) if found else np.empty(0)
    if not samples.size:
        return None
    low, high = np.percentile(samples, (LOW, HIGH), method="nearest")
    if low == high or _few_levels(samples):
        low, high = samples.min(), samples.max()
    return float(low), float(high)


def _outside_markers(values: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """Return which pixels are valid and not part of a marker, bool (h, w)."""
    kept = np.ones(values.shape[:2], bool) if valid is None else valid
    for extreme, sign in ((np.max, 1), (np.min, -1)):
        at = extreme(values[kept])
        marker = values == at
        marker = (marker.any(axis=2) if marker.ndim == 3 else marker) & kept
        total = int(kept.sum())
        for edge in (EDGE, 0) if marker.sum() >= EDGE_SHARE * total else (0,):
            others = kept & ~(binary_dilation(marker, SQUARE, edge) if edge else marker)
            if int(others.sum()) < (1 - PLATEAU_SHARE) * total:
                continue
            rest = values[others].reshape(-1)
            span = float(rest.max()) - float(rest.min())
            gap = sign * (float(at) - float(extreme(rest)))
            if gap > PLATEAU_GAP * span and not _few_levels(rest):
                kept = others
                break
    return kept


def _few_levels(samples: np.ndarray) -> bool:
    some = samples[:: max(1, samples.size // 4096)]  # avoids sorting nearly all images
    return np.unique(some).size < FEW_LEVELS and np.unique(samples).size < FEW_LEVELS


def _scale(values: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    if values.dtype.kind not in "uif":
        raise ImageError(f"has samples of type {values.dtype}", remedy="save it as real numbers")
    samples = select(values, valid)
    if samples.size == 0:
        raise ImageError("has only padding, NaN or transparent pixels", remedy=AGAIN)
    if values.dtype == np.uint16:
        # Division restores 8-bit values that a program stored as multiples exactly.
        nonzero = samples[samples > 0]
        for factor in (257, 256):
            if nonzero.size == 0 or np.mean(nonzero % factor == 0) >= DISGUISED_SHARE:
                return np.minimum(values // factor, 255).astype(np.uint8)
    return _stretch(values, *display_range(values, valid))


def _stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale samples so that `low` becomes 0 and `high` 255, uint8."""
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    # Halving first keeps the range finite for floats near the limits of their type.
    scaled = values.astype(np.float64) / 2
    scaled -= low / 2
    scaled /= high / 2 - low / 2
    np.clip(np.nan_to_num(scaled, copy=False, nan=0.0), 0, 1, out=scaled)
    return np.rint(scaled * 255).astype(np.uint8)
