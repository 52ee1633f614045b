"""Breast ultrasound: skin, fat, gland and speckle, with a benign or malignant lesion, or none.

A benign lesion is smooth, wider than tall, with posterior enhancement; a malignant one is
spiculated, taller than wide, with a posterior shadow.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pipeline.phantoms.shapes import blob, grid, smooth_noise, soften

CLASSES = ("benign", "malignant", "normal")


def draw_breast(
    patient: np.random.Generator, scan: np.random.Generator, label: str, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one sonogram.

    Args:
        patient, scan: random generators of what all scans of a patient share, and of the rest.
        label: one of `CLASSES`.
        shape: (h, w) in pixels.

    Returns:
        Float image (h, w) in [0, 1], and bool mask (h, w) of the lesion, empty for normal.
    """
    y, _ = grid(shape)
    depth = (y + 1) / 2
    wave = y + 0.06 * smooth_noise(patient, shape, 40)
    skin, fat = patient.uniform(-0.9, -0.82), patient.uniform(-0.5, -0.25)
    echo = np.where(wave < skin, 0.75, np.where(wave < fat, 0.3, 0.5)).astype(np.float32)
    echo += 0.1 * smooth_noise(patient, (shape[0], shape[1]), 6)
    echo += 0.25 * np.exp(-(((wave - fat) / 0.03) ** 2))
    echo += 0.12 * np.exp(-(((wave - patient.uniform(0.5, 0.8)) / 0.05) ** 2))  # muscle
    for _ in range(scan.integers(1, 4)):  # fat lobules: as dark as lesions, in every class
        lobule = blob(
            scan,
            shape,
            (scan.uniform(-0.6, 0.5), scan.uniform(-0.8, 0.8)),
            (scan.uniform(0.05, 0.1), scan.uniform(0.1, 0.25)),
            rough=0.1,
        )
        echo -= scan.uniform(0.05, 0.14) * soften(lobule, 4)

    mask = np.zeros(shape, bool)
    if label != "normal":
        mask = _lesion(scan, label, shape)
        echo = _paint(scan, echo, mask, label, depth)
    echo *= 1 - scan.uniform(0.2, 0.5) * depth  # attenuation
    # Fully developed speckle: Rayleigh-distributed amplitude, grain of about 1 pixel.
    real, imaginary = (
        ndimage.gaussian_filter(scan.standard_normal(shape).astype(np.float32), (0.6, 1.1))
        for _ in range(2)
    )
    speckle = np.hypot(real, imaginary)
    image = np.clip(echo, 0.02, None) * (0.35 + 0.65 * speckle / speckle.mean())
    return np.clip(image * scan.uniform(0.8, 1.2), 0, 1), mask


def _lesion(rng: np.random.Generator, label: str, shape: tuple[int, int]) -> np.ndarray:
    centre = (rng.uniform(-0.25, 0.25), rng.uniform(-0.5, 0.5))
    size = rng.uniform(0.14, 0.26)
    if label == "benign":
        radii = (size * rng.uniform(0.7, 0.95), size * rng.uniform(1.15, 1.5))
        return blob(rng, shape, centre, radii, angle=rng.uniform(-0.2, 0.2), rough=0.05)
    radii = (size * rng.uniform(1.0, 1.35), size * rng.uniform(0.85, 1.1))
    return blob(rng, shape, centre, radii, angle=rng.uniform(-0.3, 0.3), rough=0.35, spikes=9)


def _paint(
    rng: np.random.Generator, echo: np.ndarray, mask: np.ndarray, label: str, depth: np.ndarray
) -> np.ndarray:
    shape = echo.shape
    columns = np.flatnonzero(mask.any(axis=0))
    bottom = shape[0] - 1 - mask[::-1].argmax(axis=0)
    below = np.zeros(shape, bool)
    for column in columns:
        below[bottom[column] :, column] = True
    behind = soften(below, 4)
    if label == "benign":
        echo = echo * (1 + rng.uniform(0.15, 0.4) * behind)
        dark, edge = rng.uniform(0.08, 0.2), 1.0
    else:
        echo = echo * (1 - rng.uniform(0.25, 0.6) * behind)
        dark, edge = rng.uniform(0.06, 0.18), 2.2
    inside = soften(mask, edge)
    body = dark + 0.05 * np.abs(smooth_noise(rng, shape, 4))
    return echo * (1 - inside) + body * inside
