"""Draw the phantoms of a dataset, write them as image files and add them to the project."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from pipeline.errors import ManifestError
from pipeline.intake import AddSummary, add_dataset
from pipeline.intake.existing import holds_phantoms
from pipeline.paths import Paths
from pipeline.phantoms.draw import (
    BRAIN,
    BREAST,
    COVID,
    LUNG,
    blob,
    draw_brain,
    draw_breast,
    draw_chest,
    smooth_noise,
    soften,
)  # fmt: skip

Draw = Callable[
    [np.random.Generator, np.random.Generator, str, tuple[int, int]],
    tuple[np.ndarray, np.ndarray | None],
]
"""Draws an image: (patient's generator, scan's generator, label, (h, w)) -> image, mask."""

TASKS: dict[str, tuple[Draw, tuple[str, ...]]] = {
    "brain": (draw_brain, BRAIN),
    "covid": (draw_chest, COVID),
    "lung": (draw_chest, LUNG),
    "breast": (draw_breast, BREAST),
}
KNOWN_ANSWER = ("striped", "spotted")
TEST_FRACTION = 0.25
TWO_SCANS = 0.25  # fraction of the patients with two images
SIZES = (160, 225)  # range of the sides, pixels


@dataclass(frozen=True)
class Scan:
    """One image to draw: scan `number` (0 or 1) of a patient, who has one label and one split."""

    label: str
    patient: int
    number: int
    split: str


def make_sample(
    paths: Paths,
    datasets: Sequence[str] = tuple(TASKS),
    n: int = 160,
    seed: int = 0,
    *,
    force: bool = False,
) -> list[Path]:
    """Write phantoms to data/<dataset>/ with manifests that mark them as synthetic.

    Args:
        paths: the project folder.
        datasets: tasks to draw: brain, covid, lung, breast.
        n: images per dataset, balanced over classes. A quarter is the test split, a quarter of
            the patients has two images, and each patient is in one split.
        seed: the same seed gives the same bytes.
        force: replace the manifest of real images.

    Returns:
        The manifest of each dataset.

    Raises:
        ManifestError: unknown task, too few images, or real images in the target folder.
    """
    if unknown := [name for name in datasets if name not in TASKS]:
        raise ManifestError(
            f"no phantoms for {', '.join(unknown)}", remedy=f"choose from {', '.join(TASKS)}"
        )
    return [
        write_phantoms(paths, name, *TASKS[name], n, seed, force=force).manifest
        for name in datasets
    ]


def make_known_answer(
    paths: Paths,
    name: str,
    where: Literal["lesion", "background"] = "lesion",
    n: int = 120,
    seed: int = 0,
    *,
    size: int = 96,
    force: bool = False,
) -> AddSummary:
    """Write a two-class dataset with masks whose class is visible in one region only.

    A classifier of the masked image must succeed with "lesion" and fail with "background"; a
    classifier of the background the opposite.

    Args:
        paths: the project folder.
        name: name of the dataset.
        where: "lesion": the texture inside the mask is that of the class, the texture outside is
            random; "background": the opposite.
        n: number of images.
        seed: the same seed gives the same bytes.
        size: smallest side in pixels; the largest is 5/4 of it.
        force: replace the manifest of real images.
    """

    def draw(
        patient: np.random.Generator, scan: np.random.Generator, label: str, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        centre, radii = scan.uniform(-0.35, 0.35, 2), scan.uniform(0.3, 0.5, 2)
        mask = blob(scan, shape, tuple(centre), tuple(radii), rough=0.1)
        other = KNOWN_ANSWER[int(scan.integers(2))]
        inner, outer = (label, other) if where == "lesion" else (other, label)
        edge = soften(mask, 1)
        image = _texture(scan, inner, shape) * edge + _texture(scan, outer, shape) * (1 - edge)
        rim = soften(mask, 2)
        image = image + 0.3 * rim * (1 - rim) * 4  # a bright rim makes the lesion visible
        return np.clip(image, 0, 1), mask

    return write_phantoms(
        paths, name, draw, KNOWN_ANSWER, n, seed, sizes=(size, size + size // 4), force=force
    )


def _texture(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> np.ndarray:
    """Return a texture; both kinds have the same mean and variance."""
    if kind == "striped":
        y, x = np.mgrid[: shape[0], : shape[1]]
        angle = rng.uniform(-0.3, 0.3)
        wave = np.sin((y * np.cos(angle) + x * np.sin(angle)) * 2 * np.pi / rng.uniform(7, 10))
        pattern = wave * np.sqrt(2)
    else:
        pattern = smooth_noise(rng, shape, 2)
    pattern = pattern + 0.4 * rng.standard_normal(shape)
    return (0.45 + 0.12 * pattern + rng.uniform(-0.06, 0.06)).astype(np.float32)


def write_phantoms(
    paths: Paths,
    dataset: str,
    draw: Draw,
    classes: Sequence[str],
    n: int,
    seed: int,
    *,
    sizes: tuple[int, int] = SIZES,
    force: bool = False,
) -> AddSummary:
    """Draw `n` phantoms of one dataset and add them; see `make_sample`."""
    if n < 4 * len(classes):
        raise ManifestError(
            f"{n} images are too few for {len(classes)} classes",
            remedy=f"use at least {4 * len(classes)}",
        )
    folder = paths.data(dataset)
    masks = folder.with_name(f"{dataset}_masks")
    _remove_phantoms(paths, dataset, (folder, masks), force)

    def write(scan: Scan) -> None:
        patient = generator(dataset, "patient", scan.patient, seed)
        rng = generator(dataset, "scan", scan.patient, scan.number, seed)
        shape = tuple(int(size) for size in patient.integers(*sizes, 2))
        image, mask = draw(patient, rng, scan.label, shape)
        place = Path(scan.split) / scan.label / f"P{scan.patient:04d}_{scan.number}"
        # File formats as they occur in practice, independent of the class.
        _save_as_some_format(image, folder / place, rng.random())
        if mask is not None:
            _save(Image.fromarray(mask).convert("L"), masks / f"{place}.png")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, plan_scans(classes, n, seed)))
    return add_dataset(
        dataset,
        folder,
        paths=paths,
        masks=masks,
        patient_regex=r"(P\d+)_\d",
        synthetic=True,
        force=True,
    )


def plan_scans(classes: Sequence[str], n: int, seed: int) -> Iterator[Scan]:
    """Yield `n` scans, balanced over classes; a patient has one class and one split."""
    patient = 0
    for c, label in enumerate(classes):
        rng = generator("plan", label, seed)
        total = n // len(classes) + (c < n % len(classes))
        test = max(1, round(total * TEST_FRACTION))
        for split, count in (("train", total - test), ("test", test)):
            while count:
                patient += 1
                images = min(count, 2 if rng.random() < TWO_SCANS else 1)
                yield from (Scan(label, patient, number, split) for number in range(images))
                count -= images


def generator(*parts: object) -> np.random.Generator:
    """Return a random generator seeded with `parts`, the same on every machine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _remove_phantoms(paths: Paths, dataset: str, folders: tuple[Path, Path], force: bool) -> None:
    """Remove earlier phantoms; refuse to delete any other images."""
    phantoms = holds_phantoms(paths.manifest(dataset))
    if not phantoms and not force and (paths.manifest(dataset).exists() or folders[0].exists()):
        raise ManifestError(
            "holds images that are no phantoms",
            path=folders[0],
            remedy="make the sample in another project (--params OTHER/params.yaml), or --force",
        )
    for folder in folders:
        if folder.is_symlink():
            folder.unlink()  # the images that it points to stay
        elif folder.exists():
            if not phantoms:
                raise ManifestError(
                    "is a folder of images that are no phantoms; --force does not delete it",
                    path=folder,
                    remedy="move it to another place",
                )
            shutil.rmtree(folder)


def _save_as_some_format(image: np.ndarray, path: Path, chance: float) -> None:
    shallow = Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))
    if chance < 0.7:
        _save(shallow, path.with_name(f"{path.name}.png"))
    elif chance < 0.9:
        _save(shallow, path.with_name(f"{path.name}.jpg"), quality=92)
    else:  # 12 bits in 16
        deep = Image.fromarray((image * 4095).astype(np.uint16))
        _save(deep, path.with_name(f"{path.name}.png"))


def _save(image: Image.Image, path: Path, **options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
