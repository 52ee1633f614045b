"""Drawn images with known masks: ultrasound, brain MRI, chest, plain shapes. Seeded, no photo."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SIZE = 256


def _blob(rng: np.random.Generator, size: float, wobble: float) -> np.ndarray:
    """Return a random star-shaped mask, bool (SIZE, SIZE), about `size` of the image's side."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    cx, cy = rng.uniform(0.2, 0.8, 2)
    turn, aspect = rng.uniform(0, np.pi), rng.uniform(0.5, 1.0)
    u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
    v = (-(x - cx) * np.sin(turn) + (y - cy) * np.cos(turn)) / aspect
    angle, radius = np.arctan2(v, u), np.hypot(u, v)
    edge = np.ones_like(angle)
    for k in range(2, 9):
        edge += wobble * rng.normal() / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    return radius < size / 2 * np.clip(edge, 0.3, 2)


def _noise(rng: np.random.Generator, sigma: float | tuple[float, float]) -> np.ndarray:
    """Return smooth noise, float (SIZE, SIZE), mean 0 and deviation 1."""
    field = ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), sigma)
    return (field - field.mean()) / (field.std() + 1e-6)


def _grey(image: np.ndarray) -> np.ndarray:
    levels = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=2)


def ultrasound(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a dark, rough-edged lesion in layered speckle, with a shadow or an enhancement below.

    Args:
        rng: source of every choice.

    Returns:
        uint8 (256, 256, 3) image and bool (256, 256) mask of the lesion.
    """
    depth = np.linspace(0, 1, SIZE)[:, None]
    layers = 0.5 + 0.16 * _noise(rng, (rng.uniform(4, 14), rng.uniform(30, 80)))
    layers += 0.08 * _noise(rng, (8, 12))
    layers *= np.exp(-rng.uniform(0, 1.2) * depth)
    lesion = _blob(
        rng, rng.choice([0.12, 0.22, 0.35, 0.5]) * rng.uniform(0.8, 1.3), rng.uniform(0.05, 0.45)
    )
    soft = ndimage.gaussian_filter(lesion.astype(float), rng.uniform(0.8, 4))
    inner = rng.uniform(0.08, 0.5) + rng.uniform(0, 0.12) * _noise(rng, 6)
    tissue = layers * (1 - soft) + layers * inner * soft
    if rng.random() < 0.5:  # rim brighter than what lies around it
        rim = ndimage.gaussian_filter(lesion.astype(float), 6) * (1 - soft)
        tissue += rng.uniform(0, 0.5) * rim
    columns = lesion.any(axis=0)
    bottom = np.where(columns, SIZE - 1 - np.argmax(lesion[::-1], axis=0), SIZE)
    below = (np.arange(SIZE)[:, None] > bottom[None]).astype(float)
    below = ndimage.gaussian_filter(below, (3, rng.uniform(3, 10)))
    tissue *= 1 + rng.choice([-0.6, -0.4, 0.0, 0.5]) * rng.uniform(0.4, 1) * below
    for _ in range(rng.integers(0, 4)):  # shadows and vessels that are no lesion
        if rng.random() < 0.5:
            width = rng.uniform(5, 30)
            gap = np.abs(np.arange(SIZE) - rng.uniform(0, SIZE)) < width
            tissue *= 1 - rng.uniform(0.2, 0.7) * ndimage.gaussian_filter(gap * 1.0, 4)[None]
        else:
            band = np.abs(depth * SIZE - rng.uniform(0, SIZE) - 12 * _noise(rng, (60, 40))) < 6
            fade = ndimage.gaussian_filter(band * 1.0, 3) * (1 - soft)
            tissue *= 1 + rng.uniform(-0.5, 0.6) * fade
    grain = ndimage.gaussian_filter(
        rng.rayleigh(1.0, (SIZE, SIZE)), (rng.uniform(0.5, 1.2), rng.uniform(0.7, 2.2))
    )
    grain = np.clip(1 + (grain / grain.mean() - 1) * rng.uniform(0.8, 2.0), 0, None)
    image = np.clip(tissue, 0, None) * grain
    image = np.clip(image, 0, 1) ** rng.uniform(0.6, 1.2)
    if rng.random() < 0.3:  # a probe's fan with black corners
        y, x = np.mgrid[:SIZE, :SIZE] / SIZE
        fan = np.abs(x - 0.5) < rng.uniform(0.25, 0.4) + rng.uniform(0.2, 0.6) * y
        image, lesion = image * fan, lesion & fan
    return _grey(image * rng.uniform(0.8, 1.4)), lesion


def brain(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a head slice (skull, brain, ventricles) with a bright or dark lesion inside the brain.

    Args:
        rng: source of every choice.

    Returns:
        uint8 (256, 256, 3) image and bool (256, 256) mask of the lesion.
    """
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    a, b = rng.uniform(0.3, 0.44), rng.uniform(0.34, 0.47)
    radius = np.hypot(x / a, y / b) + 0.03 * _noise(rng, 30)
    image = np.zeros((SIZE, SIZE))
    image[radius < 1] = rng.uniform(0.4, 1.0)
    image[radius < 0.93] = rng.uniform(0.0, 0.25)
    inside = radius < 0.87
    matter = rng.uniform(0.25, 0.6) + rng.uniform(0.02, 0.1) * _noise(rng, rng.uniform(2, 6))
    image[inside] = matter[inside]
    for side in (-1, 1):
        away, length = side * rng.uniform(0.03, 0.07), rng.uniform(0.06, 0.14)
        horn = np.hypot((x - away) / 0.03, y / length) < 1
        image[horn] = rng.uniform(0.02, 0.2)
    for _ in range(20):
        lesion = _blob(rng, rng.uniform(0.07, 0.3), rng.uniform(0.02, 0.25)) & inside
        if lesion.sum() > 150:
            break
    soft = ndimage.gaussian_filter(lesion.astype(float), rng.uniform(0.6, 2.5))
    level = image + rng.choice([-0.25, 0.2, 0.3, 0.45]) * rng.uniform(0.6, 1.2)
    if rng.random() < 0.4:  # ring enhancement
        core = ndimage.binary_erosion(lesion, iterations=int(rng.integers(3, 9)))
        level = level - rng.uniform(0.2, 0.5) * ndimage.gaussian_filter(core * 1.0, 1.5)
    if rng.random() < 0.4:  # oedema around it, not part of the mask
        around = ndimage.gaussian_filter(lesion * 1.0, rng.uniform(6, 14)) * (1 - soft) * inside
        image = image + rng.uniform(-0.3, 0.3) * around
    image = image * (1 - soft) + (level + 0.06 * _noise(rng, 3)) * soft
    image = ndimage.gaussian_filter(image, rng.uniform(0.5, 1.4))
    return _grey(image + rng.uniform(0.01, 0.05) * rng.normal(size=image.shape)), lesion


def chest(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a chest radiograph: bright body, two dark lung fields, ribs, a heart.

    Args:
        rng: source of every choice.

    Returns:
        uint8 (256, 256, 3) image and bool (256, 256) mask of both lungs.
    """
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    lungs = np.zeros((SIZE, SIZE), bool)
    for side in (-1, 1):
        cx, a, b = side * rng.uniform(0.17, 0.23), rng.uniform(0.1, 0.15), rng.uniform(0.2, 0.34)
        lungs |= (np.hypot((x - cx) / a, y / b) + 0.06 * _noise(rng, 25)) < 1
    body = 0.75 - 0.5 * ndimage.gaussian_filter(lungs * 1.0, rng.uniform(2, 6))
    body += 0.05 * np.sin(y * rng.uniform(60, 110) + 3 * x * x) * (np.abs(x) < 0.4)
    heart = np.hypot((x - 0.07) / 0.13, (y - 0.15) / 0.12) < 1
    body += 0.25 * np.exp(-((x / 0.06) ** 2)) + 0.2 * heart
    body += 0.08 * _noise(rng, 15) + 0.02 * rng.normal(size=body.shape)
    return _grey(ndimage.gaussian_filter(body, 1) * rng.uniform(0.7, 1.1)), lungs


def shapes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one textured shape among others' colours on a textured ground.

    Args:
        rng: source of every choice.

    Returns:
        uint8 (256, 256, 3) image and bool (256, 256) mask of the shape drawn last.
    """

    def texture() -> np.ndarray:
        grain = _noise(rng, rng.uniform(0.6, 10))[..., None]
        return rng.uniform(0, 1, 3) + rng.uniform(0, 0.2) * grain * rng.uniform(0.3, 1, 3)

    image = texture()
    mask = np.zeros((SIZE, SIZE), bool)
    for _ in range(rng.integers(1, 4)):
        mask = _blob(rng, rng.uniform(0.12, 0.6), rng.uniform(0, 0.5))
        soft = ndimage.gaussian_filter(mask * 1.0, rng.uniform(0.4, 3))[..., None]
        image = image * (1 - soft) + texture() * soft
    image = image + rng.uniform(0, 0.08) * rng.normal(size=image.shape)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8), mask


KINDS = {"ultrasound": ultrasound, "brain": brain, "chest": chest, "shapes": shapes}


def draw(kind: str, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw `count` phantoms of one kind, the same for the same seed.

    Args:
        kind: a key of `KINDS`.
        count: how many.
        seed: any integer of at least 0.

    Returns:
        Pairs of a uint8 (256, 256, 3) image and a bool (256, 256) mask of at least 64 pixels.
    """
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    drawn: list[tuple[np.ndarray, np.ndarray]] = []
    while len(drawn) < count:
        image, mask = KINDS[kind](rng)
        if mask.sum() >= 64:
            drawn.append((image, mask))
    return drawn
