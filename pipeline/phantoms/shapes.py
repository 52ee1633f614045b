"""Building blocks of the phantoms: smooth noise, blobs with irregular edges, soft edges."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def grid(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return y and x in [-1, 1] float32 (h, w) each."""
    y, x = np.meshgrid(
        np.linspace(-1, 1, shape[0], dtype=np.float32),
        np.linspace(-1, 1, shape[1], dtype=np.float32),
        indexing="ij",
    )
    return y, x


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Return float32 (h, w) noise of mean 0, standard deviation 1 and grain `scale` pixels."""
    # Coarse noise on a coarse grid: as smooth, and many times faster.
    step = max(1, int(scale))
    coarse = rng.standard_normal((shape[0] // step + 3, shape[1] // step + 3)).astype(np.float32)
    coarse = ndimage.gaussian_filter(coarse, scale / step)
    fine = ndimage.zoom(coarse, step, order=1)[: shape[0], : shape[1]]
    return (fine - fine.mean()) / (fine.std() + 1e-6)


def blob(
    rng: np.random.Generator,
    shape: tuple[int, int],
    centre: tuple[float, float],
    radii: tuple[float, float],
    *,
    angle: float = 0.0,
    rough: float = 0.0,
    spikes: int = 5,
) -> np.ndarray:
    """Return an ellipse with an undulating edge, bool (h, w).

    Args:
        rng: random generator of the undulation.
        shape: (h, w) in pixels.
        centre, radii: (y, x) in the units of `grid`.
        angle: rotation in radians.
        rough: amplitude of the undulation as a fraction of the radius.
        spikes: number of periods around the edge.
    """
    y, x = (np.linspace(-1, 1, size, dtype=np.float32) for size in shape)
    reach = float(max(radii)) * (1 + 2 * rough)
    rows = slice(*np.searchsorted(y, (centre[0] - reach, centre[0] + reach)))
    columns = slice(*np.searchsorted(x, (centre[1] - reach, centre[1] + reach)))
    dy, dx = y[rows, None] - np.float32(centre[0]), x[None, columns] - np.float32(centre[1])
    sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    v = (dy * cosine - dx * sine) / np.float32(radii[0])
    u = (dy * sine + dx * cosine) / np.float32(radii[1])
    edge = np.float32(1)
    if rough:
        around = np.arctan2(v, u)
        for k in (2, 3, spikes, spikes + 2):
            height = np.float32(rough * rng.uniform(0.3, 1) / 2)
            edge = edge + height * np.sin(k * around + np.float32(rng.uniform(0, 2 * np.pi)))
    region = np.zeros(shape, bool)
    region[rows, columns] = u**2 + v**2 < edge**2
    return region


def soften(mask: np.ndarray, sigma: float) -> np.ndarray:
    """Return the mask with soft edges, float32 in [0, 1]; `sigma` in pixels."""
    return ndimage.gaussian_filter(mask.astype(np.float32), sigma, truncate=3)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Return a float image in [0, 1] as uint8."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
