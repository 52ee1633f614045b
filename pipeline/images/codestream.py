"""Cheap checks of a compressed DICOM frame, made before a decoder sees it.

Decoders of JPEG and JPEG 2000 fill what is missing with grey or black and say nothing, and
believe the size in the stream, whatever the header promised. Both are caught here.
"""

from __future__ import annotations

from pydicom.uid import UID, RLELossless

from pipeline.errors import ImageError

_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # F7: JPEG-LS
_END = b"\xff\xd9"  # EOI of JPEG and JPEG-LS, EOC of JPEG 2000


def check_codestream(stream: bytes, syntax: UID, rows: int, columns: int) -> None:
    """Refuse a frame that is cut or of another size than the header's.

    Args:
        stream: the frame's bytes, RLE or of the JPEG family.
        syntax: transfer syntax.
        rows, columns: what the header says.
    """
    if syntax == RLELossless:
        return  # pydicom checks each segment's length
    if _END not in stream.rstrip(b"\0")[-16:]:
        raise ImageError(
            "has a compressed frame that is cut short", remedy="copy or export it again"
        )
    size = _jpeg2000_size(stream) if stream[:4] == b"\xff\x4f\xff\x51" else _jpeg_size(stream)
    if size != (rows, columns):
        raise ImageError(
            f"says {columns} x {rows}, but its compressed frame does not", remedy="export it again"
        )


def _jpeg_size(stream: bytes) -> tuple[int, int] | None:
    offset = 2
    while stream[:2] == b"\xff\xd8" and offset + 9 <= len(stream):
        if stream[offset] != 0xFF:
            return None
        marker = stream[offset + 1]
        if marker == 0xFF:  # fill byte
            offset += 1
            continue
        if marker in _START_OF_FRAME:
            height = int.from_bytes(stream[offset + 5 : offset + 7], "big")
            return height, int.from_bytes(stream[offset + 7 : offset + 9], "big")
        offset += 2 + int.from_bytes(stream[offset + 2 : offset + 4], "big")
    return None


def _jpeg2000_size(stream: bytes) -> tuple[int, int]:
    right, bottom, left, top = (
        int.from_bytes(stream[8 + 4 * i : 12 + 4 * i], "big") for i in range(4)
    )
    return bottom - top, right - left
