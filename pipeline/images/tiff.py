"""TIFF and BigTIFF through tifffile. Pages are frames, except thumbnails, transparency masks, the
lower levels of a pyramid, and the channels of one image (OME, ImageJ)."""

from __future__ import annotations

import io
import logging
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import tifffile
from PIL import Image

from pipeline.errors import ImageError
from pipeline.images.formats import AGAIN, Pixels, check_frame, check_size
from pipeline.images.raster import ORIENTATION, split_alpha, upright

# tifffile logs unusual tags, and without a handler logging prints to the terminal.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)

REDUCED_OR_MASK = 1 | 4  # bits of NewSubfileType
MINISWHITE, MINISBLACK, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
NOT_COMPRESSED, OLD_JPEG, JPEG = 1, 6, 7  # compression; new-style JPEG decodes its own YCbCr
_HAS_END_MARKER = (JPEG, 33003, 33004, 33005, 34712)  # JPEG and JPEG 2000 segments: ff d9
ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2
SMALLER = 1.5  # times, at least: the step from one level of a pyramid to the next
SAME_PICTURE = 0.9  # correlation of two levels of a pyramid
RESAVE = "save each page as an uncompressed RGB or grey TIFF, or as PNG"


def probe(data: bytes, kind: str) -> list[tuple[int, int]]:
    """List the sizes of the pages, from their tags."""
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        sizes = []
        for page, *_ in _frames(tiff):
            check_size(page.imagewidth, page.imagelength)
            size = page.imagewidth, page.imagelength
            sizes.append(size[::-1] if _orientation(page) >= 5 else size)
        return sizes


def read(data: bytes, kind: str, frame: int) -> Pixels:
    """Decode one page: 1 to 64 bits, integer or float, any byte order and planar layout; uint8 for
    up to 8 bits per sample, palettes, CMYK and JPEG, otherwise the dtype of the file."""
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        frames = _frames(tiff)
        check_frame(frame, len(frames))
        page, *others = frames[frame]
        for one in (page, *others):
            _check_page(one, data)
        if others:
            return _composite([page, *others])
        values = page.asarray(maxworkers=1)
        if values.ndim == 3 and page.axes[:1] == "S":
            values = np.moveaxis(values, 0, 2)
        if values.shape[:2] != (page.imagelength, page.imagewidth) or values.ndim > 3:
            raise ImageError(f"has an unsupported layout {page.axes}", remedy=RESAVE)
        return _to_grey_or_rgb(page, upright(values, _orientation(page)))


def _frames(tiff: tifffile.TiffFile) -> list[list[tifffile.TiffPage]]:
    """Return the pages of each image: one, or one for each channel."""
    pages = _pages(tiff)
    known = {page.index: page for page in pages}
    frames = []
    for series in tiff.series if tiff.is_ome or tiff.is_imagej else ():
        axes = series.axes[: len(series.axes) - len(series.keyframe.shape)]
        count = series.sizes.get("channel", 1) if "C" in axes else 1
        mine = [known.get(page.index) for page in series.pages if page is not None]
        if count > 1 and len(mine) == math.prod(series.shape[: len(axes)]) and all(mine):
            if count > 3:
                what = f"has {count} channels in pages of their own"
                raise ImageError(what, remedy="merge them to RGB, or save each as an image")
            order = np.arange(len(mine)).reshape(series.shape[: len(axes)])
            order = np.moveaxis(order, axes.index("C"), -1).reshape(-1, count)
            frames += [[mine[at] for at in channels] for channels in order]
    grouped = {page.index for frame in frames for page in frame}
    return frames + [[page] for page in pages if page.index not in grouped]


def _composite(pages: list[tifffile.TiffPage]) -> Pixels:
    """Show channels as viewers do: the first red, the second green, the third blue."""
    values = [upright(page.asarray(maxworkers=1), _orientation(page)) for page in pages]
    if any(one.ndim != 2 or one.shape != values[0].shape for one in values):
        raise ImageError("has channels of different shapes", remedy=RESAVE)
    values += [np.zeros_like(values[0])] * (3 - len(values))
    return Pixels(np.stack(values, axis=-1), display=values[0].dtype == np.uint8)


def _is_pyramid(pages: list[tifffile.TiffPage]) -> bool:
    """Return whether each page is the one before it, made smaller."""
    for large, small in pairwise(pages):
        width, height = large.imagewidth, large.imagelength
        shape = abs(small.imagewidth * height - small.imagelength * width) <= max(width, height)
        if not shape or min(width / small.imagewidth, height / small.imagelength) < SMALLER:
            return False
    if len(pages) < 2 or all(page.is_tiled for page in pages):
        return len(pages) > 1
    shrunk = [_shrunk(page) for page in pages[-2:]]
    return bool(np.corrcoef(*shrunk)[0, 1] > SAME_PICTURE)


def _shrunk(page: tifffile.TiffPage) -> np.ndarray:
    """Return 8 x 8 grey levels of a page, flat."""
    check_size(page.imagewidth, page.imagelength)
    values = page.asarray(maxworkers=1).astype(np.float32)
    grey = values if values.ndim == 2 else values.mean(axis=int(np.argmin(values.shape)))
    small = Image.fromarray(grey).resize((8, 8), Image.Resampling.BOX)
    return np.asarray(small).ravel()


