"""What of a thumbnail is compared: its grey values, its structure, and its low frequencies.

plain: the 32 x 32 thumbnail, centred and scaled to length 1; a dot product of two is Pearson's
    correlation, which ignores brightness and linear contrast.
structure: the 64 x 64 thumbnail minus its local mean, divided by its local spread (divisive
    normalisation). Gamma, histogram stretching and shading hardly change it, and the chest films
    of different patients, which correlate up to 0.97 at 32 x 32, differ in it.

The search compares low frequencies of both (2-D DCT). The DCT is orthonormal, so that leaving
frequencies out only shrinks distances; and mirroring or turning an image by quarter turns only
moves and negates coefficients, so that the eight orientations need no second look at the image.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.fft import dctn, rfft2
from scipy.ndimage import gaussian_filter

PLAIN_SIDE = 32
STRUCTURE_SIDE = 64
SIGMA = 2.5  # pixels of the 64 x 64 thumbnail: the neighbourhood of `structure`
FLOOR = 0.1  # of the image's own spread: local spread below it counts as noise
SHIFT = 2  # pixels of the 64 x 64 thumbnail that a copy may be moved on either axis: 3 % of a side

# (transpose, flip rows, flip columns), applied in that order. The first is the image as it is, the
# second is mirrored left-right.
ORIENTATIONS = tuple(product((False, True), repeat=3))


def orient(images: np.ndarray, orientation: int) -> np.ndarray:
    """Turn or mirror images (n, side, side) as `ORIENTATIONS[orientation]` says."""
    transpose, rows, columns = ORIENTATIONS[orientation]
    images = images.swapaxes(-1, -2) if transpose else images
    return images[..., :: -1 if rows else 1, :: -1 if columns else 1]


def unit(values: np.ndarray) -> np.ndarray:
    """Flatten (n, ...) to (n, d) float32, each centred and of length 1; constant rows become 0."""
    flat = np.asarray(values, np.float32).reshape(len(values), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.divide(flat, length, out=np.zeros_like(flat), where=length > 1e-6)


def structure(thumbnails: np.ndarray) -> np.ndarray:
    """Return the local structure of thumbnails (n, 64, 64) uint8, (n, 64, 64) float32.

    Each image is first scaled to a spread of 1; `FLOOR` keeps coding noise on an even background
    from counting as structure.
    """
    images = np.asarray(thumbnails, np.float32)
    spread = images.std(axis=(1, 2), keepdims=True)
    images = (images - images.mean(axis=(1, 2), keepdims=True)) / np.maximum(spread, 1e-6)
    scale = (0, SIGMA, SIGMA)
    detail = images - gaussian_filter(images, scale)
    energy = gaussian_filter(detail * detail, scale)
    return detail / np.sqrt(energy + FLOOR * FLOOR)


def frequencies(images: np.ndarray, count: int) -> np.ndarray:
    """Return the low DCT coefficients, `count` per axis, of images (n, side, side) of length 1:
    (n, count, count) float32; [:, 0, 0] is 0."""
    scaled = unit(images).reshape(images.shape)
    return dctn(scaled, axes=(1, 2), norm="ortho")[:, :count, :count].astype(np.float32)


def orient_frequencies(coefficients: np.ndarray, orientation: int) -> np.ndarray:
    """Return the DCT coefficients of the turned images: `frequencies(orient(x, o))` from x's."""
    transpose, rows, columns = ORIENTATIONS[orientation]
    if transpose:
        coefficients = coefficients.swapaxes(-1, -2)
    signs = np.where(np.arange(coefficients.shape[-1]) % 2, -1, 1).astype(np.float32)
    if rows:
        coefficients = coefficients * signs[:, None]
    if columns:
        coefficients = coefficients * signs
    return coefficients


# Half a thumbnail pixel is 0.8 % of a side. Structures are fine-grained: two that differ by half a
# pixel on both axes only correlate by about 0.8 at the nearest whole pixel, no more than
# neighbouring slices of a head do. So they are compared at every quarter of a pixel.
STEPS = 4  # shifts compared per thumbnail pixel, on either axis
SHIFTS = np.arange(-SHIFT * STEPS, SHIFT * STEPS + 1) / STEPS  # thumbnail pixels


def best_shift(images: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """Return the highest correlation of each template's window over shifts of up to `SHIFT` pixels.

    Normalised cross-correlation, equal to skimage.feature.match_template at whole pixels, for many
    pairs at once. Between pixels the image is interpolated by its Fourier series, without blur; the
    length of its window there is interpolated from the whole pixels around.

    Args:
        images, templates: (n, 64, 64) float32. Returns (n,) float32; may exceed 1 slightly.
    """
    images = np.asarray(images, np.float32)
    side = STRUCTURE_SIDE - 2 * SHIFT
    inner = np.s_[..., SHIFT:-SHIFT, SHIFT:-SHIFT]
    # Centred, so that the mean of the moving window falls out of the product; zero around it, so
    # that nothing enters from the opposite edge of the image.
    fixed = np.zeros_like(images)
    fixed[inner] = unit(templates[inner]).reshape(-1, side, side)
    product = (_DOWN @ (rfft2(images) * rfft2(fixed).conj()) @ _RIGHT).real
    total, energy = _box_sums(images, side), _box_sums(images**2, side)
    length = np.sqrt(np.maximum(energy - total**2 / side**2, 1e-6))
    return (product / (_BETWEEN @ length.astype(np.float32) @ _BETWEEN.T)).max(axis=(1, 2))


def moved_window(images: np.ndarray, down: float, right: float) -> np.ndarray:
    """Cut the window that leaves `SHIFT` pixels on each side of images (n, side, side) float32,
    moved by at most `SHIFT` pixels.

    Between pixels it takes the weighted mean of both, a slight blur, which low frequencies bear.
    """
    side = images.shape[-1]
    window = np.arange(SHIFT, side - SHIFT)
    rows, columns = (_between(window + move, np.arange(side)) for move in (down, right))
    return rows @ images @ columns.T


def _between(places: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the weights of linear interpolation, (places, pixels) float32."""
    return np.maximum(1 - np.abs(places[:, None] - pixels), 0).astype(np.float32)


def _waves(frequencies: np.ndarray) -> np.ndarray:
    """Return each frequency's wave at the shifts, (shifts, frequencies) complex64."""
    waves = np.exp(2j * np.pi * np.outer(SHIFTS, frequencies))
    highest = np.abs(frequencies) == 0.5  # has no phase between two pixels: its real part stays
    waves[:, highest] = waves[:, highest].real
    return waves.astype(np.complex64)


_DOWN = _waves(np.fft.fftfreq(STRUCTURE_SIDE)) / STRUCTURE_SIDE**2
_RIGHT = _waves(np.fft.rfftfreq(STRUCTURE_SIDE)).T
_RIGHT[1:-1] *= 2  # rfft2 leaves out the mirrored half of these
_BETWEEN = _between(SHIFTS, np.arange(-SHIFT, SHIFT + 1))


def _box_sums(images: np.ndarray, side: int) -> np.ndarray:
    """Return the sum over the window of `side` pixels at each place, (n, places, places)."""
    sums = np.zeros((len(images), images.shape[1] + 1, images.shape[2] + 1))
    sums[:, 1:, 1:] = images.cumsum(axis=1, dtype=float).cumsum(axis=2)
    rows = sums[:, side:] - sums[:, :-side]
    return rows[:, :, side:] - rows[:, :, :-side]
