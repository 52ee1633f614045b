"""Which pixels of a DICOM frame are padding: what a scanner wrote outside of its field of view."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset

_FLOATS = {"FloatPixelData": "FloatPixel", "DoubleFloatPixelData": "DoubleFloatPixel"}
PADDING_TAGS = [
    f"{prefix}Padding{part}"
    for prefix in ("Pixel", *_FLOATS.values())
    for part in ("Value", "RangeLimit")
]


def not_padding(
    stored: np.ndarray, values: np.ndarray, bits: int, dataset: Dataset
) -> np.ndarray | None:
    """Return the pixels that are no padding (PS3.3 C.7.5.1.1.2).

    Args:
        stored: (h, w) samples with their unused high bits, in which a padding value may lie.
        values: (h, w), the same without unused bits, signed ones extended.
        bits: bits stored; not used for floats.
        dataset: with the padding value, and the limit of its range if there is one.

    Returns:
        bool (h, w); None where the file names no padding value.
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
    # Files disagree about the sign of these two: take the bits in the type of the pixels.
    width = stored.dtype.itemsize
    raw = [int(end) & (2 ** (8 * width) - 1) for end in ends]
    ends = [int(np.array(end, f"u{width}").astype(stored.dtype)) for end in raw]
    # Samples may lack the extended sign that the padding value has, and the other way round.
    if stored.dtype.kind == "i":
        half = 2 ** (bits - 1)
        used = [end - 2 * half if half <= end < 2 * half else end for end in ends]
    else:
        used = ends
    return _outside(stored, ends) & _outside(values, used)


def _outside(samples: np.ndarray, ends: list) -> np.ndarray:
    return (samples < min(ends)) | (samples > max(ends))
