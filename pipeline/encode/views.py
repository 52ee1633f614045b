"""The views of an image that CLIP encodes.

A view takes a `ViewInput` and returns a uint8 image, or None if something it needs is missing; the
features of such a view are NaN. To add a view, write one function and list it in `VIEWS`.

Pixels outside the mask are replaced by a fill:

- `black`: 0, the paper's x * m.
- `mean`: the mean colour of the model, which is 0 after its normalisation.
- `blur`: the image itself, strongly blurred: the surroundings remain visible without detail.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageFilter

from pipeline.segment.quality import bounding_box

BLUR_SHARE = 0.05  # standard deviation of the blur by the longest side of the image
RANDOM_TRIES = 32


@dataclass(frozen=True)
class ViewInput:
    """One image, uint8 (h, w, 3), and what its views are made from.

    Args:
        mask: bool (h, w); all ones if the mask that was found is empty or full.
        seed: decides the random views (sha256 and frame, so that byte copies have the same).
        truth: bool (h, w) ground-truth mask; None if there is none.
        fill: "black", "mean" or "blur".
        mean: mean colour of the model, in [0, 1].
        margin: of the crop view, as a share of the sides of the box.
        dim: of the dim view, the brightness outside the mask.
    """

    image: np.ndarray
    mask: np.ndarray
    seed: str = ""
    truth: np.ndarray | None = None
    fill: str = "black"
    mean: Sequence[float] = (0.5, 0.5, 0.5)
    margin: float = 0.1
    dim: float = 0.35

    @cached_property
    def outside(self) -> np.ndarray:
        """What replaces the pixels outside a mask; see `outside_of`."""
        return outside_of(self.image, self.fill, self.mean)

    @property
    def crop_box(self) -> tuple[int, int, int, int]:
        """The box x0, y0, x1, y1 of the mask with its margin, within the image."""
        height, width = self.mask.shape
        if (box := bounding_box(self.mask)) is None:
            return 0, 0, width, height
        x0, y0, x1, y1 = box
        dx, dy = round((x1 - x0) * self.margin), round((y1 - y0) * self.margin)
        return max(0, x0 - dx), max(0, y0 - dy), min(width, x1 + dx), min(height, y1 + dy)

    def keep(self, mask: np.ndarray, outside: np.ndarray | None = None) -> np.ndarray:
        """Return the image inside `mask`; outside the fill, or pixels that are given."""
        # Three times faster than broadcasting the mask over the channels.
        inside = np.repeat(mask, 3, axis=1).reshape(self.image.shape)
        return np.where(inside, self.image, self.outside if outside is None else outside)


def whole(source: ViewInput) -> np.ndarray:
    """x: the image as it is."""
    return source.image


def masked(source: ViewInput) -> np.ndarray:
    """x * m: the image inside the mask, the fill outside (MedFocusCLIP, section III)."""
    return source.keep(source.mask)


def crop(source: ViewInput) -> np.ndarray:
    """The bounding box of the mask with a margin on each side; nothing inside it is hidden."""
    x0, y0, x1, y1 = source.crop_box
    return source.image[y0:y1, x0:x1]


def binary(source: ViewInput) -> np.ndarray:
    """The mask alone, white on black: the information in its shape and position (an ablation)."""
    return np.repeat(source.mask[..., None].astype(np.uint8) * 255, 3, axis=2)


def oracle(source: ViewInput) -> np.ndarray | None:
    """x * ground truth: the ceiling. None if the ground-truth mask is missing or empty."""
    if source.truth is None or not source.truth.any():
        return None
    return source.keep(source.truth)


def random(source: ViewInput) -> np.ndarray:
    """x * a region of the same shape and area elsewhere: the control for any such window."""
    return source.keep(random_mask(source.mask, source.seed))


def dim(source: ViewInput) -> np.ndarray:
    """The image inside the mask; outside it the image too, at `encode.dim` of its brightness."""
    shades = np.rint(np.arange(256) * source.dim).astype(np.uint8)
    return source.keep(source.mask, shades[source.image])


def blur(source: ViewInput) -> np.ndarray:
    """The image inside the mask; outside it the image, strongly blurred, whatever the fill is."""
    return source.keep(source.mask, outside_of(source.image, "blur", source.mean))


def grey(source: ViewInput) -> np.ndarray:
    """The image inside the mask; outside it the mean colour of the model, whatever the fill is."""
    return source.keep(source.mask, outside_of(source.image, "mean", source.mean))


def random_crop(source: ViewInput) -> np.ndarray:
    """A crop of the size of the crop view anywhere in the image: the control for any such crop."""
    x0, y0, x1, y1 = source.crop_box
    (height, width), (rows, columns) = source.mask.shape, (y1 - y0, x1 - x0)
    rng = random_numbers("random-crop view", source.seed)
    top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
    return source.image[top : top + rows, left : left + columns]


VIEWS: dict[str, Callable[[ViewInput], np.ndarray | None]] = {
    view.__name__.replace("_", "-"): view
    for view in (whole, masked, crop, binary, oracle, random, dim, blur, grey, random_crop)
}
"""All views by the name that params.yaml may use."""


def pooled_region(name: str, source: ViewInput) -> np.ndarray:
    """Return the region that a view pools the feature maps of the whole image over, bool (h, w).

    "inside" and "outside" the mask, "trunk": the image, "random-inside": the region of the view
    `random`, the control for `inside`.
    """
    if name == "random-inside":
        return random_mask(source.mask, source.seed)
    everything = np.ones_like(source.mask)
    return {"inside": source.mask, "outside": ~source.mask}.get(name, everything)


def fill_colour(name: str, mean: Sequence[float]) -> tuple[int, int, int]:
    """Return the colour of the fill `name`, also used for padding; `blur` pads with the mean."""
    r, g, b = (0 if name == "black" else round(255 * float(v)) for v in mean)
    return r, g, b


def outside_of(image: np.ndarray, name: str, mean: Sequence[float]) -> np.ndarray:
    """Return what the fill `name` puts in the place of the pixels outside the mask: uint8,
    (h, w, 3) for `blur`, (1, 1, 3) for a flat colour."""
    if name != "blur":
        return np.array(fill_colour(name, mean), np.uint8).reshape(1, 1, 3)
    blur = ImageFilter.GaussianBlur(BLUR_SHARE * max(image.shape[:2]))
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).filter(blur))


def random_numbers(purpose: str, seed: str) -> np.random.Generator:
    """Return random numbers that the purpose and the seed decide."""
    digest = hashlib.sha256(f"{purpose}\n{seed}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def random_mask(mask: np.ndarray, seed: str) -> np.ndarray:
    """Return the shape of a mask, bool (h, w), possibly mirrored, at another position, complete.

    Of `RANDOM_TRIES` positions, which `seed` decides, the one that overlaps the mask least is used.
    A mask that spans the height and width of the image cannot move: it is at most mirrored.
    """
    if (box := bounding_box(mask)) is None:
        return mask
    x0, y0, x1, y1 = box
    shape = mask[y0:y1, x0:x1]
    (height, width), (rows, columns) = mask.shape, shape.shape
    rng = random_numbers("random view", seed)
    best, least = mask, mask.size + 1
    for _ in range(RANDOM_TRIES):
        flips = rng.integers(0, 2, 2)
        top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
        moved = shape[:: 1 - 2 * flips[0], :: 1 - 2 * flips[1]]
        place = slice(top, top + rows), slice(left, left + columns)
        overlap = int((mask[place] & moved).sum())
        if overlap < least:
            best, least = np.zeros_like(mask), overlap
            best[place] = moved
    return best
