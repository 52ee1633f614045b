"""What stands where the mask is not.

- `black`: 0, the paper's x * m.
- `mean`: the model's mean colour, which is 0 after its normalisation: it says nothing.
- `blur`: the image itself, strongly blurred: the surroundings stay as a hint, without detail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

FILLS = ("black", "mean", "blur")
BLUR_SHARE = 0.05
"""Standard deviation of the blur as a share of the image's longest side."""

Colour = tuple[int, int, int]


def fill_colour(name: str, mean: Sequence[float]) -> Colour:
    """The flat colour of a fill, also used for padding; `blur` pads with the model's mean.

    Args:
        name: "black", "mean" or "blur".
        mean: the model's mean, in [0, 1].
    """
    if name not in FILLS:
        raise ValueError(f"no fill is called {name!r}: choose one of {', '.join(FILLS)}")
    if name == "black":
        return 0, 0, 0
    r, g, b = (round(255 * float(v)) for v in mean)
    return r, g, b


def outside_of(image: np.ndarray, name: str, mean: Sequence[float]) -> np.ndarray:
    """What replaces the pixels outside the mask.

    Args:
        image: uint8 (h, w, 3).
        name: "black", "mean" or "blur".
        mean: the model's mean, in [0, 1].

    Returns:
        uint8, (h, w, 3) for `blur`, (1, 1, 3) for a flat colour.
    """
    if name != "blur":
        return np.array(fill_colour(name, mean), np.uint8).reshape(1, 1, 3)
    radius = BLUR_SHARE * max(image.shape[:2])
    blurred = Image.fromarray(np.ascontiguousarray(image)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(blurred)
