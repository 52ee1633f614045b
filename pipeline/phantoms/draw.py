"""Drawings of the four tasks: a head MRI, two chest radiographs and a breast ultrasound.

Each takes two random generators, of what all scans of a patient share and of the rest, a label,
and the (h, w) in pixels. It returns a float image (h, w) in [0, 1] and a bool mask (h, w) or None.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from scipy import ndimage

Shape = tuple[int, int]
BRAIN = ("glioma", "meningioma", "notumor", "pituitary")
BREAST = ("benign", "malignant", "normal")
COVID = ("Covid", "Normal", "Viral Pneumonia")
LUNG = ("bacterial", "normal", "viral")


def draw_brain(
    patient: Generator, scan: Generator, label: str, shape: Shape
) -> tuple[np.ndarray, np.ndarray | None]:
    """Draw an axial head MRI with one of three tumours or none, and the mask of the tumour.

    The classes differ in the position and structure of the tumour, as real ones do: a glioma is
    irregular with a dark core, inside the tissue; a meningioma is round and homogeneous, at the
    inner surface of the skull; a pituitary tumour is small, low, on the midline. There is no mask
    of notumor, as in the public dataset.
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
        image = _paint_tumour(scan, image, mask, label)
    image = image * scan.uniform(0.8, 1.2) + scan.uniform(-0.03, 0.03)
    image += 0.08 * scan.uniform(-1, 1) * x + 0.025 * scan.standard_normal(shape)
    return np.clip(image, 0, 1), mask


def _tumour(
    rng: Generator, label: str, shape: Shape, high: float, wide: float
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


def _paint_tumour(rng: Generator, image: np.ndarray, mask: np.ndarray, label: str) -> np.ndarray:
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


def draw_breast(
    patient: Generator, scan: Generator, label: str, shape: Shape
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a breast ultrasound with a lesion or none, and the mask of the lesion.

    A benign lesion is smooth, wider than tall, with posterior enhancement; a malignant one is
    spiculated, taller than wide, with a posterior shadow. The mask of normal is empty.
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
        echo = _paint_lesion(scan, echo, mask, label, depth)
    echo *= 1 - scan.uniform(0.2, 0.5) * depth  # attenuation
    # Fully developed speckle: Rayleigh-distributed amplitude, grain of about 1 pixel.
    real, imaginary = (
        ndimage.gaussian_filter(scan.standard_normal(shape).astype(np.float32), (0.6, 1.1))
        for _ in range(2)
    )
    speckle = np.hypot(real, imaginary)
    image = np.clip(echo, 0.02, None) * (0.35 + 0.65 * speckle / speckle.mean())
    return np.clip(image * scan.uniform(0.8, 1.2), 0, 1), mask


def _lesion(rng: Generator, label: str, shape: Shape) -> np.ndarray:
    centre = (rng.uniform(-0.25, 0.25), rng.uniform(-0.5, 0.5))
    size = rng.uniform(0.14, 0.26)
    if label == "benign":
        radii = (size * rng.uniform(0.7, 0.95), size * rng.uniform(1.15, 1.5))
        return blob(rng, shape, centre, radii, angle=rng.uniform(-0.2, 0.2), rough=0.05)
    radii = (size * rng.uniform(1.0, 1.35), size * rng.uniform(0.85, 1.1))
    return blob(rng, shape, centre, radii, angle=rng.uniform(-0.3, 0.3), rough=0.35, spikes=9)


def _paint_lesion(
    rng: Generator, echo: np.ndarray, mask: np.ndarray, label: str, depth: np.ndarray
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


def draw_chest(
    patient: Generator, scan: Generator, label: str, shape: Shape
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a frontal chest radiograph, and the mask of the lung fields.

    The classes differ in the opacities: peripheral patches on both sides (Covid), diffuse fine
    streaks (viral), one dense consolidation on one side (bacterial), or none (normal).
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


def _ribs(rng: Generator, x: np.ndarray, y: np.ndarray, shape: Shape) -> np.ndarray:
    bow, gap = rng.uniform(0.3, 0.45), rng.uniform(0.19, 0.24)
    bent = y - bow * x**2 + 0.05 * np.abs(x)
    phase = (bent / gap + rng.uniform(0, 1)) % 1 - 0.5
    return 0.1 * np.exp(-((phase / 0.16) ** 2)) * (np.abs(x) > 0.1)


def _opacities(
    rng: Generator, label: str, lungs: np.ndarray, air: np.ndarray, x: np.ndarray
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


def grid(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Return y and x in [-1, 1] float32 (h, w) each."""
    y, x = np.meshgrid(
        np.linspace(-1, 1, shape[0], dtype=np.float32),
        np.linspace(-1, 1, shape[1], dtype=np.float32),
        indexing="ij",
    )
    return y, x


def smooth_noise(rng: Generator, shape: Shape, scale: float) -> np.ndarray:
    """Return float32 (h, w) noise of mean 0, standard deviation 1 and grain `scale` pixels."""
    # Coarse noise on a coarse grid: as smooth, and many times faster.
    step = max(1, int(scale))
    coarse = rng.standard_normal((shape[0] // step + 3, shape[1] // step + 3)).astype(np.float32)
    coarse = ndimage.gaussian_filter(coarse, scale / step)
    fine = ndimage.zoom(coarse, step, order=1)[: shape[0], : shape[1]]
    return (fine - fine.mean()) / (fine.std() + 1e-6)


def blob(
    rng: Generator,
    shape: Shape,
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
