"""`pipeline data sample`: a few hundred phantoms per task, in a few seconds."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import ManifestError
from pipeline.intake import AddSummary, add_dataset
from pipeline.intake.existing import described
from pipeline.paths import Paths
from pipeline.sample import brain, breast, chest
from pipeline.sample.shapes import to_uint8

Draw = Callable[
    [np.random.Generator, np.random.Generator, str, tuple[int, int]],
    tuple[np.ndarray, np.ndarray | None],
]
TASKS: dict[str, tuple[Draw, tuple[str, ...]]] = {
    "brain": (brain.draw_brain, brain.CLASSES),
    "covid": (chest.draw_chest, chest.COVID_CLASSES),
    "lung": (chest.draw_chest, chest.LUNG_CLASSES),
    "breast": (breast.draw_breast, breast.CLASSES),
}
TEST_SHARE = 0.25
TWO_SCANS = 0.25  # share of the patients with two images
SIZES = (160, 225)


@dataclass(frozen=True)
class Scan:
    """One phantom to be drawn: scan `number` (0, 1) of patient `patient` of class `label`."""

    label: str
    patient: int
    number: int
    split: str


def make_sample(
    paths: Paths,
    datasets: Sequence[str] = ("brain", "covid", "lung", "breast"),
    n: int = 160,
    seed: int = 0,
    *,
    force: bool = False,
) -> list[Path]:
    """Write phantoms to data/<dataset>/ and their manifests (synthetic = 1).

    Args:
        paths: the project folder.
        datasets: tasks to make, of brain, covid, lung, breast.
        n: images of each dataset, shared evenly among its classes; a quarter is the test part,
            a quarter of the patients has two images, and a patient is in one split only.
        seed: same seed, same bytes.
        force: replace what a manifest of real images describes.

    Returns:
        The manifests, one a dataset.

    Raises:
        ManifestError: an unknown task, too few images, or real images stand in the way.
    """
    unknown = [name for name in datasets if name not in TASKS]
    if unknown:
        raise ManifestError(
            f"no phantoms for {', '.join(unknown)}", remedy=f"choose of {', '.join(TASKS)}"
        )
    return [
        write_phantoms(paths, name, *TASKS[name], n, seed, force=force).manifest
        for name in datasets
    ]


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
            remedy=f"ask for at least {4 * len(classes)}",
        )
    folder = paths.data(dataset)
    masks = folder.with_name(f"{dataset}_masks")
    _make_room(paths, dataset, folder, masks, force)
    scans = plan_scans(classes, n, seed)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda scan: _write(folder, masks, dataset, draw, scan, seed, sizes), scans))
    return add_dataset(
        dataset,
        folder,
        paths=paths,
        masks=masks,
        patient_regex=r"(P\d+)_\d",
        synthetic=True,
        force=True,
    )


def _make_room(paths: Paths, dataset: str, folder: Path, masks: Path, force: bool) -> None:
    """Remove older phantoms; never touch images that are somebody's own."""
    phantoms = described(paths.manifest(dataset)) == "phantoms"
    if not phantoms and not force and (paths.manifest(dataset).exists() or folder.exists()):
        raise ManifestError(
            "holds images that are no phantoms",
            path=folder,
            remedy="make the sample in another project (--params OTHER/params.yaml), or --force",
        )
    for old in (folder, masks):
        if old.is_symlink():
            old.unlink()  # a link to the user's images: the images stay
        elif old.exists():
            if not phantoms:
                raise ManifestError(
                    "is a folder of images that are no phantoms; it is not deleted, even by force",
                    path=old,
                    remedy="move it away",
                )
            shutil.rmtree(old)


def plan_scans(classes: Sequence[str], n: int, seed: int) -> list[Scan]:
    """Share n images among classes, patients and splits; a patient has one class, one split."""
    scans, patient = [], 0
    for c, label in enumerate(classes):
        rng = generator("plan", label, seed)
        left = n // len(classes) + (c < n % len(classes))
        test = max(1, round(left * TEST_SHARE))
        for split, count in (("train", left - test), ("test", test)):
            while count:
                patient += 1
                images = min(count, 2 if rng.random() < TWO_SCANS else 1)
                scans += [Scan(label, patient, number, split) for number in range(images)]
                count -= images
    return scans


def _write(
    folder: Path,
    masks: Path,
    dataset: str,
    draw: Draw,
    scan: Scan,
    seed: int,
    sizes: tuple[int, int],
) -> None:
    patient = generator(dataset, "patient", scan.patient, seed)
    this = generator(dataset, "scan", scan.patient, scan.number, seed)
    shape = tuple(int(size) for size in patient.integers(*sizes, 2))
    image, mask = draw(patient, this, scan.label, shape)
    place = Path(scan.split) / scan.label / f"P{scan.patient:04d}_{scan.number}"
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    # Formats as they come in practice; the draw is of no class, so a format tells nothing.
    kind = this.random()
    if kind < 0.7:
        Image.fromarray(to_uint8(image)).save(folder / f"{place}.png")
    elif kind < 0.9:
        Image.fromarray(to_uint8(image)).save(folder / f"{place}.jpg", quality=92)
    else:
        Image.fromarray((image * 4095).astype(np.uint16)).save(folder / f"{place}.png")
    if mask is not None:
        (masks / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).convert("L").save(masks / f"{place}.png")


def generator(*parts: object) -> np.random.Generator:
    """Return a random generator that depends on `parts` alone, the same on every machine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
