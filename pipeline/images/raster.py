"""PNG, JPEG, BMP, WebP and GIF through Pillow; 16-bit PNG through libpng (imagecodecs)."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFile

from pipeline.errors import ImageError
from pipeline.images.orientation import upright, upright_size
from pipeline.images.types import FrameInfo, Pixels, check_size

ORIENTATION = 274
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")

# Sizes are checked here (`check_size`), before anything is decoded; remarks of Pillow about odd
# metadata are no business of somebody reading thousands of files. A filter set once is safe in
# threads, which `warnings.catch_warnings` is not.
warnings.filterwarnings("ignore", module=r"PIL\.")


def probe_raster(data: bytes, kind: str) -> list[FrameInfo]:
    """Read the size from the header."""
    image = _open(data, kind)
    width, height = upright_size(*image.size, _orientation(image, data))
    return [FrameInfo(0, width, height)]


def read_raster(data: bytes, kind: str, frame: int) -> Pixels:
    """Decode one image of 8 or 16 bits a sample, upright, transparency composed on black.

    Args:
        data: the file's bytes.
        kind: one of `FORMATS`.
        frame: 0, the only one.

    Returns:
        Values of (h, w) or (h, w, 3); uint8, of a 16-bit PNG uint16 with its alpha apart.

    Raises:
        ImageError: another frame than 0, an animation, too many pixels, cut or damaged.
        Exception: of the decoder, for damaged bytes; `read_image` makes an ImageError of it.
    """
    if frame != 0:
        raise ImageError(f"has no frame {frame}: it holds one picture", remedy="use frame 0")
    if kind == "PNG":
        check_png(data)
    if kind == "WEBP":
        _check_webp(data)
    if kind == "PNG" and data[24] == 16:
        return _deep_png(data)
    return decode_with_pillow(data, kind)


def decode_with_pillow(data: bytes, kind: str, page: int = 0) -> Pixels:
    """Decode an 8-bit image; of a TIFF, page `page`, which Pillow turns upright itself."""
    image = _open(data, kind)
    if page:
        image.seek(page)
        check_size(*image.size)
    turn = 1 if kind == "TIFF" else _orientation(image, data)
    image.load()
    threshold = "half" if kind in ("JPEG", "WEBP") else "auto"
    if image.mode == "P":
        threshold = "nonzero"
    hidden = image.info.get("transparency")
    if kind == "PNG" and data[24:26] in (b"\2\0", b"\4\0") and isinstance(hidden, int):
        # Pillow scales grey samples of 2 and 4 bits to 8, and leaves the transparent one as it is.
        image.info["transparency"] = hidden * 255 // (2 ** data[24] - 1)
    return Pixels(upright(np.asarray(opaque(image)), turn), display=True, threshold=threshold)


def encode_png(array: np.ndarray) -> bytes:
    """Return a PNG of a (h, w) or (h, w, 3) uint8 image or a bool mask, without any metadata.

    Raises:
        ValueError: another dtype or number of axes.
    """
    array = np.asarray(array)
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise ValueError(f"needs uint8 or bool, (h, w) or (h, w, 3): {array.dtype} {array.shape}")
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, offset of the content, length) of each chunk up to IEND or the file's end."""
    offset = 8
    while offset + 12 <= len(data):
        length = int.from_bytes(data[offset : offset + 4], "big")
        kind = data[offset + 4 : offset + 8]
        yield kind, offset + 8, length
        if kind == b"IEND":
            return
        offset += 12 + length


def check_png(data: bytes) -> None:
    """Refuse a PNG that is cut or whose checksums are wrong; decoders skip those of the pixels."""
    view = memoryview(data)
    last = b""
    for last, offset, length in png_chunks(data):  # noqa: B007
        end = offset + length
        if end + 4 > len(data):
            break
        if zlib.crc32(view[offset - 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ImageError(
                "is damaged (a PNG checksum is wrong)", remedy="copy or download it again"
            )
    if last != b"IEND":
        raise ImageError("is cut short (no PNG end chunk)", remedy="copy or download it again")


def _check_webp(data: bytes) -> None:
    """WebP has no checksum: the zero-filled rest of an interrupted copy decodes to a smooth area.

    The zeros that end the code of an even picture are about a twentieth of it.
    """
    zeros = len(data) - len(data.rstrip(b"\0"))
    if zeros > max(256, len(data) // 8):
        raise ImageError("is damaged (ends in zero bytes)", remedy="copy or download it again")


def _open(data: bytes, kind: str) -> ImageFile.ImageFile:
    # Not Image.open: its own limit is a warning first, and one for the whole process.
    Image.init()
    factory, _ = Image.OPEN[kind]
    try:
        image = factory(io.BytesIO(data), "")
        check_size(*image.size)
        frames = getattr(image, "n_frames", 1)
    except Image.DecompressionBombError:  # GIF and WebP check themselves, by Pillow's own limit
        raise ImageError(
            f"has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels, the limit of a {kind}",
            remedy="make it smaller or save it as PNG",
        ) from None
    if kind in ("PNG", "WEBP", "GIF") and frames > 1:  # more in a JPEG (MPO) are previews
        raise ImageError(
            f"is an animation of {frames} frames", remedy="save the frames as files of their own"
        )
    return image


def _orientation(image: ImageFile.ImageFile, data: bytes) -> int:
    """Return EXIF orientation 1 to 8; unreadable EXIF counts as upright, as viewers do."""
    try:
        late = image.format == "PNG" and "exif" not in image.info
        if late:  # an eXIf chunk may follow the pixels; Pillow would decode them to find it
            for kind, offset, length in png_chunks(data):
                if kind == b"eXIf":
                    image.info["exif"] = b"Exif\0\0" + data[offset : offset + length]
        value = Image.Image.getexif(image).get(ORIENTATION, 1)
    except Exception:
        return 1
    return value if value in range(1, 9) else 1


def opaque(image: Image.Image) -> Image.Image:
    """Return mode L or RGB; transparency is composed on black."""
    if image.mode in ("L", "RGB") and not image.has_transparency_data:
        return image
    if image.has_transparency_data:
        unset_alpha = image.format == "BMP"  # writers of 32-bit BMP often leave it at zero
        image = image.convert("RGBA")
        if unset_alpha and image.getchannel("A").getextrema() == (0, 0):
            return image.convert("RGB")
        ground = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("L" if image.mode == "1" else "RGB")


def _deep_png(data: bytes) -> Pixels:
    """16-bit PNG. Pillow keeps only the high byte of its colours, which blackens 12-in-16 bits."""
    import imagecodecs

    turn = _orientation(_open(data, "PNG"), data)
    return split_alpha(upright(imagecodecs.png_decode(data), turn))


def split_alpha(values: np.ndarray) -> Pixels:
    """(h, w), (h, w, 1..4) samples -> colours, and the last channel of 2 or 4 as their alpha.

    The colours are not darkened here: their range has to be that of the opaque picture.
    """
    if values.ndim == 3 and values.shape[2] in (2, 4):
        alpha, values = values[..., -1], values[..., :-1]
        top = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1
        if (alpha < top).any():
            valid = alpha > 0  # what is not seen is no part of the range, unless nothing is
            alpha = np.clip(alpha / top, 0, 1).astype(np.float32)
            return Pixels(_squeeze(values), valid=valid if valid.any() else None, alpha=alpha)
    return Pixels(_squeeze(values))


def _squeeze(values: np.ndarray) -> np.ndarray:
    return values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
