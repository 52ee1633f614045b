"""How alike two pictures are when one is moved a little, by fractions of a thumbnail's pixel too.

0.8 % of a side are half a pixel of a 64 x 64 thumbnail. Structures are fine-grained: two that are
the same but for half a pixel on both axes correlate by about 0.8 at the nearest whole pixel, no
more than neighbouring slices of a head do. So they are compared at every quarter of a pixel.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import rfft2

from pipeline.audit.descriptors import SHIFT, STRUCTURE_SIDE, unit, window

STEPS = 4  # shifts compared for each thumbnail pixel, on either axis
SHIFTS = np.arange(-SHIFT * STEPS, SHIFT * STEPS + 1) / STEPS  # thumbnail pixels


def best_shift(images: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """Return the highest correlation of each template's window over shifts of up to `SHIFT` pixels.

    Args:
        images, templates: (n, 64, 64) float32.

    Returns:
        (n,) float32.
    """
    return correlations(images, templates).max(axis=(1, 2))


def correlations(images: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """Return the correlation of each template's window with the image's at all shifts.

    Normalised cross-correlation as in skimage.feature.match_template, and equal to it at whole
    pixels, for many pairs at once. Between pixels the image is continued without blur, by its
    Fourier series; the length of its window there is taken from the whole pixels around.

    Args:
        images, templates: (n, 64, 64) float32.

    Returns:
        (n, shifts, shifts) float32, `SHIFTS` down and right; may exceed 1 by a hair.
    """
    images = np.asarray(images, np.float32)
    side = STRUCTURE_SIDE - 2 * SHIFT
    # Centred, so that the mean of the moving window falls out of the product; zero around it, so
    # that nothing comes in from the opposite edge of the image.
    fixed = np.zeros_like(images)
    window(fixed)[...] = unit(window(templates)).reshape(-1, side, side)
    product = (_DOWN @ (rfft2(images) * rfft2(fixed).conj()) @ _RIGHT).real
    total, energy = _box_sums(images, side), _box_sums(images**2, side)
    length = np.sqrt(np.maximum(energy - total**2 / side**2, 1e-6))
    return product / (_BETWEEN @ length.astype(np.float32) @ _BETWEEN.T)


def moved_window(images: np.ndarray, down: float, right: float) -> np.ndarray:
    """Cut the window moved by fractions of a pixel, between pixels by the mean of both, weighted.

    That blurs a little: it is meant for comparing low frequencies.

    Args:
        images: (n, side, side) float32.
        down, right: pixels, at most `SHIFT` either way.
    """
    side = images.shape[-1]
    rows, columns = (_cut(side, move) for move in (down, right))
    return rows @ images @ columns.T


def _cut(side: int, move: float) -> np.ndarray:
    """Return the weights of an axis's pixels in those of the moved window, (window, side)."""
    at = np.arange(SHIFT, side - SHIFT) + move
    return np.maximum(1 - np.abs(at[:, None] - np.arange(side)), 0).astype(np.float32)


def _waves(frequencies: np.ndarray) -> np.ndarray:
    """Return each frequency's wave at the shifts, (shifts, frequencies) complex64."""
    waves = np.exp(2j * np.pi * np.outer(SHIFTS, frequencies))
    highest = np.abs(frequencies) == 0.5  # has no phase between two pixels: its real part stays
    waves[:, highest] = waves[:, highest].real
    return waves.astype(np.complex64)


_DOWN = _waves(np.fft.fftfreq(STRUCTURE_SIDE)) / STRUCTURE_SIDE**2
_RIGHT = _waves(np.fft.rfftfreq(STRUCTURE_SIDE)).T
_RIGHT[1:-1] *= 2  # rfft2 leaves out the mirrored half of these
_BETWEEN = np.maximum(1 - np.abs(SHIFTS[:, None] - np.arange(-SHIFT, SHIFT + 1)), 0).astype(
    np.float32
)


def _box_sums(images: np.ndarray, side: int) -> np.ndarray:
    """Return the sum over the window of `side` pixels at each place, (n, places, places)."""
    sums = np.zeros((len(images), images.shape[1] + 1, images.shape[2] + 1))
    sums[:, 1:, 1:] = images.cumsum(axis=1, dtype=float).cumsum(axis=2)
    rows = sums[:, side:] - sums[:, :-side]
    return rows[:, :, side:] - rows[:, :, :-side]
