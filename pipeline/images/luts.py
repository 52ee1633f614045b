"""DICOM look-up tables and windows: stored values -> modality values -> display values 0..1."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset

from pipeline.errors import ImageError

Span = tuple[float, float]


def apply_modality(
    values: np.ndarray, dataset: Dataset, span: Span, *, little: bool = True
) -> tuple[np.ndarray, bool, Span]:
    """Modality LUT sequence, or rescale slope and intercept (PS3.3 C.11.1).

    Args:
        values: stored values without unused bits.
        dataset: with the elements at its top level.
        span: the lowest and highest value that can be stored, whatever this frame holds.
        little: byte order of the file's tables.

    Returns:
        The values (float64 where a rescale applies), whether the map is a rising line, and the
        lowest and highest value that can come out.
    """
    sequence = dataset.get("ModalityLUTSequence")
    if sequence:
        values, bits = _look_up(values, sequence[0], span, little)
        return values, False, (0.0, 2.0**bits - 1)
    slope, intercept = (
        _number(dataset.get("RescaleSlope")),
        _number(dataset.get("RescaleIntercept")),
    )
    slope = 1.0 if slope is None or slope == 0 else slope
    intercept = intercept or 0.0
    if (slope, intercept) == (1.0, 0.0):
        return values, True, span
    low, high = sorted(end * slope + intercept for end in span)
    return values * slope + intercept, slope > 0, (low, high)


def apply_voi(
    values: np.ndarray, dataset: Dataset, span: Span, *, little: bool = True
) -> np.ndarray | None:
    """VOI LUT sequence, else the first usable window (PS3.3 C.11.2); None where there is none.

    Args:
        values: modality values.
        dataset: with the elements at its top level.
        span: the lowest and highest modality value that is possible, as `apply_modality` says.
        little: byte order of the file's tables.

    Returns:
        float64 in 0..1, same shape.
    """
    sequence = dataset.get("VOILUTSequence")
    if sequence:
        looked_up, bits = _look_up(values, sequence[0], span, little)
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
        exponent = np.clip(-4 * (values - center) / width, -700, 700)
        return 1 / (1 + np.exp(exponent))
    if function != "LINEAR_EXACT" and width > 1:  # LINEAR is not defined for a width below 1
        center, width = center - 0.5, width - 1
    return np.clip((values - center) / width + 0.5, 0, 1)


def _look_up(values: np.ndarray, item: Dataset, span: Span, little: bool) -> tuple[np.ndarray, int]:
    """Return table values and their bits; below and above the table its ends are taken."""
    entries, first, bits = (int(v) for v in item.LUTDescriptor)
    entries = entries or 2**16
    # A negative first value is often written or read as unsigned. Of the two readings that one is
    # meant whose table covers more of what can enter it; never does a frame's own range decide.
    if first >= 2**15 and _covered(first - 2**16, entries, span) > _covered(first, entries, span):
        first -= 2**16
    raw = item.LUTData
    if isinstance(raw, bytes):
        eight = len(raw) < 2 * entries
        raw = np.frombuffer(raw, np.uint8 if eight else ("<u2" if little else ">u2"))
    table = np.atleast_1d(np.asarray(raw)).astype(np.int64) & 0xFFFF
    if not 0 < entries <= table.size or not 1 <= bits <= 16:
        raise ImageError("has a damaged look-up table", remedy="export it again")
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, entries - 1)
    return table[index], bits


def _covered(first: int, entries: int, span: Span) -> float:
    return max(0.0, min(span[1], first + entries - 1) - max(span[0], first) + 1)


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
