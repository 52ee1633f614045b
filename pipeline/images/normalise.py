"""Samples of any depth -> 8-bit display values, by a range that a hot pixel cannot move."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation

from pipeline.errors import ImageError
from pipeline.images.types import Pixels

LOW, HIGH = 0.5, 99.5  # percentiles that become 0 and 255
PLATEAU_SHARE = 0.1  # a burnt-in marker covers at most this share of the pixels
PLATEAU_GAP = 0.02  # and lies this far outside the rest, as a share of the rest's range
EDGE = 2  # pixels around a marker that smoothed letters blend into the picture
SQUARE = np.ones((3, 3), dtype=bool)  # neighbours at the corners too
EDGE_SHARE = 0.001  # the percentiles leave out a smaller marker, its edges included
FEW_LEVELS = 16  # with fewer different values it is a label map, whose top level is no marker
BLOCK = 2**20  # samples scaled at a time, to keep the memory flat
DISGUISED_SHARE = 0.99  # of the nonzero samples, to take 16 bits for 8 bits times 257 (or 256)


def to_display(pixels: Pixels) -> np.ndarray:
    """Return the (h, w, 3) uint8 image a viewer shows.

    8-bit display values pass unchanged. All else is scaled by `display_range`, one range for
    all channels (so that hue stays), then inverted if need be, then put on black where it is
    transparent; invalid pixels become black.
    """
    values, valid = pixels.values, finite(pixels)
    if values.dtype == bool:
        values = values.astype(np.uint8) * np.uint8(255)
    elif not pixels.display:
        values = _scale(values, valid)
    if pixels.invert:
        values = 255 - values
    values = on_black(values, pixels.alpha)
    if valid is not None and not valid.all():
        values = np.where(valid if values.ndim == 2 else valid[..., None], values, np.uint8(0))
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    return np.ascontiguousarray(values, dtype=np.uint8)


def on_black(values: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Darken (h, w) or (h, w, 3) samples by the (h, w) opacity; their type stays."""
    if alpha is None:
        return values
    shade = values * (alpha if values.ndim == 2 else alpha[..., None])
    return (np.rint(shade) if values.dtype.kind in "ui" else shade).astype(values.dtype)


def remarks(pixels: Pixels) -> list[str]:
    """Say how the samples differ from plain 8-bit ones, for people."""
    values, valid = pixels.values, finite(pixels)
    found = []
    if values.dtype.kind == "f" and (bad := int((~np.isfinite(values)).sum())):
        found.append(f"{bad:,} NaN or infinite samples, shown black")
    if pixels.valid is not None and (share := 1 - float(pixels.valid.mean())):
        found.append(f"{share:.0%} padding or transparent, shown black")
    if not pixels.display and values.dtype != bool:
        samples = (values if valid is None else values[valid]).reshape(-1)
        if values.dtype == np.uint16 and (factor := _disguised(samples)):
            found.append(f"8-bit values stored as {factor} times themselves")
        else:
            low, high = display_range(values, valid)
            found.append(f"{values.dtype} samples, {low:g} to {high:g} shown as black to white")
    return found


def finite(pixels: Pixels) -> np.ndarray | None:
    """Return the bool (h, w) map of pixels that are neither padding, NaN nor infinite."""
    values, valid = pixels.values, pixels.valid
    if values.dtype.kind != "f":
        return valid
    good = np.isfinite(values)
    good = good.all(axis=2) if good.ndim == 3 else good
    return good if valid is None else good & valid


