"""Map an image of any size to the square frame of CLIP: a resize and a shift.

- `pad`: resize the longest side to the frame and fill the rest: nothing is lost or stretched
  (default).
- `squash`: resize both sides: nothing is lost, shapes are stretched.
- `crop`: open_clip's preprocessing of most models: resize the shortest side, then crop the centre.
- `auto`: squash for a model that was trained on squashed images, such as SigLIP, else pad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Geometry:
    """The mapping of an image to the square frame of the model.

    Args:
        size: side of the frame, pixels.
        resized: height and width of the image after the resize.
        top, left: of the resized image in the frame; negative if it is cropped.
    """

    size: int
    resized: tuple[int, int]
    top: int
    left: int

    def apply(
        self,
        image: np.ndarray,
        fill: tuple[int, int, int] = (0, 0, 0),
        interpolation: str = "bicubic",
    ) -> np.ndarray:
        """Return the frame of an image: uint8 (height, width, 3) to (size, size, 3).

        `fill` is the colour of the padding; `interpolation` is "bicubic" or "bilinear",
        antialiased (Pillow's, as open_clip uses it).
        """
        picture = Image.fromarray(np.ascontiguousarray(image))
        if image.shape[:2] != self.resized:
            picture = picture.resize(self.resized[::-1], RESAMPLE[interpolation])
        return np.array(self._framed(picture, fill))

    def _framed(self, resized: Image.Image, fill: float | tuple[int, int, int]) -> Image.Image:
        """Return the frame with a resized image at its place, as far as it is inside."""
        frame = Image.new(resized.mode, (self.size, self.size), fill)
        frame.paste(resized, (self.left, self.top))
        return frame

    def apply_mask(self, mask: np.ndarray) -> np.ndarray:
        """Return the frame of a bool (height, width) mask: bool (size, size), False outside."""
        grey = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)
        return self.apply(grey, interpolation="bilinear")[..., 0] > 127

    def shares(self, mask: np.ndarray, grids: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return the share of each cell of grids over the frame that a mask covers.

        `mask` is bool (h, w) of the image; of each grid (rows, columns) float32, in [0, 1].
        Areas are averaged, so that a mask smaller than a cell still has a share; the padding of
        the frame counts as not covered.
        """
        box = Image.Resampling.BOX
        area = Image.fromarray(mask.astype(np.float32)).resize(self.resized[::-1], box)
        covered = self._framed(area, 0)
        return [np.asarray(covered.resize(grid[::-1], box)) for grid in grids]


def choose_geometry(name: str, resize_mode: str) -> str:
    """Return what `auto` stands for with a model of this `ClipModel.resize_mode`, or `name`."""
    if name != "auto":
        return name
    return "squash" if resize_mode == "squash" else "pad"


def make_geometry(name: str, height: int, width: int, size: int) -> Geometry:
    """Return the mapping "pad", "squash" or "crop" of an image to a frame; sizes in pixels."""
    if name == "squash":
        return Geometry(size, (size, size), 0, 0)
    if name == "pad":
        longest = max(height, width)
        # max: a strip of 1 x 1000 pixels keeps one row.
        resized = max(1, round(height * size / longest)), max(1, round(width * size / longest))
        top, left = (size - resized[0]) // 2, (size - resized[1]) // 2
        return Geometry(size, resized, top, left)
    # "crop": as torchvision's Resize(size) and CenterCrop(size), with their rounding.
    if height <= width:
        resized = size, int(size * width / height)
    else:
        resized = int(size * height / width), size
    top, left = round((resized[0] - size) / 2.0), round((resized[1] - size) / 2.0)
    return Geometry(size, resized, -top, -left)
