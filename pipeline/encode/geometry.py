"""How an image of any size becomes the square that CLIP sees, and the way back.

- `pad`: the longest side is resized to the model's size, the rest is filled: no tissue is lost and
  nothing is stretched (default).
- `squash`: both sides are resized: nothing is lost, shapes are stretched.
- `crop`: open_clip's own preprocessing, shortest side resized, then the middle cut out.

Each is a resize to `resized` pixels and a shift, so one class describes all three and both
directions. Images and masks go the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

GEOMETRIES = ("pad", "squash", "crop")
RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Geometry:
    """The mapping between an image and the model's square frame.

    Args:
        height, width: of the image, pixels.
        size: side of the model's frame.
        resized: height, width of the image after the resize.
        top, left: where the resized image's corner lies in the frame; negative when cut off.
    """

    height: int
    width: int
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
        """Bring a uint8 (height, width, 3) image into the frame; uint8 (size, size, 3).

        Args:
            image: as above.
            fill: colour of the padding.
            interpolation: "bicubic" or "bilinear", antialiased (Pillow's, as open_clip uses it).
        """
        height, width = self.resized
        if image.shape[:2] != self.resized:
            pil = Image.fromarray(np.ascontiguousarray(image))
            image = np.asarray(pil.resize((width, height), RESAMPLE[interpolation]))
        if (height, width, self.top, self.left) == (self.size, self.size, 0, 0):
            return image
        # Pillow lays out a colour several times as fast as numpy repeats it.
        frame = np.array(Image.new("RGB", (self.size, self.size), fill))
        y0, x0 = max(0, self.top), max(0, self.left)
        y1, x1 = min(self.size, self.top + height), min(self.size, self.left + width)
        frame[y0:y1, x0:x1] = image[y0 - self.top : y1 - self.top, x0 - self.left : x1 - self.left]
        return frame

    def apply_mask(self, mask: np.ndarray) -> np.ndarray:
        """Bring a bool (height, width) mask into the frame; bool (size, size), False outside."""
        grey = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)
        return self.apply(grey, interpolation="bilinear")[..., 0] > 127

    def to_model_frame(self, points: np.ndarray) -> np.ndarray:
        """Map (..., 2) x, y in pixels of the image to pixels of the frame.

        Coordinates are continuous: pixel i covers [i, i + 1), its middle is i + 0.5.
        """
        scale = np.array([self.resized[1] / self.width, self.resized[0] / self.height])
        return np.asarray(points, float) * scale + np.array([self.left, self.top])

    def from_model_frame(self, points: np.ndarray) -> np.ndarray:
        """The inverse of `to_model_frame`."""
        scale = np.array([self.resized[1] / self.width, self.resized[0] / self.height])
        return (np.asarray(points, float) - np.array([self.left, self.top])) / scale


def make_geometry(name: str, height: int, width: int, size: int) -> Geometry:
    """Plan the way of a height x width image into a frame of `size`.

    Args:
        name: "pad", "squash" or "crop".

    Raises:
        ValueError: no geometry has this name.
    """
    if name == "squash":
        return Geometry(height, width, size, (size, size), 0, 0)
    if name == "pad":
        longest = max(height, width)
        # max: a film of 1 x 1000 must keep one row of pixels.
        resized = max(1, round(height * size / longest)), max(1, round(width * size / longest))
        top, left = (size - resized[0]) // 2, (size - resized[1]) // 2
        return Geometry(height, width, size, resized, top, left)
    if name == "crop":
        # torchvision's Resize(size) and CenterCrop(size), with their rounding.
        if height <= width:
            resized = size, int(size * width / height)
        else:
            resized = int(size * height / width), size
        top, left = round((resized[0] - size) / 2.0), round((resized[1] - size) / 2.0)
        return Geometry(height, width, size, resized, -top, -left)
    raise ValueError(f"no geometry is called {name!r}: choose one of {', '.join(GEOMETRIES)}")


def to_model_frame(
    points: np.ndarray, geometry: str, height: int, width: int, size: int
) -> np.ndarray:
    """Map x, y of an image to the model's frame; see Geometry.to_model_frame."""
    return make_geometry(geometry, height, width, size).to_model_frame(points)


def from_model_frame(
    points: np.ndarray, geometry: str, height: int, width: int, size: int
) -> np.ndarray:
    """Map x, y of the model's frame back to the image; see Geometry.from_model_frame."""
    return make_geometry(geometry, height, width, size).from_model_frame(points)
