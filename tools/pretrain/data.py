"""Mask datasets and phantoms in memory, with a held-out part for model selection."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.errors import ConfigError
from tools.pretrain import phantoms

SETS = ("nuclei", "polyp_kvasir", "polyp_cvc", "blood_cells", "brain_br35h")
LONGEST = 320
PHANTOMS = {"ultrasound": 500, "brain": 250, "chest": 80, "shapes": 300}
CVC_BLOCK = 20
HELD_OUT = 0.1
"""Fraction of each dataset that is held out, in whole groups."""


@dataclass(frozen=True)
class Item:
    """One image with its mask.

    Args:
        set: dataset.
        name: id in the dataset.
        image: uint8 (3, H, W), the longest side at most 320.
        mask: bool (H, W).
        sha256: of the file's bytes; empty for a phantom.
        held_out: not used for training.
    """

    set: str
    name: str
    image: torch.Tensor
    mask: torch.Tensor
    sha256: str = ""
    held_out: bool = False


def read_pair(image_path: Path, mask_path: Path) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Read an image and its mask at most 320 px long.

    Args:
        image_path: any RGB or grey picture.
        mask_path: its mask, non-zero = region.

    Returns:
        uint8 (3, H, W), bool (H, W) and the SHA-256 of the image file's bytes.

    Raises:
        ConfigError: one of the two is missing.
    """
    try:
        data = image_path.read_bytes()
        image, mask = Image.open(image_path).convert("RGB"), Image.open(mask_path).convert("L")
    except FileNotFoundError as error:
        raise ConfigError(
            "missing image or mask", path=error.filename, remedy="get the whole set (model card)"
        ) from None
    scale = min(1.0, LONGEST / max(image.size))
    size = tuple(max(1, round(side * scale)) for side in image.size)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    if mask.size != size:
        mask = mask.resize(size, Image.Resampling.NEAREST)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    return pixels, torch.from_numpy(np.array(mask) > 0), hashlib.sha256(data).hexdigest()


def _share(text: str) -> float:
    """Return a hash of the text as a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def near_copy_groups(images: list[torch.Tensor], limit: float) -> list[int]:
    """Group near-copies by the correlation of 32 x 32 grey thumbnails, mirrored ones too.

    Args:
        images: uint8 (3, H, W) each.
        limit: correlation from which two images belong together.

    Returns:
        A group number for each image; groups are the connected components.
    """
    grey = (image.float().mean(0, keepdim=True) for image in images)
    thumbs = torch.stack([torch.nn.functional.adaptive_avg_pool2d(i, 32)[0] for i in grey])

    def unit(t: torch.Tensor) -> torch.Tensor:
        t = t.flatten(1)
        t = t - t.mean(1, keepdim=True)
        return t / t.norm(dim=1, keepdim=True).clamp_min(1e-6)

    same = unit(thumbs)
    close = torch.maximum(same @ same.T, same @ unit(thumbs.flip(-1)).T) > limit
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    return connected_components(csr_matrix(close.numpy()), directed=False)[1].tolist()


def _group_keys(name: str, ids: list[str], images: list[torch.Tensor]) -> list[str]:
    """Return the group of each image; a group is held out as a whole."""
    if name == "polyp_cvc":  # consecutive frames of the same video
        return [f"block{(int(i[3:]) - 1) // CVC_BLOCK}" for i in ids]
    if name == "brain_br35h":
        return [f"group{g}" for g in near_copy_groups(images, 0.97)]
    if name == "lung":
        return [Path(i).stem.split("_")[0] for i in ids]
    return ids


def load_sets(root: Path) -> list[Item]:
    """Load the mask sets of `root`/segmentation and the lung images of lung_train.csv.

    Args:
        root: folder with segmentation/ and data/.

    Raises:
        ConfigError: a set is missing.
    """
    items: list[Item] = []
    for name in (*SETS, "lung"):
        pairs = _pairs(root, name)
        read = [read_pair(image, mask) for _, image, mask in pairs]
        keys = _group_keys(name, [p[0] for p in pairs], [r[0] for r in read])
        for (id_, _, _), (image, mask, digest), key in zip(pairs, read, keys, strict=True):
            if mask.any():
                out = _share(f"{name}/{key}") < HELD_OUT
                items.append(Item(name, id_, image, mask, digest, out))
    return items


def _pairs(root: Path, name: str) -> list[tuple[str, Path, Path]]:
    listing = root / "segmentation" / ("lung_train.csv" if name == "lung" else f"{name}/index.csv")
    if not listing.is_file():
        raise ConfigError(
            "no list of this mask set",
            path=listing,
            remedy="pass --data with the folder that holds segmentation/",
        )
    with open(listing, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if name == "lung":
        return [(r["image"], root / "data" / r["image"], root / "data" / r["mask"]) for r in rows]
    folder = listing.parent
    return [
        (r["id"], folder / "images" / f"{r['id']}.jpg", folder / "masks" / f"{r['id']}.png")
        for r in rows
    ]


def load_phantoms(seed: int) -> list[Item]:
    """Draw the phantoms; none is held out. `seed` is that of all random choices."""
    items = []
    for kind, count in PHANTOMS.items():
        for n, (image, mask) in enumerate(phantoms.draw(kind, count, seed)):
            pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
            items.append(Item(f"phantom_{kind}", str(n), pixels, torch.from_numpy(mask)))
    return items
