"""PNG, JPEG, BMP, WebP, GIF and PPM through Pillow; 16-bit PNG through libpng (imagecodecs)."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFile

from pipeline.errors import ImageError
from pipeline.images.formats import AGAIN, Pixels, check_frame, check_size

ORIENTATION = 274  # EXIF and TIFF tag

# `check_size` limits the size before decoding. `warnings.catch_warnings` is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation, 1 to 8, to stored pixels (h, w) or (h, w, c)."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return np.ascontiguousarray(values)


def probe(data: bytes, kind: str) -> list[tuple[int, int]]:
    """Read the size from the header."""
    image = _open(data, kind)
    return [image.size[::-1] if _orientation(image, data) >= 5 else image.size]


def read(data: bytes, kind: str, frame: int) -> Pixels:
    """Decode to uint8, transparency composed on black; a 16-bit PNG to uint16 and its alpha."""
    check_frame(frame, 1)
    image = _open(data, kind)
    turn = _orientation(image, data)
    if kind == "PNG":
        _check_png(data)
        if data[24] == 16:  # Pillow reduces 16-bit colours to their high byte
            import imagecodecs

            return split_alpha(upright(imagecodecs.png_decode(data), turn))
        hidden = image.info.get("transparency")
        if data[24:26] in (b"\2\0", b"\4\0") and isinstance(hidden, int):
            # Pillow scales grey samples of 2 and 4 bits to 8 bits, but not the transparent level.
            image.info["transparency"] = hidden * 255 // (2 ** data[24] - 1)
    # An interrupted copy decodes as smooth. Zeros that end a uniform image are a twentieth of it.
    zeros = len(data) - len(data.rstrip(b"\0"))
    if kind == "WEBP" and zeros > max(256, len(data) // 8):
        raise ImageError("is damaged (ends in zero bytes)", remedy=AGAIN)
    image.load()
    if image.mode == "I":  # a PGM of 16 bits
        return Pixels(np.asarray(image).astype(np.uint16))
    lossy = "half" if kind in ("JPEG", "WEBP") else "auto"
    # What only masks look at: the indices of a palette, or the opacity.
    index = upright(np.asarray(image), turn) if image.mode == "P" else None
    shown, opacity = _opaque(image)
    values = upright(np.asarray(shown), turn)
    opacity = None if opacity is None else upright(np.asarray(opacity), turn)
    return Pixels(values, display=True, threshold=lossy, index=index, opacity=opacity)


def split_alpha(values: np.ndarray) -> Pixels:
    """Separate (h, w) or (h, w, 1 to 4) samples into colours and alpha (the last of 2 or 4).

    The colours are not darkened here: their display range is that of the opaque image.
    """
    alpha = None
    if values.ndim == 3 and values.shape[2] in (2, 4):
        alpha, values = values[..., -1], values[..., :-1]
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if alpha is None:
        return Pixels(values)
    top = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1
    if not (alpha < top).any():
        return Pixels(values)
    valid = alpha > 0  # invisible pixels do not count for the range, unless all are
    alpha = np.clip(alpha / top, 0, 1).astype(np.float32)
    return Pixels(values, valid=valid if valid.any() else None, alpha=alpha)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, offset of the content, length) of each chunk up to IEND or the end."""
    offset = 8
    while offset + 12 <= len(data):
        length = int.from_bytes(data[offset : offset + 4], "big")
        kind = data[offset + 4 : offset + 8]
        yield kind, offset + 8, length
        if kind == b"IEND":
            return
        offset += 12 + length


def _check_png(data: bytes) -> None:
    """Refuse a truncated PNG or one with wrong checksums, which decoders ignore for pixels."""
    view, last = memoryview(data), b""
    for last, offset, length in png_chunks(data):  # noqa: B007
        end = offset + length
        if zlib.crc32(view[offset - 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ImageError("is damaged or truncated (a PNG checksum is wrong)", remedy=AGAIN)
    if last != b"IEND":
        raise ImageError("is truncated (no PNG end chunk)", remedy=AGAIN)


def _open(data: bytes, kind: str) -> ImageFile.ImageFile:
    # Not Image.open: its size limit is global to the process, and first only a warning.
    Image.init()
    try:
        image = Image.OPEN[kind][0](io.BytesIO(data), "")
        check_size(*image.size)
        frames = getattr(image, "n_frames", 1)
    except Image.DecompressionBombError:  # GIF and WebP apply Pillow's own limit
        many = f"has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels, the limit of a {kind}"
        raise ImageError(many, remedy="make it smaller or save it as PNG") from None
    if kind in ("PNG", "WEBP", "GIF") and frames > 1:  # further ones of a JPEG (MPO) are previews
        what = f"is an animation of {frames} frames"
        raise ImageError(what, remedy="save the frames as separate files")
    return image


def _orientation(image: ImageFile.ImageFile, data: bytes) -> int:
    """Return the EXIF orientation, 1 to 8; unreadable EXIF counts as 1, as in viewers."""
    try:
        if image.format == "PNG" and "exif" not in image.info:
            # An eXIf chunk may follow the pixels, and Pillow would decode them to find it.
            for kind, offset, length in png_chunks(data):
                if kind == b"eXIf":
                    image.info["exif"] = b"Exif\0\0" + data[offset : offset + length]
        value = Image.Image.getexif(image).get(ORIENTATION, 1)
    except Exception:
        return 1
    return value if value in range(1, 9) else 1


def _opaque(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return mode L or RGB, with transparency composed on black; and the opacity, if any."""
    if image.has_transparency_data:
        unset_alpha = image.format == "BMP"  # writers of 32-bit BMP often leave it at zero
        image = image.convert("RGBA")
        if unset_alpha and image.getchannel("A").getextrema() == (0, 0):
            return image.convert("RGB"), None
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image).convert("RGB"), image.getchannel("A")
    return image.convert("L" if image.mode in ("1", "L") else "RGB"), None
