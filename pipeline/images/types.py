"""The types that readers return, and the limits they apply before decoding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.errors import ImageError

# A file of a few kilobytes can claim any size: larger frames (16,384 x 16,384) are not decoded.
MAX_PIXELS = 2**28
MAX_FILE_BYTES = 2**32
MAX_VOLUME_BYTES = 2**32  # uncompressed; gzip has no random access

DICOMDIR_REASON = "a DICOMDIR, an index of other files"


class SkippedFile(ImageError):
    """A file that is not an image and does not claim to be one: a DICOMDIR, a report, junk.

    A subclass of `ImageError`, so code that only needs pixels handles one exception; intake
    catches it first and counts it by `reason`.
    """

    def __init__(self, reason: str, *, path: object = None):
        self.reason = reason
        super().__init__(reason, remedy="leave it out of the dataset", path=path)


@dataclass(frozen=True)
class FrameInfo:
    """One frame (page, slice) of a file: its 0-based index and its upright size in pixels."""

    frame: int
    width: int
    height: int


@dataclass(frozen=True)
class Pixels:
    """Decoded, upright samples of one frame, before conversion to a display image.

    Attributes:
        values: (h, w) or (h, w, 3), any real dtype.
        display: the values are 8-bit display values, shown unchanged.
        invert: low values are bright (MONOCHROME1, MINISWHITE).
        valid: bool (h, w), False for padding, NaN and transparent pixels; None if all are valid.
            Invalid pixels do not count for the display range and are shown black.
        alpha: float32 (h, w) opacity in [0, 1], applied to the display values; None if opaque or
            already composed.
        threshold: how a mask is thresholded: "auto", "half" (lossy coding) or "nonzero" (palette
            indices).
    """

    values: np.ndarray
    display: bool = False
    invert: bool = False
    valid: np.ndarray | None = None
    alpha: np.ndarray | None = None
    threshold: str = "auto"


def check_size(width: int, height: int) -> None:
    """Raise ImageError for a frame without pixels or of more than `MAX_PIXELS`."""
    if width < 1 or height < 1:
        raise ImageError(f"has no pixels ({width} x {height})", remedy="export the image again")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{width} x {height} pixels exceed the limit of {MAX_PIXELS:,}",
            remedy="make it smaller or cut it into tiles, then run `pipeline data add` again",
        )
