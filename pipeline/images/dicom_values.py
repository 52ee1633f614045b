"""DICOM samples to display values: padding, modality LUT, VOI LUT or window, palette."""

from __future__ import annotations

import math

import numpy as np
from pydicom.dataset import Dataset

from pipeline.errors import ImageError

Range = tuple[float, float]
_FLOATS = {"FloatPixelData": "FloatPixel", "DoubleFloatPixelData": "DoubleFloatPixel"}
PADDING_TAGS = [
    f"{prefix}Padding{part}"
    for prefix in ("Pixel", *_FLOATS.values())
    for part in ("Value", "RangeLimit")
]
COLOURS = ("Red", "Green", "Blue")
PALETTE_TAGS = [
    f"{colour}PaletteColorLookupTable{part}"
    for colour in COLOURS
    for part in ("Descriptor", "Data")
]


def value_range(values: np.ndarray, bits: int) -> Range:
    """Return the lowest and highest value that samples of this type can have."""
    if values.dtype.kind == "f":
        return -math.inf, math.inf
    if values.dtype.kind == "i":
        return -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    return 0.0, 2.0**bits - 1


def not_padding(
    stored: np.ndarray, values: np.ndarray, bits: int, dataset: Dataset
) -> np.ndarray | None:
    """Return which pixels are not padding (PS3.3 C.7.5.1.1.2).

    Args:
        stored: (h, w) samples with their unused high bits, which a padding value may use.
        values: (h, w) samples without unused bits, sign-extended.
        bits: bits stored; unused for floats.
        dataset: holds the padding value, and the limit of the padding range if there is one.

    Returns:
        bool (h, w); None if the file has no padding value.
    """
    names = (prefix for name, prefix in _FLOATS.items() if name in dataset)
    prefix = next(names, "Pixel") if stored.dtype.kind == "f" else "Pixel"
    value = dataset.get(f"{prefix}PaddingValue")
    if value is None or (stored.dtype.kind == "f" and prefix == "Pixel"):
        return None
    limit = dataset.get(f"{prefix}PaddingRangeLimit")
    ends = [value, value if limit is None else limit]
    if stored.dtype.kind == "f":
        return _outside(stored, [stored.dtype.type(end) for end in ends])
    # Writers disagree about the sign of these elements: take their bits in the type of the pixels.
    width = stored.dtype.itemsize
    raw = [int(end) & (2 ** (8 * width) - 1) for end in ends]
    ends = used = [int(np.array(end, f"u{width}").astype(stored.dtype)) for end in raw]
    if stored.dtype.kind == "i":  # samples and padding value may differ in sign extension
        half = 2 ** (bits - 1)
        used = [end - 2 * half if half <= end < 2 * half else end for end in ends]
    return _outside(stored, ends) & _outside(values, used)


def _outside(samples: np.ndarray, ends: list) -> np.ndarray:
    return (samples < min(ends)) | (samples > max(ends))


def apply_modality(
    values: np.ndarray, dataset: Dataset, span: Range
) -> tuple[np.ndarray, bool, Range]:
    """Apply the modality LUT, or rescale slope and intercept (PS3.3 C.11.1).

    Args:
        values: stored values without unused bits.
        dataset: holds the elements at its top level.
        span: `value_range` of the samples.

    Returns:
        The values (float64 if rescaled), whether the map is linear and increasing, and the range
        of possible results.
    """
    sequence = dataset.get("ModalityLUTSequence")
    if sequence:
        values, bits = _look_up(values, sequence[0], span)
        return values, False, (0.0, 2.0**bits - 1)
    slope = _number(dataset.get("RescaleSlope")) or 1.0  # a slope of 0 is not one
    intercept = _number(dataset.get("RescaleIntercept")) or 0.0
    if (slope, intercept) == (1.0, 0.0):
        return values, True, span
    low, high = sorted(end * slope + intercept for end in span)
    return values * slope + intercept, slope > 0, (low, high)


def apply_voi(values: np.ndarray, dataset: Dataset, span: Range) -> np.ndarray | None:
    """Apply the VOI LUT, or else the first usable window (PS3.3 C.11.2).

    Args:
        values: modality values.
        dataset: holds the elements at its top level.
        span: range of possible modality values.

    Returns:
        float64 in [0, 1] of the same shape; None if the file has neither.
    """
    sequence = dataset.get("VOILUTSequence")
    if sequence:
        looked_up, bits = _look_up(values, sequence[0], span)
        return np.clip(looked_up / (2**bits - 1), 0, 1)
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    for center, width in zip(
        _numbers(dataset.get("WindowCenter")), _numbers(dataset.get("WindowWidth")), strict=False
    ):
        if center is not None and width is not None and width > 0:  # zero width shows nothing
            return _window(values.astype(np.float64), center, width, function)
    return None


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function != "LINEAR_EXACT" and width > 1:  # LINEAR is not defined for a width below 1
        center, width = center - 0.5, width - 1
    return np.clip((values - center) / width + 0.5, 0, 1)


