"""Training scenes: whole images, 2 x 2 mosaics of different images, and crops around an object."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from tools.pretrain.data import Item

SIZE = 256
PARTS = {"nuclei": 0.95, "lung": 0.15, "polyp_kvasir": 0.5, "polyp_cvc": 0.5}
"""Probability that the prompted object is one connected component instead of the entire mask."""


@dataclass
class Scene:
    """An image to encode once and the objects to prompt for.

    Args:
        image: float (3, 256, 256) in [0, 1].
        salient: float (256, 256), target without a prompt; None if there is none.
        objects: float (256, 256) target masks of boxes and clicks.
    """

    image: torch.Tensor
    salient: torch.Tensor | None
    objects: list[torch.Tensor] = field(default_factory=list)


def pick_object(item: Item, rng: np.random.Generator) -> torch.Tensor:
    """Return the mask of one object of an image, bool (H, W): one part of the mask or all of it."""
    if rng.random() >= PARTS.get(item.set, 0.3):
        return item.mask
    labels, count = ndimage.label(item.mask.numpy())
    if count < 2:
        return item.mask
    areas = np.bincount(labels.ravel())[1:]
    large = np.flatnonzero(areas >= max(30, 0.0005 * labels.size))
    if len(large) == 0:
        return item.mask
    return torch.from_numpy(labels == 1 + rng.choice(large))


def _turn(rng: np.random.Generator, strength: float) -> torch.Tensor:
    """Return a random 2 x 2 matrix: flips, quarter turns, a rotation and a stretch."""
    angle = rng.normal() * 0.2 * strength if rng.random() < 0.7 else 0.0
    if rng.random() < 0.2 * strength:
        angle += rng.integers(1, 4) * np.pi / 2
    c, s = np.cos(angle), np.sin(angle)
    stretch = np.exp(rng.normal(size=2) * 0.12 * strength)
    flip = [rng.choice([-1.0, 1.0]), -1.0 if rng.random() < 0.15 * strength else 1.0]
    return torch.tensor(np.array([[c, -s], [s, c]]) * stretch * np.array(flip), dtype=torch.float32)


def _sample(
    item: Item,
    masks: list[torch.Tensor],
    turn: torch.Tensor,
    centre: torch.Tensor,
    reach: torch.Tensor,
    size: int,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Crop a window of an image that is rotated about its centre.

    The turned frame has the image's longer half-side as unit; the window spans `centre` +-
    `reach` in it and is squashed to `size` x `size`, as SAM2's own resize does.
    """
    height, width = item.mask.shape
    extent = torch.tensor([width, height], dtype=torch.float32) / max(width, height)
    back = torch.linalg.inv(turn)
    matrix = (back / extent[:, None]) * reach[None]
    theta = torch.cat([matrix, ((back @ centre) / extent)[:, None]], dim=1)[None]
    layers = torch.cat([item.image.float() / 255, torch.stack(masks).float()])[None]
    shrink = float(reach.max()) * max(width, height) / size
    if shrink > 1.7:  # average first, or fine texture turns into noise
        layers = F.avg_pool2d(layers, 2, ceil_mode=True, count_include_pad=False)
    grid = F.affine_grid(theta, [1, 3, size, size], align_corners=False)
    out = F.grid_sample(layers, grid, align_corners=False)[0]
    return out[:3], list(out[3:])


