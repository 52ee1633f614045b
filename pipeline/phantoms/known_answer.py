"""Datasets with a known answer: the class is visible in the lesion only, or in the background only.

A classifier of the masked image must succeed on the first kind and fail on the second; a
classifier of the background the opposite.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.intake import AddSummary
from pipeline.paths import Paths
from pipeline.phantoms.make import write_phantoms
from pipeline.phantoms.shapes import blob, smooth_noise, soften

CLASSES = ("striped", "spotted")


def make_known_answer(
    paths: Paths,
    name: str,
    where: Literal["lesion", "background"] = "lesion",
    n: int = 120,
    seed: int = 0,
    *,
    size: int = 96,
    force: bool = False,
) -> AddSummary:
    """Write a two-class dataset with masks whose class is visible in one region only.

    Args:
        paths: the project folder.
        name: name of the dataset.
        where: "lesion": the texture inside the mask is that of the class, the texture outside is
            random; "background": the opposite.
        n: number of images.
        seed: the same seed gives the same bytes.
        size: smallest side in pixels; the largest is 5/4 of it.
        force: replace the manifest of real images.
    """

    def draw(
        patient: np.random.Generator, scan: np.random.Generator, label: str, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        centre, radii = scan.uniform(-0.35, 0.35, 2), scan.uniform(0.3, 0.5, 2)
        mask = blob(scan, shape, tuple(centre), tuple(radii), rough=0.1)
        other = CLASSES[int(scan.integers(2))]
        inner, outer = (label, other) if where == "lesion" else (other, label)
        edge = soften(mask, 1)
        image = _texture(scan, inner, shape) * edge + _texture(scan, outer, shape) * (1 - edge)
        rim = soften(mask, 2)
        image = image + 0.3 * rim * (1 - rim) * 4  # a bright rim makes the lesion visible
        return np.clip(image, 0, 1), mask

    return write_phantoms(
        paths, name, draw, CLASSES, n, seed, sizes=(size, size + size // 4), force=force
    )


def _texture(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> np.ndarray:
    """Return a texture; both kinds have the same mean and variance."""
    if kind == "striped":
        y, x = np.mgrid[: shape[0], : shape[1]]
        angle = rng.uniform(-0.3, 0.3)
        wave = np.sin((y * np.cos(angle) + x * np.sin(angle)) * 2 * np.pi / rng.uniform(7, 10))
        pattern = wave * np.sqrt(2)
    else:
        pattern = smooth_noise(rng, shape, 2)
    pattern = pattern + 0.4 * rng.standard_normal(shape)
    return (0.45 + 0.12 * pattern + rng.uniform(-0.06, 0.06)).astype(np.float32)
