"""Draw mask outlines and heat maps on images."""

from __future__ import annotations

import base64
import io
import itertools

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.measure import find_contours

PREDICTED, GROUND_TRUTH = (213, 94, 0), (86, 180, 233)
"""Vermillion and sky blue of the Okabe-Ito palette."""
_SUPERSAMPLE = 2


def shrink(image: NDArray[np.uint8], size: int) -> Image.Image:
    """Resize an image (h, w, 3) so that its longest side has `size` pixels."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    sampling = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(image).convert("RGB").resize(shape, sampling)


def draw_outlines(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_] | None = None,
    truth: NDArray[np.bool_] | None = None,
    *,
    size: int = 160,
) -> Image.Image:
    """Draw the outline of a mask (solid) and of the ground truth (dashed) on an image.

    Args:
        image: (h, w, 3) uint8, upright.
        mask: (h, w) bool, the predicted region; None or empty draws nothing.
        truth: (h, w) bool, the ground truth.
        size: longest side of the picture in pixels.

    Raises:
        ValueError: a mask has another height or width than the image.
    """
    height, width = image.shape[:2]
    small = shrink(image, size)
    canvas = small.resize(
        (small.width * _SUPERSAMPLE, small.height * _SUPERSAMPLE), Image.Resampling.BILINEAR
    )
    pen = ImageDraw.Draw(canvas)
    factors = (canvas.width / width, canvas.height / height)
    for region, colour, dashed in ((truth, GROUND_TRUTH, True), (mask, PREDICTED, False)):
        if region is None or not region.any():
            continue
        if region.shape != (height, width):
            raise ValueError(f"mask {region.shape} does not fit image {(height, width)}")
        for line in _outlines(region, factors):
            _draw_line(pen, line, colour, dashed=dashed)
    return canvas.resize(small.size, Image.Resampling.LANCZOS)


def draw_heat(
    image: NDArray[np.uint8], heat: NDArray[np.float32], *, size: int = 160
) -> Image.Image:
    """Blend a heat map with an image, pixel for pixel.

    Args:
        image: (h, w, 3) uint8, upright.
        heat: (h, w) float32, scaled to its own range and coloured with cividis, which looks the
            same with and without colour vision. Where it is NaN the image alone is shown.
        size: longest side of the picture in pixels.

    Raises:
        ValueError: the heat map has another height or width than the image.
    """
    if heat.shape != image.shape[:2]:
        raise ValueError(f"heat map {heat.shape} does not fit image {image.shape[:2]}")
    known = np.isfinite(heat)
    lo, hi = (heat[known].min(), heat[known].max()) if known.any() else (0.0, 1.0)
    scaled = np.where(known, (heat - lo) / max(hi - lo, 1e-9), 0.0)
    colours = colormaps["cividis"](scaled)[..., :3] * 255
    grey = image.mean(axis=2, keepdims=True)
    mixed = np.where(known[..., None], 0.45 * grey + 0.55 * colours, image)
    return shrink(mixed.round().astype(np.uint8), size)


def _outlines(region: NDArray[np.bool_], factors: tuple[float, float]) -> list[list[tuple]]:
    """Return the closed outlines of a region as lists of (x, y), in pixels of the scaled picture.

    The region is padded by one pixel so that a region touching the border still closes; the
    centre of pixel (0, 0) lies at (0.5, 0.5).
    """
    lines = []
    for contour in find_contours(np.pad(region, 1).astype(np.float32), 0.5):
        y, x = contour[:, 0] - 0.5, contour[:, 1] - 0.5
        lines.append(list(zip(x * factors[0], y * factors[1], strict=True)))
    return lines


def _draw_line(pen: ImageDraw.ImageDraw, line: list[tuple], colour: tuple, *, dashed: bool) -> None:
    """Draw a line with a dark rim, so that it shows on black and on white."""
    width = _SUPERSAMPLE * (2 if dashed else 1.5)
    pieces = _dashes(line, 6.0 * _SUPERSAMPLE) if dashed else [line]
    for piece in pieces:
        pen.line(piece, fill=(0, 0, 0), width=round(width + 2))
    for piece in pieces:
        pen.line(piece, fill=colour, width=round(width))


def _dashes(line: list[tuple], length: float) -> list[list[tuple]]:
    """Cut a line into pieces of about `length` pixels and return every second one."""
    pieces: list[list[tuple]] = [[line[0]]]
    run = 0.0
    for a, b in itertools.pairwise(line):
        run += float(np.hypot(b[0] - a[0], b[1] - a[1]))
        pieces[-1].append(b)
        if run >= length:
            pieces.append([b])
            run = 0.0
    return [piece for piece in pieces[::2] if len(piece) > 1]


def data_uri(picture: Image.Image, *, quality: int = 70) -> str:
    """Encode a picture as a WebP data URI: about 3 kB for 160 pixels."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