def _bounds(mask: torch.Tensor, turn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return centre and half-size of a mask's bounding box in the rotated frame."""
    height, width = mask.shape
    y, x = torch.nonzero(mask, as_tuple=True)
    points = torch.stack([2 * (x + 0.5) - width, 2 * (y + 0.5) - height]) / max(width, height)
    points = turn @ points
    low, high = points.amin(1), points.amax(1)
    return (low + high) / 2, (high - low) / 2 + 1 / max(width, height)


def whole(item: Item, rng: np.random.Generator, size: int = SIZE) -> Scene:
    """Return the whole image with a small random affine map."""
    turn = _turn(rng, 1.0)
    height, width = item.mask.shape
    extent = torch.tensor([width, height], dtype=torch.float32) / max(width, height)
    reach = (turn.abs() @ extent) if abs(float(turn[0, 1])) > 0.7 else extent.clone()
    reach = reach * float(np.exp(rng.normal() * 0.15))
    centre = torch.tensor(rng.normal(size=2) * 0.08, dtype=torch.float32)
    wanted = [item.mask, *(pick_object(item, rng) for _ in range(2))]
    image, masks = _sample(item, wanted, turn, centre, reach, size)
    return Scene(image, masks[0], masks[1:])


def mosaic(items: list[Item], rng: np.random.Generator) -> Scene:
    """Return four images in one, so that only the prompt decides which object is meant."""
    image, objects, half = torch.zeros(3, SIZE, SIZE), [], SIZE // 2
    for n, item in enumerate(items):
        scene = whole(item, rng, half)
        y, x = n // 2 * half, n % 2 * half
        image[:, y : y + half, x : x + half] = scene.image
        mask = torch.zeros(SIZE, SIZE)
        mask[y : y + half, x : x + half] = scene.objects[0]
        objects.append(mask)
    return Scene(image, None, objects)


def zoom(item: Item, rng: np.random.Generator) -> Scene:
    """Return a crop of about twice an object's box, as the segment stage uses for a box prompt."""
    turn, thing = _turn(rng, 1.0), pick_object(item, rng)
    centre, half = _bounds(thing, turn)
    reach = half * torch.tensor(rng.uniform(1.5, 2.7, 2), dtype=torch.float32)
    if rng.random() < 0.5:
        reach = reach.max().expand(2).clone()
    centre = centre + half * torch.tensor(rng.uniform(-0.2, 0.2, 2), dtype=torch.float32)
    if bool((turn == torch.diag(turn.diag())).all()):  # upright: cut at the image's edge
        height, width = item.mask.shape
        edge = turn.diag().abs() * torch.tensor([width, height]) / max(width, height)
        low, high = (centre - reach).clamp(-edge, edge), (centre + reach).clamp(-edge, edge)
        centre, reach = (low + high) / 2, ((high - low) / 2).clamp_min(0.02)
    image, masks = _sample(item, [thing], turn, centre, reach, SIZE)
    return Scene(image, None, masks)


def photometric(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Change colour, contrast, sharpness and noise at random, independently for each image.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        rng: random generator.

    Returns:
        float32 of the same shape in [0, 1].
    """
    count, _, height, width = images.shape
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
    out = []
    for image in images:
        if rng.random() < 0.4:
            image = image.mean(0, keepdim=True).expand(3, -1, -1)
        elif rng.random() < 0.5:
            image = image * torch.tensor(rng.uniform(0.7, 1.3, (3, 1, 1)), dtype=torch.float32)
        if rng.random() < 0.25:
            factor = rng.uniform(1.5, 3.5)
            small = F.interpolate(image[None], scale_factor=1 / factor, mode="area")
            image = F.interpolate(small, size=(height, width), mode="bilinear")[0]
        if rng.random() < 0.3:  # speckle
            coarse = int(rng.choice([1, 2, 3]))
            grain = torch.randn(1, 1, -(-height // coarse), -(-width // coarse), generator=noise)
            grain = F.interpolate(grain, size=(height, width), mode="bilinear")[0]
            image = image * (1 + rng.uniform(0.1, 0.6) * grain)
        if rng.random() < 0.25:  # a shade across the image
            ramp = torch.linspace(-1, 1, width)[None, None] * rng.normal()
            ramp = ramp + torch.linspace(-1, 1, height)[None, :, None] * rng.normal()
            image = image * (1 + 0.3 * ramp)
        if rng.random() < 0.2:
            image = image + rng.uniform(0.01, 0.1) * torch.randn(image.shape, generator=noise)
        image = image.clamp(0, 1)
        if rng.random() < 0.6:
            image = image ** float(np.exp(rng.normal() * 0.35))
        if rng.random() < 0.5:
            image = (image - 0.5) * float(np.exp(rng.normal() * 0.3)) + 0.5 + rng.normal() * 0.08
        if rng.random() < 0.04:
            image = 1 - image
        out.append(image.clamp(0, 1))
    return torch.stack(out).reshape(count, 3, height, width)
