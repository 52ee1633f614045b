"""Thumbnails: images, mask outlines, masked views and heat maps, as data URIs."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.measure import find_contours

from pipeline.encode.fill import outside_of
from pipeline.errors import PipelineError
from pipeline.images import read_image, read_mask
from pipeline.report import words
from pipeline.report.blocks import Picture
from pipeline.report.data import Dataset, reason_of

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


def spread(worst_first: Sequence[str], n: int) -> list[str]:
    """Choose `n` ids: the worst half of them, then evenly spaced ones through the rest."""
    if len(worst_first) <= n:
        return list(worst_first)
    worst = (n + 1) // 2
    rest = np.linspace(worst, len(worst_first) - 1, n - worst).round().astype(int)
    return [*worst_first[:worst], *(worst_first[i] for i in rest)]


class Album:
    """The thumbnails of a dataset, each made once.

    Args:
        data: the manifest says where images and ground-truth masks are.
        size: longest side of a thumbnail in pixels.
    """

    def __init__(self, data: Dataset, size: int = 160) -> None:
        self.data = data
        self.size = size
        self.lost: dict[str, str] = {}
        """Masks that could not be read, by image_id, with the reason."""
        table = data.manifest
        self._rows = {} if table is None else table.set_index("image_id").to_dict("index")
        self._made: dict[tuple[str, bool], Picture] = {}

    def picture(self, image_id: str, caption: str = "", *, outlines: bool = True) -> Picture:
        """Return a thumbnail; what cannot be read is said in its `note`."""
        key = (image_id, outlines)
        if key not in self._made:
            self._made[key] = self._make(image_id, outlines)
        made = self._made[key]
        return Picture(image_id, made.uri, caption, made.note, made.alt)

    def pictures(self, items: Iterable[tuple[str, str]]) -> list[Picture]:
        """Return the thumbnails of (image_id, caption) pairs."""
        return [self.picture(image_id, caption) for image_id, caption in items]

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Read an image: (h, w, 3) uint8, upright."""
        row = self._rows[image_id]
        return read_image(self._file(row["path"]), row["frame"])

    def truth(self, image_id: str) -> NDArray[np.bool_] | None:
        """Read the ground-truth mask of an image, (h, w) bool; None where there is none."""
        row = self._rows[image_id]
        return read_mask(self._file(row["mask_path"]), row["frame"]) if row["mask_path"] else None

    def mask(self, image_id: str) -> tuple[NDArray[np.bool_] | None, str]:
        """Read the stored mask of an image.

        Returns:
            (h, w) bool and "", or None and why there is no mask to draw. A mask that the store
            lists but cannot give is also entered in `lost`.
        """
        if self.data.masks is None:
            return None, ""
        status = self.data.mask_status.get(image_id)
        if status in (None, "failed"):
            return None, words.FAILED_MASK if status else words.NO_MASK
        try:
            return np.asarray(self.data.masks[image_id]), ""
        except PipelineError as error:
            self.lost[image_id] = error.message
            return None, words.LOST_MASK.format(error.message)

    def example(self, image_id: str) -> list[Picture]:
        """Return the image, the image with its mask's outline, and the masked view."""
        pictures = [
            self.picture(image_id, words.EXAMPLE_WHOLE, outlines=False),
            self.picture(image_id, words.EXAMPLE_MASK),
        ]
        mask, note = self.mask(image_id)
        if mask is None or not pictures[0].uri:
            return [*pictures, Picture(image_id, "", words.EXAMPLE_MASKED, note or words.NO_MASK)]
        image = self.image(image_id)
        usable = self.data.mask_status.get(image_id) == "ok"
        shown = np.where(mask[..., None], image, self._outside(image)) if usable else image
        caption = words.EXAMPLE_MASKED if usable else words.EXAMPLE_FALLBACK
        alt = f"{pictures[0].alt}, {caption}"
        return [*pictures, Picture(image_id, data_uri(shrink(shown, self.size)), caption, alt=alt)]

    def _outside(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return what `encode` put outside the mask: (h, w, 3) or (1, 1, 3) uint8."""
        identity = {} if self.data.features is None else dict(self.data.features.identity)
        mean = (identity.get("model") or {}).get("mean", (0.5, 0.5, 0.5))
        return outside_of(image, identity.get("fill", self.data.params.encode.fill), mean)

    def _file(self, relative: str) -> Path:
        return self.data.paths.data(self.data.name) / relative

    def _make(self, image_id: str, outlines: bool) -> Picture:
        if image_id not in self._rows:
            return Picture(image_id, "", note=words.NOT_IN_MANIFEST)
        mask = truth = None
        note = ""
        try:
            image = self.image(image_id)
            if outlines:
                mask, note = self.mask(image_id)
                truth = self.truth(image_id)
        except (PipelineError, OSError) as error:
            return Picture(image_id, "", note=words.UNREADABLE.format(reason_of(error)))
        shapes = {words.MASK: mask, words.TRUTH: truth}
        notes = [note] if note else []
        for name, region in shapes.items():
            if region is not None and region.shape != image.shape[:2]:
                notes.append(words.WRONG_SIZE.format(name))
                shapes[name] = None
        picture = draw_outlines(image, *shapes.values(), size=self.size)
        alt = f"{image_id}, {self._rows[image_id]['label']}"
        return Picture(image_id, data_uri(picture), note="; ".join(notes), alt=alt)
