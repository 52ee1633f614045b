"""TIFF and BigTIFF through tifffile. Pages are frames; thumbnails and transparency masks not."""

from __future__ import annotations

import io
import logging
from dataclasses import replace

import numpy as np
import tifffile
from PIL import Image

from pipeline.errors import ImageError
from pipeline.images.orientation import upright, upright_size
from pipeline.images.raster import decode_with_pillow, split_alpha
from pipeline.images.types import FrameInfo, Pixels, check_size

# tifffile reports odd tags by logging, which reaches a user's screen when nothing else is set up.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)

REDUCED_OR_MASK = 1 | 4  # bits of NewSubfileType
MINISWHITE, MINISBLACK, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
NOT_COMPRESSED, OLD_JPEG, JPEG = 1, 6, 7  # compression; new-style JPEG decodes its own YCbCr
_ENDED = (JPEG, 33003, 33004, 33005, 34712)  # JPEG and JPEG 2000 segments end in ff d9
ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2
RESAVE = "save it as an uncompressed RGB or grey TIFF, or as PNG"


def probe_tiff(data: bytes, kind: str) -> list[FrameInfo]:
    """List the pages from their tags."""
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        frames = []
        for index, page in enumerate(_pages(tiff)):
            check_size(page.imagewidth, page.imagelength)
            size = upright_size(page.imagewidth, page.imagelength, _orientation(page))
            frames.append(FrameInfo(index, *size))
        return frames


