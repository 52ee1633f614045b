"""Pictures for the page: thumbnails with mask outlines, as data URIs."""

from __future__ import annotations

import base64
import io
import itertools

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.measure import find_contours

# Okabe-Ito: vermillion for the predicted mask, sky blue for the ground truth.
PREDICTED = (213, 94, 0)
GROUND_TRUTH = (86, 180, 233)
_SUPERSAMPLE = 2


def draw_outlines(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_] | None = None,
    truth: NDArray[np.bool_] | None = None,
    *,
    size: int = 160,
) -> Image.Image:
    """Return a picture of `image` with the outline of `mask` (solid) and of `truth` (dashed).

    Args:
        image: (h, w, 3) uint8, upright.
        mask: (h, w) bool, the predicted region; None or empty draws nothing.
        truth: (h, w) bool, the ground truth.
        size: longest side of the picture in pixels.

    Raises:
        ValueError: a mask has another height or width than the image.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    shown = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.fromarray(image).convert("RGB")
    sampling = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    canvas = canvas.resize(shown, sampling)
    canvas = canvas.resize(
        (shown[0] * _SUPERSAMPLE, shown[1] * _SUPERSAMPLE), Image.Resampling.BILINEAR
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
    return canvas.resize(shown, Image.Resampling.LANCZOS)


def draw_heat(
    image: NDArray[np.uint8], heat: NDArray[np.float32], *, size: int = 160
) -> Image.Image:
    """Return a picture of `image` with `heat` laid over it, place for place.

    Args:
        image: (h, w, 3) uint8, upright.
        heat: (h, w) float32; its own range is shown from dark to light (cividis, which reads
            the same with and without colour vision). NaN shows the image alone.
        size: longest side of the picture in pixels.

    Raises:
        ValueError: `heat` has another height or width than the image.
    """
    height, width = image.shape[:2]
    if heat.shape != (height, width):
        raise ValueError(f"heat map {heat.shape} does not fit image {(height, width)}")
    known = np.isfinite(heat)
    lo, hi = (heat[known].min(), heat[known].max()) if known.any() else (0.0, 1.0)
    scaled = np.where(known, (heat - lo) / max(hi - lo, 1e-9), 0.0)
    colours = colormaps["cividis"](scaled)[..., :3] * 255
    grey = image.mean(axis=2, keepdims=True)
    mixed = np.where(known[..., None], 0.45 * grey + 0.55 * colours, image)
    scale = size / max(height, width)
    shown = (max(1, round(width * scale)), max(1, round(height * scale)))
    sampling = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    return Image.fromarray(mixed.round().astype(np.uint8)).resize(shown, sampling)


def _outlines(region: NDArray[np.bool_], factors: tuple[float, float]) -> list[list[tuple]]:
    """Return the outlines of a region as lines of (x, y), in pixels of the scaled picture.

    The region is padded by one pixel, so that one touching the border still closes; the
    centre of pixel (0, 0) lies at (0.5, 0.5).
    """
    padded = np.pad(region, 1).astype(np.float32)
    lines = []
    for contour in find_contours(padded, 0.5):
        y, x = contour[:, 0] - 0.5, contour[:, 1] - 0.5
        lines.append(list(zip(x * factors[0], y * factors[1], strict=True)))
    return lines


def _draw_line(pen: ImageDraw.ImageDraw, line: list[tuple], colour: tuple, *, dashed: bool) -> None:
    """Draw one closed line with a dark rim, so that it shows on black and on white."""
    width = _SUPERSAMPLE * (2 if dashed else 1.5)
    pieces = _dashes(line, 6.0 * _SUPERSAMPLE) if dashed else [line]
    for piece in pieces:
        pen.line(piece, fill=(0, 0, 0), width=round(width + 2))
    for piece in pieces:
        pen.line(piece, fill=colour, width=round(width))


def _dashes(line: list[tuple], length: float) -> list[list[tuple]]:
    """Cut a line into pieces of about `length` pixels and keep every other one."""
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
    """Return a picture as a WebP data URI: about 3 kB for 160 pixels."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
