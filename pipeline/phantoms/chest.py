"""Frontal chest radiograph: body, ribs, spine, heart, lung fields, and opacities in the lungs.

The classes differ in the opacities: peripheral patches on both sides (Covid), diffuse fine streaks
(viral), one dense consolidation on one side (bacterial), or none (normal).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pipeline.phantoms.shapes import blob, grid, smooth_noise, soften

COVID_CLASSES = ("Covid", "Normal", "Viral Pneumonia")
LUNG_CLASSES = ("bacterial", "normal", "viral")


def draw_chest(
    patient: np.random.Generator, scan: np.random.Generator, label: str, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one radiograph.

    Args:
        patient, scan: random generators of what all scans of a patient share, and of the rest.
        label: one of `COVID_CLASSES` or `LUNG_CLASSES`.
        shape: (h, w) in pixels.

    Returns:
        Float image (h, w) in [0, 1], and bool mask (h, w) of the lung fields.
    """
    y, x = grid(shape)
    image = 0.62 * np.exp(-((np.abs(x) / 0.97) ** 12)) + 0.04 * smooth_noise(patient, shape, 20)
    image += 0.16 * np.exp(-((x / 0.13) ** 2))  # spine and mediastinum
    lungs = np.zeros(shape, bool)
    for side in (-1, 1):
        lungs |= blob(
            patient,
            shape,
            (patient.uniform(-0.12, -0.02), side * patient.uniform(0.38, 0.46)),
            (patient.uniform(0.6, 0.74), patient.uniform(0.24, 0.31)),
            angle=-side * patient.uniform(0.02, 0.14),
            rough=0.08,
        )
    heart = blob(
        patient,
        shape,
        (patient.uniform(0.22, 0.32), patient.uniform(0.08, 0.2)),
        (patient.uniform(0.26, 0.36), patient.uniform(0.22, 0.32)),
        rough=0.06,
    )
    lungs &= ~heart
    air = soften(lungs, 2.5)
    image -= patient.uniform(0.36, 0.46) * air
    image += 0.1 * soften(heart, 4)
    image += _ribs(patient, x, y, shape) * (0.35 + 0.65 * air)
    image += 0.025 * np.abs(smooth_noise(patient, shape, 3)) * air  # vessels
    image += _opacities(scan, label, lungs, air, x)
    image = image * scan.uniform(0.85, 1.15) + scan.uniform(-0.04, 0.06)
    image += 0.06 * scan.uniform(-1, 1) * y + 0.02 * scan.standard_normal(shape)
    return np.clip(image, 0, 1), lungs


def _ribs(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    bow, gap = rng.uniform(0.3, 0.45), rng.uniform(0.19, 0.24)
    bent = y - bow * x**2 + 0.05 * np.abs(x)
    phase = (bent / gap + rng.uniform(0, 1)) % 1 - 0.5
    return 0.1 * np.exp(-((phase / 0.16) ** 2)) * (np.abs(x) > 0.1)


def _opacities(
    rng: np.random.Generator, label: str, lungs: np.ndarray, air: np.ndarray, x: np.ndarray
) -> np.ndarray:
    shape = lungs.shape
    if label in ("Normal", "normal"):
        return np.zeros(shape, np.float32)
    if label in ("Viral Pneumonia", "viral"):
        streaks = smooth_noise(rng, shape, 2) - smooth_noise(rng, shape, 6)
        haze = 0.5 + 0.5 * smooth_noise(rng, shape, 30)
        return air * (rng.uniform(0.03, 0.07) * np.abs(streaks) + 0.05 * np.clip(haze, 0, 2))
    depth = ndimage.distance_transform_edt(lungs) / max(shape)
    opacity = np.zeros(shape, np.float32)
    if label == "bacterial":
        places = np.argwhere(lungs & (depth > 0.05) & ((x < 0) == (rng.random() < 0.5)))
        spots, size, density = 1, rng.uniform(0.22, 0.36), rng.uniform(0.25, 0.36)
    else:
        places = np.argwhere(lungs & (depth < 0.05) & (np.abs(x) > 0.4))
        spots, size, density = rng.integers(4, 8), 0.13, rng.uniform(0.12, 0.22)
    for centre in places[rng.integers(0, len(places), spots)]:
        at = 2 * centre / (np.array(shape) - 1) - 1
        radii = size * rng.uniform(0.8, 1.2, 2)
        opacity = np.maximum(
            opacity, soften(blob(rng, shape, tuple(at), tuple(radii), rough=0.3), 5)
        )
    return air * opacity * density * (1 + 0.15 * smooth_noise(rng, shape, 4))
