"""Small datasets for the audit: textures that differ, and copies of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter

from pipeline.audit.thumbnails import Thumbnails, make_thumbnails
from pipeline.config import Params, load_params
from pipeline.io import sha256_file
from pipeline.manifest import COLUMNS, write_manifest
from pipeline.paths import Paths

REPO = Path(__file__).resolve().parents[2]
SIDE = 160


def texture(seed: int, side: int = SIDE) -> np.ndarray:
    """A grey picture with detail of several sizes, (side, side) uint8; one seed, one picture."""
    rng = np.random.default_rng(seed)
    image = sum(
        weight * gaussian_filter(rng.standard_normal((side, side)), sigma) * sigma
        for sigma, weight in ((2, 0.6), (5, 1.0), (16, 1.5))
    )
    image = (image - image.min()) / np.ptp(image)
    return (30 + 190 * image).astype(np.uint8)


def film(seed: int, side: int = SIDE) -> np.ndarray:
    """A "chest film": the same body in every one, small things of its own; alike when shrunk."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    lungs = sum(np.exp(-((((x - c) / 0.3) ** 2 + (y / 0.6) ** 2) ** 2)) for c in (-0.45, 0.45))
    own = gaussian_filter(rng.standard_normal((side, side)), 3)
    image = 190 - 130 * lungs + 7 * own / own.std()
    return np.clip(image, 0, 255).astype(np.uint8)


def gamma(image: np.ndarray, power: float = 0.6) -> np.ndarray:
    """Change the contrast of a picture."""
    return (255 * (image / 255) ** power).astype(np.uint8)


def mirror(image: np.ndarray) -> np.ndarray:
    """Mirror a picture left-right."""
    return np.ascontiguousarray(image[:, ::-1])


def as_thumbnails(images: list[np.ndarray]) -> Thumbnails:
    """The thumbnails of grey pictures, one content each."""
    made = [make_thumbnails(np.dstack([image] * 3)) for image in images]
    plain, structure = (np.stack(pixels) for pixels in zip(*made, strict=True))
    return Thumbnails(plain, structure, np.ones(len(made), bool), np.arange(len(made)), {})


class Folder:
    """A project folder with datasets; `save` an image, then `write` the manifests."""

    def __init__(self, root: Path):
        self.paths = Paths(root)
        self.rows: dict[str, list[dict]] = {}

    def save(self, name: str, image, *, split="", label="a", dataset="toy") -> None:
        """Save an image (or bytes as they are) and list it."""
        file = self.paths.data(dataset) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image, bytes):
            file.write_bytes(image)
        else:
            Image.fromarray(image).save(file)
        row = dict.fromkeys(COLUMNS, "") | {"image_id": name, "path": name, "label": label}
        row |= {"sha256": sha256_file(file), "frame": 0, "width": SIDE, "height": SIDE}
        self.rows.setdefault(dataset, []).append(row | {"split": split, "synthetic": "1"})

    def write(self) -> Folder:
        """Write the manifests."""
        for dataset, rows in self.rows.items():
            write_manifest(pd.DataFrame(rows), self.paths.manifest(dataset))
        return self

    def table(self, dataset: str = "toy") -> pd.DataFrame:
        """audit.parquet by image_id."""
        return pd.read_parquet(self.paths.audit(dataset)).set_index("image_id")

    def pairs(self, dataset: str = "toy") -> pd.DataFrame:
        """audit_pairs.parquet."""
        return pd.read_parquet(self.paths.audit_pairs(dataset))


def params(**changes: object) -> Params:
    """params.yaml with changes to its audit section."""
    return load_params(REPO / "params.yaml", {f"audit.{key}": v for key, v in changes.items()})
