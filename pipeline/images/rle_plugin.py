"""RLE frames of DICOM through imagecodecs, as a plugin of pydicom.

pydicom's other RLE plugins are a slow one and one that panics on damaged frames, which prints to
the screen and is no `Exception`.
"""

from __future__ import annotations

import imagecodecs
import numpy as np
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import RLELossless

NAME = "imagecodecs"
HEADER = 64  # bytes before the first segment
DECODER_DEPENDENCIES = {RLELossless: ("imagecodecs",)}


def is_available(uid: str) -> bool:
    """Tell pydicom which transfer syntax this is for."""
    return uid == RLELossless


def decode_frame(src: bytes, runner: DecodeRunner) -> bytearray:
    """Return one frame's samples, little-endian, one colour plane after the other."""
    samples, size = runner.samples_per_pixel, runner.bits_allocated // 8
    length = runner.rows * runner.columns * samples * size
    if int.from_bytes(src[:4], "little") != samples * size:
        raise ValueError("the number of RLE segments is not that of the header")
    starts = np.frombuffer(src, "<u4", samples * size, 4).astype(np.int64)
    if starts[0] < HEADER or (np.diff([*starts, len(src)]) <= 0).any():
        # imagecodecs would read wherever the header points to.
        raise ValueError("the RLE segments do not lie one after the other in the frame")
    frame = imagecodecs.dicomrle_decode(src, f"<u{size}")
    if len(frame) != length:
        raise ValueError("the RLE frame has another length than the header says")
    runner.set_option("planar_configuration", 1)
    return bytearray(frame)