def display_range(values: np.ndarray, valid: np.ndarray | None = None) -> tuple[float, float]:
    """Return the (low, high) that become black and white.

    Args:
        values: samples, (h, w) or (h, w, channels).
        valid: bool (h, w), the pixels that count, at least one, all of them finite; None: all.

    A marker burnt in at one extreme value, its smoothed edges too (or a hot or dead pixel), is
    left out when it lies apart from the rest; then the 0.5th and 99.5th percentiles are taken.
    Where they coincide (a small object on an even ground) the range is that of the rest, then
    that of all. Of a label map (`FEW_LEVELS`) it is that of all, so that no level is lost.
    """
    samples = _samples(values, valid)
    if _few_levels(samples):
        return float(samples.min()), float(samples.max())
    rest = _samples(values, _outside_markers(values, valid))
    low, high = np.percentile(rest, (LOW, HIGH), method="nearest")
    if low == high:
        low, high = rest.min(), rest.max()
    if low == high:
        low, high = samples.min(), samples.max()
    return float(low), float(high)


def _samples(values: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    return (values if valid is None else values[valid]).reshape(-1)


def _outside_markers(values: np.ndarray, valid: np.ndarray | None) -> np.ndarray | None:
    """Return the pixels that are valid and in no marker: bool (h, w), or None for all."""
    kept = valid
    for extreme, sign in ((np.max, 1), (np.min, -1)):
        samples = _samples(values, kept)
        at = extreme(samples)
        marker = values == at
        marker = marker.any(axis=2) if marker.ndim == 3 else marker
        marker = marker if kept is None else marker & kept  # padding is no marker with edges
        total = marker.size if kept is None else int(kept.sum())
        # First with the edges that smoothed letters have, then as it stands.
        for edge in (EDGE, 0) if marker.sum() >= EDGE_SHARE * total else (0,):
            around = binary_dilation(marker, SQUARE, edge) if edge else marker
            others = ~around if kept is None else kept & ~around
            left = int(others.sum())
            if not left >= (1 - PLATEAU_SHARE) * total:
                continue
            rest = _samples(values, others)
            span = float(rest.max()) - float(rest.min())
            gap = sign * (float(at) - float(extreme(rest)))
            if gap > PLATEAU_GAP * span and not _few_levels(rest):
                kept = others
                break
    return kept


def _few_levels(values: np.ndarray) -> bool:
    sample = values[:: max(1, values.size // 4096)]  # spares the sort of nearly all images
    return np.unique(sample).size < FEW_LEVELS and np.unique(values).size < FEW_LEVELS


def _scale(values: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    if values.dtype.kind not in "uif":
        raise ImageError(f"holds samples of type {values.dtype}", remedy="save it as real numbers")
    samples = values[valid] if valid is not None else values.reshape(-1)
    if samples.size == 0:
        raise ImageError("has only padding, NaN or transparent pixels", remedy="export it again")
    samples = samples.reshape(-1)
    if values.dtype == np.uint16:
        factor = _disguised(samples)
        if factor:
            return np.minimum(values // factor, 255).astype(np.uint8)
    low, high = display_range(values, valid)
    if low == high:
        return np.zeros(values.shape, np.uint8)
    if values.dtype.kind in "ui" and values.dtype.itemsize <= 2:
        # One table look-up for each pixel: eight times less memory than floats.
        info = np.iinfo(values.dtype)
        table = _to_bytes(np.arange(info.min, info.max + 1), low, high)
        return table[values.astype(np.int32) - info.min]
    shown = np.empty(values.shape, np.uint8)
    step = max(1, BLOCK // max(1, values[0].size))
    for row in range(0, len(values), step):
        shown[row : row + step] = _to_bytes(values[row : row + step], low, high)
    return shown


def _to_bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    # Halving first keeps the span finite for floats near the limits of their type.
    scaled = (values.astype(np.float64) / 2 - low / 2) / (high / 2 - low / 2)
    return np.rint(np.clip(np.nan_to_num(scaled, nan=0.0), 0, 1) * 255).astype(np.uint8)


def _disguised(samples: np.ndarray) -> int:
    """Return 257 or 256 when 16-bit samples are 8-bit ones times that, else 0.

    Then dividing restores the 8-bit picture byte for byte, whatever wrote the file.
    """
    nonzero = samples[samples > 0]
    if nonzero.size == 0:
        return 257
    for factor in (257, 256):
        if np.mean(nonzero % factor == 0) >= DISGUISED_SHARE:
            return factor
    return 0
