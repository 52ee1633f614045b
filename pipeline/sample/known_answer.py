"""Images of which the right answer is known: the class is in the lesion, or in the background.

A method that looks at the masked image must win on the first kind and fail on the second, and
the other way round for one that looks at the background alone.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.intake import AddSummary
from pipeline.paths import Paths
from pipeline.sample.make import write_phantoms
from pipeline.sample.shapes import blob, smooth_noise, soften

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
    """Write a two-class set `name` (with masks) whose class shows only in one place.

    Args:
        paths: the project folder.
        name: name of the dataset to make.
        where: "lesion": the texture inside the mask is the class, that outside is drawn at
            random of both; "background": the other way round.
        n: number of images.
        seed: same seed, same bytes.
        size: smallest side, pixels; the largest is a quarter more.
        force: replace what a manifest of real images describes.
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
        image = image + 0.3 * rim * (1 - rim) * 4  # the lesion can be found by its bright rim
        return np.clip(image, 0, 1), mask

    return write_phantoms(
        paths, name, draw, CLASSES, n, seed, sizes=(size, size + size // 4), force=force
    )


def _texture(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> np.ndarray:
    """Both textures have the same mean and spread, so that brightness tells nothing."""
    if kind == "striped":
        y, x = np.mgrid[: shape[0], : shape[1]]
        angle = rng.uniform(-0.3, 0.3)
        wave = np.sin((y * np.cos(angle) + x * np.sin(angle)) * 2 * np.pi / rng.uniform(7, 10))
        pattern = wave * np.sqrt(2)
    else:
        pattern = smooth_noise(rng, shape, 2)
    pattern = pattern + 0.4 * rng.standard_normal(shape)
    return (0.45 + 0.12 * pattern + rng.uniform(-0.06, 0.06)).astype(np.float32)
