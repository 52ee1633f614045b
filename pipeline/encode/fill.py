"""What replaces the pixels outside the mask.

- `black`: 0, the paper's x * m.
- `mean`: the mean colour of the model, which is 0 after its normalisation.
- `blur`: the image itself, strongly blurred: the surroundings remain visible without detail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

FILLS = ("black", "mean", "blur")
BLUR_SHARE = 0.05
"""Standard deviation of the blur as a share of the longest side of the image."""

Colour = tuple[int, int, int]


def fill_colour(name: str, mean: Sequence[float]) -> Colour:
    """Return the flat colour of a fill, also used for padding; `blur` pads with the mean.

    Args:
        name: "black", "mean" or "blur".
        mean: mean colour of the model, in [0, 1].

    Raises:
        ValueError: no fill has this name.
    """
    if name not in FILLS:
        raise ValueError(f"unknown fill {name!r}: choose one of {', '.join(FILLS)}")
    if name == "black":
        return 0, 0, 0
    r, g, b = (round(255 * float(v)) for v in mean)
    return r, g, b


def outside_of(image: np.ndarray, name: str, mean: Sequence[float]) -> np.ndarray:
    """Return what replaces the pixels outside the mask.

    Args:
        image: uint8 (h, w, 3).
        name: "black", "mean" or "blur".
        mean: mean colour of the model, in [0, 1].

    Returns:
        uint8, (h, w, 3) for `blur`, (1, 1, 3) for a flat colour.
    """
    if name != "blur":
        return np.array(fill_colour(name, mean), np.uint8).reshape(1, 1, 3)
    radius = BLUR_SHARE * max(image.shape[:2])
    blurred = Image.fromarray(np.ascontiguousarray(image)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(blurred)