def read_tiff(data: bytes, kind: str, frame: int) -> Pixels:
    """Decode one page: 1 to 64 bits, integer or float, any byte order and planar layout.

    Args:
        data: the file's bytes.
        kind: "TIFF".
        frame: the page, counted from 0; thumbnails and transparency masks are not counted.

    Returns:
        Values of (h, w) or (h, w, 3), upright; uint8 for up to 8 bits a sample, palettes, CMYK and
        JPEG, otherwise in the dtype of the file.

    Raises:
        ImageError: no such page; an unusual layout, colour model or number of channels, a volume
            in one page, cut, or too large.
        Exception: of the decoder, for damaged bytes; `read_image` makes an ImageError of it.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        pages = _pages(tiff)
        if not 0 <= frame < len(pages):
            raise ImageError(
                f"has no page {frame}: it holds {len(pages)}", remedy="pages are 0-based"
            )
        page = pages[frame]
        _check_page(page, data)
        turn = _orientation(page)
        if page.photometric == YCBCR and page.compression != JPEG:
            return decode_with_pillow(data, "TIFF", page.index)  # chroma that tifffile leaves as is
        values = page.asarray(maxworkers=1)
        if values.ndim == 3 and page.axes[:1] == "S":
            values = np.moveaxis(values, 0, 2)
        if values.shape[:2] != (page.imagelength, page.imagewidth) or values.ndim > 3:
            raise ImageError(f"has an unusual layout {page.axes}", remedy=RESAVE)
        return _display(page, upright(values, turn))


def _display(page: tifffile.TiffPage, values: np.ndarray) -> Pixels:
    """Colour model -> grey or RGB samples."""
    lossy = "half" if page.compression in (OLD_JPEG, JPEG) else "auto"
    bits = page.bitspersample
    if page.photometric == PALETTE:
        table = page.colormap
        if table is None:
            raise ImageError("is a palette image without its palette", remedy=RESAVE)
        table = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
        index = values[..., 0] if values.ndim == 3 else values
        return Pixels(np.moveaxis(table[:, index], 0, 2), display=True, threshold="nonzero")
    if page.photometric == CMYK:
        if values.dtype != np.uint8 or values.ndim != 3 or values.shape[2] < 4:
            raise ImageError("is CMYK of more than 8 bits or fewer than 4 inks", remedy=RESAVE)
        inks = Image.fromarray(np.ascontiguousarray(values[..., :4]), mode="CMYK")
        return Pixels(np.asarray(inks.convert("RGB")), display=True, threshold=lossy)
    if page.photometric not in (MINISWHITE, MINISBLACK, RGB, YCBCR):
        raise ImageError(f"has the colour model {page.photometric.name}", remedy=RESAVE)
    values = _drop_extra(page, values)
    invert = page.photometric == MINISWHITE
    shallow = values.dtype == bool or (values.dtype == np.uint8 and bits <= 8)
    pixels = split_alpha(_eight_bit(values, bits) if shallow else values)
    return replace(pixels, display=shallow, invert=invert, threshold=lossy)


def _drop_extra(page: tifffile.TiffPage, values: np.ndarray) -> np.ndarray:
    """Keep the colours, and an alpha that is still to be applied after scaling."""
    if values.ndim == 2:
        return values
    channels = values.shape[2]
    colours = 3 if page.photometric in (RGB, YCBCR) or channels in (3, 4) else 1
    if channels < colours or channels > colours + 1:
        raise ImageError(
            f"has {channels} channels", remedy="save the channels wanted as grey or RGB"
        )
    extra = tuple(page.extrasamples)[-1:] if channels == colours + 1 else ()
    if extra == (UNASSOCIATED_ALPHA,):
        return values
    if extra == (ASSOCIATED_ALPHA,) and values.dtype in (np.uint16, np.uint32):
        return _not_multiplied(values)  # the range has to be that of the opaque picture
    return values[..., :colours] if colours == 3 else values[..., 0]


def _not_multiplied(values: np.ndarray) -> np.ndarray:
    """Divide the colours by the alpha, the last channel, that they were multiplied with."""
    top = np.iinfo(values.dtype).max
    alpha = values[..., -1:]
    colours = np.rint(values[..., :-1] * (top / np.maximum(alpha, 1).astype(np.float64)))
    return np.concatenate([np.minimum(colours, top).astype(values.dtype), alpha], axis=-1)


def _eight_bit(values: np.ndarray, bits: int) -> np.ndarray:
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if bits < 8:
        top = 2**bits - 1
        return (values.astype(np.uint16) * 255 // top).astype(np.uint8)
    return values


def _pages(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
    pictures = [page for page in pages if not page.subfiletype & REDUCED_OR_MASK] or pages
    if not pictures:
        raise ImageError("holds no page", remedy="export it again")
    stack = (tiff.imagej_metadata or {}).get("images", 1) if tiff.is_imagej else 1
    if stack > len(pages):
        raise ImageError(
            f"holds {stack} images in one page (an ImageJ stack)",
            remedy="save it as an OME or plain multi-page TIFF",
        )
    return pictures


def _orientation(page: tifffile.TiffPage) -> int:
    value = page.tags.valueof(274, 1)
    return value if value in range(1, 9) else 1


def _check_page(page: tifffile.TiffPage, data: bytes) -> None:
    """Refuse what would be decoded to more than it should, or filled up with zeros."""
    check_size(page.imagewidth, page.imagelength * page.imagedepth)
    check_size(page.imagewidth * page.samplesperpixel, page.imagelength)
    if page.is_tiled:
        check_size(page.tilewidth, page.tilelength * page.tiledepth)
    if page.imagedepth > 1:
        raise ImageError(
            f"holds {page.imagedepth} slices in one page", remedy="save one page for each slice"
        )
    offsets, counts = page.dataoffsets, page.databytecounts
    if not counts or len(offsets) != len(counts) or 0 in counts or 0 in offsets:
        raise ImageError(
            "lacks some of its strips or tiles", remedy="copy it again, or save it whole"
        )
    segments = list(zip(offsets, counts, strict=True))
    short = max(offset + count for offset, count in segments) > len(data)
    if page.compression == NOT_COMPRESSED:
        row = -(-page.imagewidth * page.samplesperpixel * page.bitspersample // 8)
        short = short or sum(counts) < row * page.imagelength
    if page.compression in _ENDED:  # their decoders fill what is missing with grey
        ends = [data[max(o, o + c - 16) : o + c] for o, c in segments]
        short = short or any(b"\xff\xd9" not in end.rstrip(b"\0") for end in ends)
    if short:
        raise ImageError("is cut short", remedy="copy or download it again")
