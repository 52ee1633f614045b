"""pydicom plugin: RLE frames through imagecodecs.

Of pydicom's own RLE plugins one is slow, and the other panics on damaged frames: it prints to the
terminal and raises a BaseException.
"""

from __future__ import annotations

import imagecodecs
import numpy as np
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import RLELossless

NAME = "imagecodecs"
HEADER = 64  # bytes
DECODER_DEPENDENCIES = {RLELossless: ("imagecodecs",)}


def is_available(uid: str) -> bool:
    """Return whether the plugin decodes a transfer syntax (called by pydicom)."""
    return uid == RLELossless


def decode_frame(src: bytes, runner: DecodeRunner) -> bytearray:
    """Return the samples of one frame, little-endian, colour by plane (called by pydicom)."""
    samples, size = runner.samples_per_pixel, runner.bits_allocated // 8
    if int.from_bytes(src[:4], "little") != samples * size:
        raise ValueError("the number of RLE segments does not fit the header")
    starts = np.frombuffer(src, "<u4", samples * size, 4).astype(np.int64)
    if starts[0] < HEADER or (np.diff([*starts, len(src)]) <= 0).any():
        # imagecodecs reads out of bounds otherwise
        raise ValueError("the RLE segments are not in order within the frame")
    frame = imagecodecs.dicomrle_decode(src, f"<u{size}")
    if len(frame) != runner.rows * runner.columns * samples * size:
        raise ValueError("the length of the RLE frame does not fit the header")
    runner.set_option("planar_configuration", 1)
    return bytearray(frame)
