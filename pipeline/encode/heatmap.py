"""Patch-text similarity maps: where in an image CLIP sees what a text says.

For illustration only, not part of the method: patch features of CLIP are not trained to be
compared with texts, so these maps show tendencies (MaskCLIP, Zhou et al. 2022).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pipeline.encode.geometry import Geometry, make_geometry
from pipeline.encode.mapper import normalise
from pipeline.encode.views import fill_colour
from pipeline.models import ClipModel


def patch_similarity(
    clip: ClipModel, image: np.ndarray, text: np.ndarray, geometry: str = "pad", fill: str = "black"
) -> np.ndarray:
    """Return the cosine similarity of every pixel of an image to a text.

    Args:
        clip: from `pipeline.models.load_clip`.
        image: uint8 (h, w, 3).
        text: float32 (d,) text feature.
        geometry: `encode.geometry`.
        fill: `encode.fill`; decides the colour of the padding.

    Returns:
        float32 (h, w), at the size of the image; NaN where the `crop` geometry hides the image from
        the model.
    """
    plan = make_geometry(geometry, *image.shape[:2], clip.image_size)
    frame = plan.apply(image, fill_colour(fill, clip.mean), clip.interpolation)
    patches = clip.encode_patches(normalise(frame[None], clip.mean, clip.std))[0].cpu().numpy()
    patches = patches / np.linalg.norm(patches, axis=-1, keepdims=True).clip(1e-12)
    return grid_to_image(patches @ (text / np.linalg.norm(text).clip(1e-12)), plan)


def grid_to_image(grid: np.ndarray, plan: Geometry) -> np.ndarray:
    """Interpolate a grid of patches at the pixels of the image.

    Args:
        grid: (rows, columns), covering the frame evenly.
        plan: the mapping of the image to the frame.

    Returns:
        float32 (h, w), bilinear between the centres of the patches; NaN outside the frame.
    """
    rows, columns = grid.shape
    x = plan.to_model_frame(np.stack([np.arange(plan.width) + 0.5] * 2, 1))[:, 0]
    y = plan.to_model_frame(np.stack([np.arange(plan.height) + 0.5] * 2, 1))[:, 1]
    where = np.meshgrid(y / plan.size * rows - 0.5, x / plan.size * columns - 0.5, indexing="ij")
    image = ndimage.map_coordinates(grid.astype(np.float32), where, order=1, mode="nearest")
    image[(y < 0) | (y > plan.size), :] = np.nan
    image[:, (x < 0) | (x > plan.size)] = np.nan
    return image
