"""Where the slices of a volume lie in space, so that masks are compared by place, not by number."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from pipeline.errors import ImageError

TOLERANCE = 0.25  # of a voxel, at the corners; affines are saved with rounding errors


@dataclass(frozen=True)
class Grid:
    """The displayed slices of a volume: shape (frames, rows, columns), and the affine (4, 4) from
    these indices to millimetres."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    def __str__(self) -> str:
        """Say size, spacing and the place of the first pixel."""
        size = " x ".join(map(str, self.shape))
        spacing = " x ".join(f"{v:.3g}" for v in np.linalg.norm(self.affine[:3, :3], axis=0))
        return f"{size} at ({', '.join(f'{v:.4g}' for v in self.affine[:3, 3])}), {spacing} mm"


def same_grid(a: Grid, b: Grid) -> bool:
    """Return whether two volumes have the same voxels in the same places."""
    if a.shape != b.shape:
        return False
    corners = np.array([*product(*((0, n - 1) for n in a.shape))], float)
    return bool(np.abs(_indices(corners, b, a) - corners).max() <= TOLERANCE)


def another_grid(mask: Grid, image: Grid, path: Path) -> ImageError:
    """Return the error for a mask that does not lie on the grid of its image."""
    what = f"the mask lies on another grid ({mask}) than its image ({image})"
    remedy = "take its nearest voxels by place with --resize-masks"
    if mask.shape == image.shape:
        remedy += "; or correct its affine, if its voxels are those of the image"
    return ImageError(what, path=path, remedy=remedy)


def resample(volume: np.ndarray, own: Grid, image: Grid, frame: int) -> np.ndarray:
    """Return a slice of the image from a mask (frames, rows, columns) on its own grid: for each
    pixel (h, w) the nearest voxel, False outside."""
    rows, columns = image.shape[1:]
    index = np.stack(np.meshgrid([frame], range(rows), range(columns), indexing="ij"), axis=-1)
    near = np.rint(_indices(index.reshape(-1, 3).astype(float), image, own)).astype(int)
    inside = ((near >= 0) & (near < own.shape)).all(axis=1)
    found = np.zeros(len(near), bool)
    found[inside] = volume[tuple(near[inside].T)]
    return found.reshape(rows, columns)


def region_box(volume: np.ndarray) -> np.ndarray | None:
    """Return the corners (8, 3) of the smallest box around a region, as indices; None if empty."""
    if not volume.any():
        return None
    sides = (volume.any(axis=axes).nonzero()[0] for axes in ((1, 2), (0, 2), (0, 1)))
    return np.array([*product(*((side[0], side[-1]) for side in sides))], float)


def lies_outside(box: np.ndarray, own: Grid, image: Grid) -> bool:
    """Return whether a box of `region_box` on its own grid has no part in an image."""
    corners = _indices(box, own, image)
    low, high = corners.min(axis=0) - 0.5, corners.max(axis=0) + 0.5
    return bool(((high < 0) | (low > np.array(image.shape) - 1)).any())


def _indices(points: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Map indices (n, 3) of one grid to those of another, by place."""
    to_target = np.linalg.inv(target.affine) @ source.affine
    return points @ to_target[:3, :3].T + to_target[:3, 3]
