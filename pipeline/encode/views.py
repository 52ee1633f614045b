"""The views of an image: what CLIP is shown.

Each takes a Picture and gives a uint8 image, or None when the picture lacks what it needs; the
features of such a view are NaN. A new view is one function with `@view("name")`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.encode.fill import outside_of
from pipeline.errors import ConfigError
from pipeline.segment.quality import bounding_box

RANDOM_TRIES = 32
"""Places tried for the random view's region; the one that overlaps the mask least is taken."""


@dataclass(frozen=True)
class Picture:
    """One image with what its views are made from.

    Args:
        image: uint8 (h, w, 3).
        mask: bool (h, w); all ones where the found mask was empty or full.
        seed: text that decides the random view (the image's sha256 and frame, so that byte copies
            have the same features whatever they are called).
        truth: bool (h, w) ground-truth mask, None where there is none.
        fill: "black", "mean" or "blur".
        mean: the model's mean colour, in [0, 1].
        margin: of the crop view, share of the box's sides.
    """

    image: np.ndarray
    mask: np.ndarray
    seed: str = ""
    truth: np.ndarray | None = None
    fill: str = "black"
    mean: Sequence[float] = (0.5, 0.5, 0.5)
    margin: float = 0.1

    @cached_property
    def outside(self) -> np.ndarray:
        """What stands outside a mask; see pipeline.encode.fill."""
        return outside_of(self.image, self.fill, self.mean)

    def keep(self, mask: np.ndarray) -> np.ndarray:
        """The image inside `mask`, the fill outside."""
        # Three times as fast as a mask that numpy has to stretch over the channels.
        inside = np.repeat(mask, 3, axis=1).reshape(self.image.shape)
        return np.where(inside, self.image, self.outside)


View = Callable[[Picture], "np.ndarray | None"]
VIEWS: dict[str, View] = {}


def view(name: str) -> Callable[[View], View]:
    """Register a view under a name that params.yaml may use."""

    def register(function: View) -> View:
        VIEWS[name] = function
        return function

    return register


@view("whole")
def whole(picture: Picture) -> np.ndarray:
    """x: the image as it is."""
    return picture.image


@view("masked")
def masked(picture: Picture) -> np.ndarray:
    """x * m: the image inside the mask, the fill outside (MedFocusCLIP, section III)."""
    return picture.keep(picture.mask)


@view("crop")
def crop(picture: Picture) -> np.ndarray:
    """The box of the mask with a margin on each side, with all that is inside the box."""
    height, width = picture.mask.shape
    box = bounding_box(picture.mask)
    if box is None:
        return picture.image
    x0, y0, x1, y1 = box
    dx, dy = round((x1 - x0) * picture.margin), round((y1 - y0) * picture.margin)
    return picture.image[
        max(0, y0 - dy) : min(height, y1 + dy), max(0, x0 - dx) : min(width, x1 + dx)
    ]


@view("binary")
def binary(picture: Picture) -> np.ndarray:
    """The mask alone, white on black: what its shape and place tell (the authors' ablation)."""
    return np.repeat(picture.mask[..., None].astype(np.uint8) * 255, 3, axis=2)


@view("oracle")
def oracle(picture: Picture) -> np.ndarray | None:
    """x * ground truth: the ceiling. None without a ground-truth mask, or with an empty one."""
    if picture.truth is None or not picture.truth.any():
        return None
    return picture.keep(picture.truth)


@view("random")
def random(picture: Picture) -> np.ndarray:
    """x * a region of the mask's shape and area elsewhere: what any such window would tell."""
    return picture.keep(random_mask(picture.mask, picture.seed))


def random_mask(mask: np.ndarray, seed: str) -> np.ndarray:
    """The mask's own shape, mirrored or not, in another place, whole.

    Of RANDOM_TRIES places the one that overlaps the mask least is taken. A mask that fills the
    image's height and width cannot move: it is at most mirrored.

    Args:
        mask: bool (h, w).
        seed: any text; the same text gives the same place.

    Returns:
        bool (h, w) with as many pixels as `mask`.
    """
    box = bounding_box(mask)
    if box is None:
        return mask
    x0, y0, x1, y1 = box
    shape = mask[y0:y1, x0:x1]
    (height, width), (rows, columns) = mask.shape, shape.shape
    digest = hashlib.sha256(f"random view\n{seed}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    best, best_overlap = mask, None
    for _ in range(RANDOM_TRIES):
        flips = rng.integers(0, 2, 2)
        top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
        moved = shape[:: 1 - 2 * flips[0], :: 1 - 2 * flips[1]]
        place = slice(top, top + rows), slice(left, left + columns)
        overlap = int((mask[place] & moved).sum())
        if best_overlap is None or overlap < best_overlap:
            best_overlap = overlap
            best = np.zeros_like(mask)
            best[place] = moved
    return best


def check_views(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the views.

    Raises:
        ConfigError: there is none, one is unknown, or one is named twice.
    """
    remedy = f"choose from {', '.join(VIEWS)}"
    unknown = [name for name in names if name not in VIEWS]
    if unknown or not names:
        raise ConfigError(f"encode.views: unknown {', '.join(unknown) or '(none)'}", remedy=remedy)
    if len(set(names)) != len(names):
        raise ConfigError("encode.views: a view is named twice", remedy=remedy)
    return tuple(names)