def _pages(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
    images = [page for page in pages if not page.subfiletype & REDUCED_OR_MASK] or pages
    if not images:
        raise ImageError("has no page", remedy=AGAIN)
    stack = (tiff.imagej_metadata or {}).get("images", 1) if tiff.is_imagej else 1
    if stack > len(pages):
        raise ImageError(f"has {stack} images in one page (an ImageJ stack)", remedy=RESAVE)
    if len(images) > 1 and (tiff.is_svs or tiff.is_ndpi or tiff.is_scn or _is_pyramid(images)):
        return images[:1]  # the others are levels, a label, and overviews
    return images


def _orientation(page: tifffile.TiffPage) -> int:
    value = page.tags.valueof(ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _check_page(page: tifffile.TiffPage, data: bytes) -> None:
    """Refuse a page that decodes to too much, or of which a part is missing (decoded as zeros)."""
    check_size(page.imagewidth, page.imagelength * page.imagedepth)
    check_size(page.imagewidth * page.samplesperpixel, page.imagelength)
    if page.is_tiled:
        check_size(page.tilewidth, page.tilelength * page.tiledepth)
    if page.imagedepth > 1:
        raise ImageError(f"has {page.imagedepth} slices in one page", remedy=RESAVE)
    offsets, counts = page.dataoffsets, page.databytecounts
    if not counts or len(offsets) != len(counts) or 0 in counts or 0 in offsets:
        raise ImageError("lacks some of its strips or tiles", remedy=AGAIN)
    segments = list(zip(offsets, counts, strict=True))
    short = max(offset + count for offset, count in segments) > len(data)
    if page.compression == NOT_COMPRESSED:
        row = -(-page.imagewidth * page.samplesperpixel * page.bitspersample // 8)
        short = short or sum(counts) < row * page.imagelength
    if page.compression in _HAS_END_MARKER:  # these decoders fill missing parts with grey
        ends = [data[max(o, o + c - 16) : o + c] for o, c in segments]
        short = short or any(b"\xff\xd9" not in end.rstrip(b"\0") for end in ends)
    if short:
        raise ImageError("is truncated", remedy=AGAIN)


def _to_grey_or_rgb(page: tifffile.TiffPage, values: np.ndarray) -> Pixels:
    """Convert the colour model of a page to grey or RGB samples."""
    lossy = "half" if page.compression in (OLD_JPEG, JPEG) else "auto"
    if page.photometric == PALETTE:
        table = page.colormap  # None raises: a palette image without its palette
        table = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
        index = values[..., 0] if values.ndim == 3 else values
        return Pixels(np.moveaxis(table[:, index], 0, 2), display=True, index=index)
    if page.photometric == CMYK and values.dtype == np.uint8 and values.shape[2:] >= (4,):
        inks = Image.fromarray(np.ascontiguousarray(values[..., :4]), mode="CMYK")
        return Pixels(np.asarray(inks.convert("RGB")), display=True, threshold=lossy)
    undecoded = page.photometric == YCBCR and page.compression != JPEG
    if undecoded or page.photometric not in (MINISWHITE, MINISBLACK, RGB, YCBCR):
        model = f"{page.photometric.name} of {values.dtype}"
        raise ImageError(f"has the colour model {model}", remedy=RESAVE)
    values, bits = _colours_and_alpha(page, values), page.bitspersample
    shallow = values.dtype == bool or (values.dtype == np.uint8 and bits <= 8)
    if values.dtype == bool:
        values = values.astype(np.uint8) * np.uint8(255)
    elif shallow and bits < 8:
        values = (values.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
    invert = page.photometric == MINISWHITE
    return replace(split_alpha(values), display=shallow, invert=invert, threshold=lossy)


def _colours_and_alpha(page: tifffile.TiffPage, values: np.ndarray) -> np.ndarray:
    """Return the colours, with their alpha as last channel if it is still to be applied."""
    if values.ndim == 2:
        return values
    channels = values.shape[2]
    colours = 3 if page.photometric in (RGB, YCBCR) or channels in (3, 4) else 1
    if channels < colours or channels > colours + 1:
        raise ImageError(f"has {channels} channels", remedy=RESAVE)
    extra = tuple(page.extrasamples)[-1:] if channels == colours + 1 else ()
    if extra == (UNASSOCIATED_ALPHA,):
        return values
    if extra == (ASSOCIATED_ALPHA,) and values.dtype in (np.uint16, np.uint32):
        # Divide by the alpha again: the display range has to be that of the opaque image.
        top, alpha = np.iinfo(values.dtype).max, values[..., -1:]
        opaque = np.rint(values[..., :-1] * (top / np.maximum(alpha, 1).astype(np.float64)))
        return np.concatenate([np.minimum(opaque, top).astype(values.dtype), alpha], axis=-1)
    return values[..., :colours] if colours == 3 else values[..., 0]
