"""What of a thumbnail is compared: its grey values, and its structure whatever the contrast.

`plain`: the 32 x 32 grey thumbnail, centred and scaled to length 1; a dot product is then
Pearson's correlation, which ignores brightness and linear contrast.
`structure`: the 64 x 64 thumbnail with the local mean taken out and divided by the local spread
(divisive normalisation); gamma, histogram stretching and shading hardly change it, and
different patients' chest films, alike at 32 x 32 (correlation up to 0.97), differ in it.

Searching takes the low frequencies of both (2-D DCT). The DCT is orthonormal, so leaving
frequencies out only shrinks distances; and turning an image by quarter turns or mirroring it only
moves and negates coefficients, so the eight orientations cost no second look at the image.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

PLAIN_SIDE = 32
STRUCTURE_SIDE = 64
SHIFT = 2  # thumbnail pixels that a copy may be moved by, on either axis: 2 / 64 = 3 % of a side
PLAIN_FREQUENCIES = 8  # DCT frequencies kept per axis for the search
STRUCTURE_FREQUENCIES = 14
SIGMA = 2.5  # thumbnail pixels, of the neighbourhood of `structure`
FLOOR = 0.1  # of the image's own spread, below which local spread counts as noise

# An orientation is (transpose, flip rows, flip columns), applied in that order.
ORIENTATIONS: tuple[tuple[bool, bool, bool], ...] = (
    (False, False, False),  # as it is
    (False, False, True),  # mirrored left-right
    (False, True, False),  # mirrored top-bottom
    (False, True, True),  # half a turn
    (True, False, False),
    (True, False, True),  # a quarter turn
    (True, True, False),  # three quarters
    (True, True, True),
)
SAME, MIRROR = 0, 1


def orient(images: np.ndarray, orientation: int) -> np.ndarray:
    """Turn or mirror images (n, side, side) as `ORIENTATIONS[orientation]` says."""
    transpose, rows, columns = ORIENTATIONS[orientation]
    if transpose:
        images = images.swapaxes(-1, -2)
    if rows:
        images = images[..., ::-1, :]
    if columns:
        images = images[..., ::-1]
    return images


def inverse(orientation: int) -> int:
    """Return the orientation that undoes `orientation`."""
    transpose, rows, columns = ORIENTATIONS[orientation]
    if transpose:
        rows, columns = columns, rows
    return ORIENTATIONS.index((transpose, rows, columns))


def window(images: np.ndarray, down: int = 0, right: int = 0) -> np.ndarray:
    """Cut the window that leaves `SHIFT` pixels on each side, moved by (down, right) pixels."""
    side = images.shape[-1] - 2 * SHIFT
    top, left = SHIFT + down, SHIFT + right
    return images[..., top : top + side, left : left + side]


def unit(values: np.ndarray) -> np.ndarray:
    """Flatten (n, ...), centre each row and scale it to length 1; constant rows become 0.

    Returns:
        (n, d) float32.
    """
    flat = np.asarray(values, np.float32).reshape(len(values), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.divide(flat, length, out=np.zeros_like(flat), where=length > 1e-6)


def structure(thumbnails: np.ndarray) -> np.ndarray:
    """Return the local structure of grey thumbnails.

    Args:
        thumbnails: (n, 64, 64) uint8.

    Returns:
        (n, 64, 64) float32. Each image is first brought to a spread of 1; the floor of 0.1 on the
        local spread keeps coding noise on an even background from counting as structure.
    """
    images = np.asarray(thumbnails, np.float32)
    spread = images.std(axis=(1, 2), keepdims=True)
    images = (images - images.mean(axis=(1, 2), keepdims=True)) / np.maximum(spread, 1e-6)
    scale = (0, SIGMA, SIGMA)
    detail = images - gaussian_filter(images, scale)
    energy = gaussian_filter(detail * detail, scale)
    return detail / np.sqrt(energy + FLOOR * FLOOR)


def frequencies(images: np.ndarray, count: int) -> np.ndarray:
    """Return the low DCT coefficients of images scaled to length 1.

    Args:
        images: (n, side, side).
        count: frequencies kept per axis.

    Returns:
        (n, count, count) float32; [:, 0, 0] is 0.
    """
    n, side = len(images), images.shape[-1]
    scaled = unit(images).reshape(n, side, side)
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
