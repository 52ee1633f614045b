"""DICOM palettes: table indices -> colours (PS3.3 C.7.6.3.1.5, C.7.6.3.1.6 and C.7.9.2)."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset

from pipeline.errors import ImageError

COLOURS = ("Red", "Green", "Blue")


def apply_palette(index: np.ndarray, dataset: Dataset, *, little: bool = True) -> np.ndarray:
    """Look up the colours of indices; those below and above a table take its ends.

    pydicom's `apply_color_lut` keeps the index in the depth of the entries, so that entry 256 of
    an 8-bit table is entry 0; it refuses 8-bit tables of odd length for their padding, and takes
    the byte offset of an indirect segment for a number of words.

    Args:
        index: integers of any shape, without unused bits.
        dataset: with a plain or a segmented table of each colour.
        little: byte order of the file.

    Returns:
        uint8, the shape of `index` and a last axis of 3.

    Raises:
        ImageError: a table is damaged or missing.
    """
    if index.dtype.kind not in "ui":
        raise ImageError("has a palette but no whole numbers", remedy="export it again")
    tables = [_table(dataset, colour, little) for colour in COLOURS]
    # Some writers keep 8-bit values in 16-bit words and call them either. The whole tables tell,
    # never one frame, which may hold dark entries only.
    deep = any(entries.max() > 255 for entries, _ in tables)
    wide = index.astype(np.int64)
    return np.stack(
        [
            (entries >> 8 if deep else entries).astype(np.uint8)[
                np.clip(wide - first, 0, entries.size - 1)
            ]
            for entries, first in tables
        ],
        axis=-1,
    )


def _table(dataset: Dataset, colour: str, little: bool) -> tuple[np.ndarray, int]:
    """Return the entries of one colour, uint16 (n), and the index of the first of them."""
    name = f"{colour}PaletteColorLookupTable"
    entries, first, bits = (int(v) for v in dataset[f"{name}Descriptor"].value)
    entries = entries & 0xFFFF or 2**16  # 65,536 does not fit, and many may be read as negative
    if first >= 2**15 and dataset.get("PixelRepresentation") == 1:
        first -= 2**16  # read as unsigned though the indices are signed
    if bits not in (8, 16):
        raise _damaged()
    if f"{name}Data" in dataset:
        raw = _in_little_endian(dataset, f"{name}Data", little)
        # What the length tells counts more than what the descriptor says. An odd number of bytes
        # is padded; of one entry both depths have two bytes.
        words = len(raw) >= 2 * entries and (entries > 1 or bits == 16)
        table = _numbers(raw, words)
    else:
        raw = _in_little_endian(dataset, f"Segmented{name}Data", little)
        table = _expand(_numbers(raw, bits == 16), bits // 8, entries)
    if table.size < entries:
        raise _damaged()
    return table[:entries], first


def _in_little_endian(dataset: Dataset, keyword: str, little: bool) -> bytes:
    """Return the bytes of an element as a little-endian file has them."""
    element = dataset[keyword]
    raw = element.value
    if not isinstance(raw, bytes):  # US: numbers already, in which 8-bit entries go by two
        return np.atleast_1d(np.asarray(raw)).astype("<u2").tobytes()
    if little or element.VR == "OB":
        return raw
    return np.frombuffer(raw[: len(raw) // 2 * 2], ">u2").astype("<u2").tobytes()


def _numbers(raw: bytes, words: bool) -> np.ndarray:
    raw = raw[: len(raw) // 2 * 2] if words else raw
    return np.frombuffer(raw, "<u2" if words else np.uint8).astype(np.uint16)


def _expand(segments: np.ndarray, width: int, entries: int) -> np.ndarray:
    """Expand a segmented table.

    Args:
        segments: opcodes, lengths and values.
        width: bytes of each, by which indirect segments count.
        entries: how many are wanted; expansion ends there.
    """
    data, table = segments.tolist(), []

    def walk(at: int, count: int | None) -> None:
        read = 0
        while at + 1 < len(data) and len(table) < entries and read != count:
            opcode, length = data[at], data[at + 1]
            at, read = at + 2, read + 1
            if opcode == 0:
                table.extend(data[at : at + length])
                at += length
            elif opcode == 1 and table and at < len(data):
                steps = np.linspace(table[-1], data[at], length + 1)[1:]
                table.extend(np.rint(steps).astype(int).tolist())
                at += 1
            elif opcode == 2 and count is None:  # one that leads to another is not allowed
                parts = data[at : at + 4 // width]
                offset = sum(part << (8 * width * i) for i, part in enumerate(parts))
                walk(offset // width, length)
                at += 4 // width
            else:
                raise _damaged()

    walk(0, None)
    return np.array(table, np.uint16)


def _damaged() -> ImageError:
    return ImageError("has a damaged palette", remedy="export it again")
