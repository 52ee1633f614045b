"""Axial head MRI: skull, brain with folds and ventricles, and one of three tumours or none.

The classes differ in the position and structure of the tumour, as real ones do: a glioma is
irregular with a dark core, inside the tissue; a meningioma is round and homogeneous, at the inner
surface of the skull; a pituitary tumour is small, low, on the midline.
"""

from __future__ import annotations

import numpy as np

from pipeline.phantoms.shapes import blob, grid, smooth_noise, soften

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def draw_brain(
    patient: np.random.Generator, scan: np.random.Generator, label: str, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Draw one slice.

    Args:
        patient: random generator of what all scans of a patient share (the head).
        scan: random generator of the rest (tumour, noise, contrast).
        label: one of `CLASSES`.
        shape: (h, w) in pixels.

    Returns:
        Float image (h, w) in [0, 1], and bool mask (h, w) of the tumour; None for notumor, as in
        the public dataset.
    """
    y, x = grid(shape)
    high, wide = patient.uniform(0.78, 0.9), patient.uniform(0.62, 0.76)
    head = (y / high) ** 2 + (x / wide) ** 2
    brain = head < 0.74
    folds = smooth_noise(patient, shape, 3.5)
    image = np.where(head < 1, 0.18, 0.02).astype(np.float32)
    image += 0.55 * np.exp(-(((head - 0.92) / 0.06) ** 2))  # scalp and skull
    tissue = 0.38 + 0.05 * smooth_noise(patient, shape, 14) + 0.06 * np.tanh(2 * folds)
    tissue -= 0.1 * np.exp(-((x / 0.012) ** 2)) * (y < 0.2)  # fissure between the hemispheres
    for side in (-1, 1):
        horn = blob(
            patient,
            shape,
            (patient.uniform(-0.1, 0.0), side * 0.12),
            (patient.uniform(0.16, 0.26), patient.uniform(0.04, 0.08)),
            angle=side * 0.3,
            rough=0.1,
        )
        tissue -= 0.24 * soften(horn, 1.2)
    image = np.where(brain, tissue, image)
    for _ in range(scan.integers(2, 6)):  # vessels: brightness does not give the class away
        spot = scan.uniform(-0.5, 0.5, 2)
        vessel = blob(scan, shape, (spot[0], spot[1]), (0.03, 0.03))
        image += scan.uniform(0.1, 0.35) * soften(vessel, 1) * brain

    mask = _tumour(scan, label, shape, high, wide)
    if mask is not None:
        mask &= head < 0.8
        image = _paint(scan, image, mask, label)
    image = image * scan.uniform(0.8, 1.2) + scan.uniform(-0.03, 0.03)
    image += 0.08 * scan.uniform(-1, 1) * x + 0.025 * scan.standard_normal(shape)
    return np.clip(image, 0, 1), mask


def _tumour(
    rng: np.random.Generator, label: str, shape: tuple[int, int], high: float, wide: float
) -> np.ndarray | None:
    angle = rng.uniform(0, 2 * np.pi)
    if label == "glioma":
        far = rng.uniform(0.25, 0.55)
        centre = (far * high * np.sin(angle), far * wide * np.cos(angle))
        radii = tuple(rng.uniform(0.13, 0.28, 2))
        return blob(rng, shape, centre, radii, angle=angle, rough=0.3, spikes=7)
    if label == "meningioma":
        centre = (0.72 * high * np.sin(angle), 0.72 * wide * np.cos(angle))
        radius = rng.uniform(0.1, 0.22)
        return blob(rng, shape, centre, (radius, radius * rng.uniform(0.85, 1.15)), rough=0.05)
    if label == "pituitary":
        centre = (rng.uniform(0.28, 0.42), rng.uniform(-0.06, 0.06))
        radii = (rng.uniform(0.07, 0.14), rng.uniform(0.08, 0.15))
        return blob(rng, shape, centre, radii, rough=0.1)
    return None


def _paint(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, label: str) -> np.ndarray:
    shape = image.shape
    inside = soften(mask, 1.2)
    grey = rng.uniform(0.6, 0.78)
    if label == "glioma":
        image = image - 0.1 * soften(mask, 9) * (image > 0.15)  # oedema
        core = soften(mask, 5) > 0.82
        body = grey + 0.1 * smooth_noise(rng, shape, 4) - 0.4 * soften(core, 2)
    elif label == "meningioma":
        body = grey + 0.02 * smooth_noise(rng, shape, 6)
    else:
        body = grey - 0.06 + 0.05 * smooth_noise(rng, shape, 5)
    return image * (1 - inside) + body * inside