def _look_up(values: np.ndarray, item: Dataset, span: Range) -> tuple[np.ndarray, int]:
    """Return the entries for `values`, clipped to the table, and the bits of an entry."""
    entries, first, bits = (int(v) for v in item.LUTDescriptor)
    entries = entries or 2**16
    # A negative first value is often written or read as unsigned. Take the interpretation whose
    # table covers more of the possible values; the content of a single frame must not decide.
    if first >= 2**15 and _covered(first - 2**16, entries, span) > _covered(first, entries, span):
        first -= 2**16
    raw = item.LUTData
    if isinstance(raw, bytes):
        raw = _words(raw, item) if len(raw) >= 2 * entries else np.frombuffer(raw, np.uint8)
    table = np.atleast_1d(np.asarray(raw)).astype(np.int64) & 0xFFFF
    if not 0 < entries <= table.size or not 1 <= bits <= 16:
        raise ImageError("has a damaged look-up table", remedy="export it again")
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, entries - 1)
    return table[index], bits


def _covered(first: int, entries: int, span: Range) -> float:
    return max(0.0, min(span[1], first + entries - 1) - max(span[0], first) + 1)


def apply_palette(index: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Look up the colours of palette indices (PS3.3 C.7.6.3.1.5 and C.7.6.3.1.6).

    pydicom's `apply_color_lut` wraps an index of 256 and more in an 8-bit table, and refuses
    8-bit tables of odd length.

    Args:
        index: integers of any shape, without unused bits; clipped to the table.
        dataset: holds a table of each colour. Segmented tables are not supported.

    Returns:
        uint8, the shape of `index` with a last axis of 3.

    Raises:
        ImageError: a table is segmented, damaged or missing.
    """
    if index.dtype.kind not in "ui":
        raise ImageError("has a palette but no integer samples", remedy="export it again")
    tables = [_palette(dataset, colour) for colour in COLOURS]
    # Some writers keep 8-bit entries in 16-bit words, whatever the descriptor says. The complete
    # tables decide, not one frame, which may use dark entries only.
    shift = 8 if any(entries.max() > 255 for entries, _ in tables) else 0
    wide = index.astype(np.int64)
    return np.stack(
        [
            (entries >> shift).astype(np.uint8)[np.clip(wide - first, 0, entries.size - 1)]
            for entries, first in tables
        ],
        axis=-1,
    )


def _palette(dataset: Dataset, colour: str) -> tuple[np.ndarray, int]:
    """Return the entries of one colour, uint16 (n,), and the index of the first of them."""
    name = f"{colour}PaletteColorLookupTable"
    entries, first, bits = (int(v) for v in dataset[f"{name}Descriptor"].value)
    entries = entries & 0xFFFF or 2**16  # 65,536 is written as 0, and may be read as negative
    if first >= 2**15 and dataset.get("PixelRepresentation") == 1:
        first -= 2**16  # read as unsigned although the indices are signed
    if f"{name}Data" not in dataset:
        raise ImageError(
            "has a segmented or missing palette", remedy="export it with plain palettes, or as RGB"
        )
    element = dataset[f"{name}Data"]
    raw = element.value
    if not isinstance(raw, bytes):  # read as numbers (US), which hold two 8-bit entries each
        raw = np.atleast_1d(np.asarray(raw)).astype("<u2").tobytes()
    elif element.VR != "OB":
        raw = _words(raw, dataset).astype("<u2").tobytes() + raw[len(raw) // 2 * 2 :]
    # The length is more reliable than the descriptor, except for a single entry (padded to even).
    words = len(raw) >= 2 * entries and (entries > 1 or bits == 16)
    table = (
        np.frombuffer(raw[: len(raw) // 2 * 2], "<u2") if words else np.frombuffer(raw, np.uint8)
    )
    if table.size < entries or bits not in (8, 16):
        raise ImageError("has a damaged palette", remedy="export it again")
    return table[:entries].astype(np.uint16), first


def _words(raw: bytes, dataset: Dataset) -> np.ndarray:
    """Return the 16-bit words of an element, in the byte order of the file."""
    big = dataset.original_encoding[1] is False
    return np.frombuffer(raw[: len(raw) // 2 * 2], ">u2" if big else "<u2")


def _numbers(value: object) -> list[float | None]:
    if value is None:
        return []
    many = value if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]
    return [_number(v) for v in many]


def _number(value: object) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None
