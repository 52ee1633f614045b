"""Draw mask outlines on images."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

PREDICTED, GROUND_TRUTH = (213, 94, 0), (86, 180, 233)
"""Vermillion and sky blue of the Okabe-Ito palette."""
SUPERSAMPLE = 2
WIDTH, DASH = 3, 12  # of an outline, in pixels of the supersampled picture


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

    `image` is (h, w, 3) uint8, upright; `mask` and `truth` are (h, w) bool, None or empty for no
    outline (ValueError if of another size); `size` is the longest side of the picture in pixels.
    """
    small = shrink(image, size)
    shape = small.width * SUPERSAMPLE, small.height * SUPERSAMPLE
    canvas = np.array(small.resize(shape, Image.Resampling.BILINEAR))
    dashes = np.indices(canvas.shape[:2]).sum(axis=0) // DASH % 2 == 0
    for region, colour, drawn in ((truth, GROUND_TRUTH, dashes), (mask, PREDICTED, True)):
        if region is None:
            continue
        if region.shape != image.shape[:2]:
            raise ValueError(f"mask {region.shape} does not fit image {image.shape[:2]}")
        scaled = Image.fromarray(region.astype(np.float32)).resize(shape, Image.Resampling.BOX)
        inside = np.asarray(scaled) > 0  # the smallest region is still there
        line = inside & ~binary_erosion(inside, iterations=WIDTH) & drawn
        canvas[binary_dilation(line)] = 0  # a dark rim, so that it shows on white too
        canvas[line] = colour
    return Image.fromarray(canvas).resize(small.size, Image.Resampling.LANCZOS)


def data_uri(picture: Image.Image) -> str:
    """Encode a picture as a WebP data URI: about 3 kB for 160 pixels."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=70, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
