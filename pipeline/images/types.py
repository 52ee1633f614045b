"""What the reader hands around: the size of a frame, its samples before and after normalising."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.errors import ImageError

# A frame of more pixels than this (16,384 x 16,384) is refused before it is decoded: a file of
# a few kilobytes can otherwise ask for all of the memory.
MAX_PIXELS = 2**28
MAX_FILE_BYTES = 2**32
# A volume is decompressed whole, since gzip has no random access.
MAX_VOLUME_BYTES = 2**32


DICOMDIR_REASON = "a DICOMDIR, an index of other files"  # by its name and by its content alike


class SkippedFile(ImageError):
    """A file that is no picture and does not claim to be one: a DICOMDIR, a report, junk.

    It is an `ImageError`, so that code which only asks for pixels needs one `except`; intake
    catches it first and counts it by `reason` instead of failing.
    """

    def __init__(self, reason: str, *, path: object = None):
        self.reason = reason
        super().__init__(reason, remedy="leave it out of the data set", path=path)


@dataclass(frozen=True)
class FrameInfo:
    """One frame (page, slice) of a file: its index and its upright size in pixels."""

    frame: int
    width: int
    height: int


@dataclass(frozen=True)
class Pixels:
    """Decoded, upright samples of one frame, before they become a display image.

    Attributes:
        values: (h, w) or (h, w, 3), any real dtype.
        display: the values are 8-bit display values already and are shown unchanged.
        invert: low values are bright (MONOCHROME1, MINISWHITE).
        valid: bool (h, w), False for padding, NaN and transparent pixels; None = all valid.
            Invalid pixels are left out of the range and shown black.
        alpha: float32 (h, w), the opacity from 0 to 1 by which the display values are darkened
            at last; None = opaque, or composed already.
        threshold: how a mask is cut from the values: "auto", "half" (lossy coding, so that
            ringing is no region) or "nonzero" (palette indices).
    """

    values: np.ndarray
    display: bool = False
    invert: bool = False
    valid: np.ndarray | None = None
    alpha: np.ndarray | None = None
    threshold: str = "auto"


def check_size(width: int, height: int) -> None:
    """Refuse a frame without pixels or of more than `MAX_PIXELS`, before any is decoded."""
    if width < 1 or height < 1:
        raise ImageError(f"has no pixels ({width} x {height})", remedy="export the image again")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{width} x {height} pixels are more than the limit of {MAX_PIXELS:,}",
            remedy="make it smaller or cut it into tiles, then run `pipeline data add` again",
        )
