"""Phantoms: synthetic images of the four tasks, with ground-truth masks and patients.

Each `draw` function takes two random generators, of what all scans of a patient share and of the
rest, a label, and the (h, w) in pixels. It returns a float image (h, w) in [0, 1] and a bool mask
(h, w) or None.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy import ndimage

from pipeline.errors import ManifestError
from pipeline.intake import add_dataset
from pipeline.intake.add import holds_phantoms
from pipeline.paths import Paths
from pipeline.remote import is_url

Shape, Pair = tuple[int, int], Sequence[float]
Drawn = tuple[np.ndarray, np.ndarray | None]
Task = tuple[Callable[[Generator, Generator, str, Shape], Drawn], Sequence[str]]
KNOWN_ANSWER = ("striped", "spotted")
TEST_FRACTION, TWO_SCANS = 0.25, 0.25  # of the images; of the patients
TURN = 2 * np.pi


def make_sample(
    paths: Paths, datasets: Sequence[str] = (), n: int = 160, seed: int = 0
) -> list[Path]:
    """Write phantoms to data/<dataset>/ with manifests that mark them as synthetic.

    Of the `n` images of each of `datasets` (of `TASKS`; the default is all), balanced over
    classes, a quarter is the test split. A quarter of the patients has two images, and each patient
    is in one split. The same `seed` gives the same bytes. Returns the manifest of each dataset.

    Raises:
        ManifestError: unknown task, too few images, or real images in the target folder.
    """
    if unknown := ", ".join(name for name in datasets if name not in TASKS):
        raise ManifestError(f"no phantoms for {unknown}", remedy=f"choose from {', '.join(TASKS)}")
    return [_write(paths, name, TASKS[name], n, seed, (160, 225)) for name in datasets or TASKS]


def make_known_answer(
    paths: Paths, name: str, where: str = "lesion", n: int = 120, seed: int = 0
) -> Path:
    """Write a two-class dataset with masks whose class is visible in one region only.

    With `where` "lesion" the texture inside the mask is that of the class and the texture outside
    is random, with "background" the opposite: a classifier of the masked image must succeed with
    the first and fail with the second. `n` and `seed` as in `make_sample`. Returns the manifest.
    """

    def draw(patient: Generator, scan: Generator, label: str, shape: Shape) -> Drawn:
        centre, radii = scan.uniform(-0.35, 0.35, 2), scan.uniform(0.3, 0.5, 2)
        mask = blob(scan, shape, centre, radii, rough=0.1)
        other = KNOWN_ANSWER[int(scan.integers(2))]
        inner, outer = (label, other) if where == "lesion" else (other, label)
        edge, rim = soften(mask, 1), soften(mask, 2)
        image = _texture(scan, inner, shape) * edge + _texture(scan, outer, shape) * (1 - edge)
        image = image + 0.3 * rim * (1 - rim) * 4  # a bright rim makes the lesion visible
        return np.clip(image, 0, 1), mask

    return _write(paths, name, (draw, KNOWN_ANSWER), n, seed, (96, 120))


def _write(paths: Paths, dataset: str, task: Task, n: int, seed: int, sides: Shape) -> Path:
    """Draw `n` phantoms of one dataset and add them; return the manifest."""
    draw, classes = task
    if n < (least := 4 * len(classes)):
        raise ManifestError(f"{n} images are too few", remedy=f"use at least {least}")
    folder, manifest = paths.data(dataset), paths.manifest(dataset)
    if is_url(folder):
        remedy = "draw them with data_root: data, copy that to the URL, then set it"
        raise ManifestError("phantoms are not drawn at a URL", path=folder, remedy=remedy)
    masks = folder.with_name(f"{dataset}_masks")
    if not holds_phantoms(manifest) and any(p.exists() for p in (manifest, folder, masks)):
        remedy = "make the sample in another project: --params OTHER/params.yaml"
        what = "holds images that are no phantoms, which are never replaced"
        raise ManifestError(what, path=folder, remedy=remedy)
    for place in (folder, masks):
        if place.is_symlink():
            place.unlink()  # the images that it points to stay
        elif place.exists():
            shutil.rmtree(place)
    for split, label, number, which in _plan_scans(classes, n, seed):
        patient = _generator(dataset, "patient", number, seed)
        rng = _generator(dataset, "scan", number, which, seed)
        shape = tuple(int(size) for size in patient.integers(*sides, 2))
        image, mask = draw(patient, rng, label, shape)
        place = Path(split) / label / f"P{number:04d}_{which}"
        # File formats as they occur in practice, independent of the class: PNG, JPEG, 12 bits.
        chance = rng.random()
        stored = (image * 255 + 0.5).astype("u1") if chance < 0.9 else (image * 4095).astype("u2")
        files = {folder / f"{place}.{'jpg' if 0.7 <= chance < 0.9 else 'png'}": stored}
        if mask is not None:
            files[masks / f"{place}.png"] = mask.astype(np.uint8) * np.uint8(255)
        for path, pixels in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, quality=92)
    patients = {"patient_regex": r"(P\d+)_\d", "synthetic": True}
    return add_dataset(dataset, folder, paths=paths, masks=masks, force=True, **patients).manifest


def _plan_scans(classes: Sequence[str], n: int, seed: int) -> Iterator[tuple[str, str, int, int]]:
    """Yield (split, label, patient, scan): balanced; a patient has one class and one split."""
    patient = 0
    for c, label in enumerate(classes):
        rng = _generator("plan", label, seed)
        total = n // len(classes) + (c < n % len(classes))
        test = max(1, round(total * TEST_FRACTION))
        for split, count in (("train", total - test), ("test", test)):
            while count:
                patient += 1
                images = min(count, 2 if rng.random() < TWO_SCANS else 1)
                yield from ((split, label, patient, number) for number in range(images))
                count -= images


def _generator(*parts: object) -> Generator:
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _texture(rng: Generator, kind: str, shape: Shape) -> np.ndarray:
    """Return a texture; both kinds have the same mean and variance."""
    if kind == "striped":
        y, x = np.mgrid[: shape[0], : shape[1]]
        angle = rng.uniform(-0.3, 0.3)
        wave = np.sin((y * np.cos(angle) + x * np.sin(angle)) * TURN / rng.uniform(7, 10))
        pattern = wave * np.sqrt(2)
    else:
        pattern = smooth_noise(rng, shape, 2)
    pattern = pattern + 0.4 * rng.standard_normal(shape)
    return (0.45 + 0.12 * pattern + rng.uniform(-0.06, 0.06)).astype(np.float32)


def grid(shape: Shape) -> list[np.ndarray]:
    """Return y and x in [-1, 1] float32 (h, w) each."""
    sides = (np.linspace(-1, 1, size, dtype=np.float32) for size in shape)
    return np.meshgrid(*sides, indexing="ij")


def smooth_noise(rng: Generator, shape: Shape, scale: float) -> np.ndarray:
    """Return float32 (h, w) noise of mean 0, standard deviation 1 and grain `scale` pixels."""
    step = max(1, int(scale))  # noise on a coarse grid: as smooth, and many times faster
    coarse = rng.standard_normal((shape[0] // step + 3, shape[1] // step + 3)).astype(np.float32)
    coarse = ndimage.gaussian_filter(coarse, scale / step)
    fine = ndimage.zoom(coarse, step, order=1)[: shape[0], : shape[1]]
    return (fine - fine.mean()) / (fine.std() + 1e-6)


def blob(
    rng: Generator, shape: Shape, centre: Pair, radii: Pair, angle=0.0, rough=0.0, spikes=5
) -> np.ndarray:
    """Return an ellipse with an undulating edge, bool (h, w); lengths in the units of `grid`.

    `rough` is the amplitude of the undulation as a fraction of the radius, `spikes` its periods.
    """
    y, x = grid(shape)
    dy, dx = y - np.float32(centre[0]), x - np.float32(centre[1])
    sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    v = (dy * cosine - dx * sine) / np.float32(radii[0])
    u = (dy * sine + dx * cosine) / np.float32(radii[1])
    edge = np.float32(1)
    for k in (2, 3, spikes, spikes + 2) if rough else ():
        height = np.float32(rough * rng.uniform(0.3, 1) / 2)
        edge = edge + height * np.sin(k * np.arctan2(v, u) + np.float32(rng.uniform(0, TURN)))
    return u**2 + v**2 < edge**2


def soften(mask: np.ndarray, sigma: float) -> np.ndarray:
    """Return the mask with soft edges, float32 in [0, 1]; `sigma` in pixels."""
    return ndimage.gaussian_filter(mask.astype(np.float32), sigma, truncate=3)


def draw_brain(patient: Generator, scan: Generator, label: str, shape: Shape) -> Drawn:
    """Draw an axial head MRI with one of three tumours or none, and the mask of the tumour.

    A glioma is irregular with a dark core; a meningioma round, homogeneous, at the skull; a
    pituitary tumour small, low, on the midline; notumor has no mask, as in the public dataset.
    """
    y, x = grid(shape)
    high, wide = patient.uniform(0.78, 0.9), patient.uniform(0.62, 0.76)
    head = (y / high) ** 2 + (x / wide) ** 2
    folds = smooth_noise(patient, shape, 3.5)
    image = np.where(head < 1, 0.18, 0.02).astype(np.float32)
    image += 0.55 * np.exp(-(((head - 0.92) / 0.06) ** 2))  # scalp and skull
    tissue = 0.38 + 0.05 * smooth_noise(patient, shape, 14) + 0.06 * np.tanh(2 * folds)
    tissue -= 0.1 * np.exp(-((x / 0.012) ** 2)) * (y < 0.2)  # fissure between the hemispheres
    for side in (-1, 1):
        centre = patient.uniform(-0.1, 0.0), side * 0.12
        radii = patient.uniform(0.16, 0.26), patient.uniform(0.04, 0.08)
        tissue -= 0.24 * soften(blob(patient, shape, centre, radii, side * 0.3, 0.1), 1.2)
    image = np.where(head < 0.74, tissue, image)
    for _ in range(scan.integers(2, 6)):  # vessels: brightness does not give the class away
        vessel = blob(scan, shape, scan.uniform(-0.5, 0.5, 2), (0.03, 0.03))
        image += scan.uniform(0.1, 0.35) * soften(vessel, 1) * (head < 0.74)
    angle, mask = scan.uniform(0, TURN), None
    if label == "glioma":
        far = scan.uniform(0.25, 0.55)
        centre = (far * high * np.sin(angle), far * wide * np.cos(angle))
        mask = blob(scan, shape, centre, scan.uniform(0.13, 0.28, 2), angle, 0.3, 7)
    elif label == "meningioma":
        centre = (0.72 * high * np.sin(angle), 0.72 * wide * np.cos(angle))
        radius = scan.uniform(0.1, 0.22)
        mask = blob(scan, shape, centre, (radius, radius * scan.uniform(0.85, 1.15)), 0.0, 0.05)
    elif label == "pituitary":
        centre = (scan.uniform(0.28, 0.42), scan.uniform(-0.06, 0.06))
        radii = (scan.uniform(0.07, 0.14), scan.uniform(0.08, 0.15))
        mask = blob(scan, shape, centre, radii, 0.0, 0.1)
    if mask is not None:
        mask &= head < 0.8
        looks = {"glioma": (0, 0.1, 4), "meningioma": (0, 0.02, 6), "pituitary": (0.06, 0.05, 5)}
        darker, rough, grain = looks[label]
        body = scan.uniform(0.6, 0.78) - darker + rough * smooth_noise(scan, shape, grain)
        if label == "glioma":
            image = image - 0.1 * soften(mask, 9) * (image > 0.15)  # oedema
            body = body - 0.4 * soften(soften(mask, 5) > 0.82, 2)  # core
        image = image * (1 - soften(mask, 1.2)) + body * soften(mask, 1.2)
    image = image * scan.uniform(0.8, 1.2) + scan.uniform(-0.03, 0.03)
    image += 0.08 * scan.uniform(-1, 1) * x + 0.025 * scan.standard_normal(shape)
    return np.clip(image, 0, 1), mask


def draw_breast(patient: Generator, scan: Generator, label: str, shape: Shape) -> Drawn:
    """Draw a breast ultrasound with a lesion or none, and the mask of the lesion.

    A benign lesion is smooth, wider than tall, with posterior enhancement; a malignant one
    spiculated, taller than wide, with a posterior shadow. The mask of normal is empty.
    """
    y = grid(shape)[0]
    wave = y + 0.06 * smooth_noise(patient, shape, 40)
    skin, fat = patient.uniform(-0.9, -0.82), patient.uniform(-0.5, -0.25)
    echo = np.where(wave < skin, 0.75, np.where(wave < fat, 0.3, 0.5)).astype(np.float32)
    echo += 0.1 * smooth_noise(patient, shape, 6)
    echo += 0.25 * np.exp(-(((wave - fat) / 0.03) ** 2))
    echo += 0.12 * np.exp(-(((wave - patient.uniform(0.5, 0.8)) / 0.05) ** 2))  # muscle
    for _ in range(scan.integers(1, 4)):  # fat lobules: as dark as lesions, in every class
        centre = scan.uniform(-0.6, 0.5), scan.uniform(-0.8, 0.8)
        radii = scan.uniform(0.05, 0.1), scan.uniform(0.1, 0.25)
        lobule = blob(scan, shape, centre, radii, 0.0, 0.1)
        echo -= scan.uniform(0.05, 0.14) * soften(lobule, 4)
    mask = np.zeros(shape, bool)
    if label != "normal":
        if benign := label == "benign":
            tall, broad, tilt, rough = (0.7, 0.95), (1.15, 1.5), 0.2, (0.05, 5)
        else:
            tall, broad, tilt, rough = (1.0, 1.35), (0.85, 1.1), 0.3, (0.35, 9)
        centre = (scan.uniform(-0.25, 0.25), scan.uniform(-0.5, 0.5))
        size = scan.uniform(0.14, 0.26)
        radii = (size * scan.uniform(*tall), size * scan.uniform(*broad))
        mask = blob(scan, shape, centre, radii, scan.uniform(-tilt, tilt), *rough)
        bottom = shape[0] - 1 - mask[::-1].argmax(axis=0)
        behind = soften((np.arange(shape[0])[:, None] >= bottom) & mask.any(axis=0), 4)
        after = scan.uniform(0.15, 0.4) if benign else -scan.uniform(0.25, 0.6)
        echo = echo * (1 + after * behind)
        dark = scan.uniform(0.08, 0.2) if benign else scan.uniform(0.06, 0.18)
        inside = soften(mask, 1.0 if benign else 2.2)
        echo = echo * (1 - inside) + (dark + 0.05 * np.abs(smooth_noise(scan, shape, 4))) * inside
    echo *= 1 - scan.uniform(0.2, 0.5) * ((y + 1) / 2)  # attenuation
    # Fully developed speckle: Rayleigh-distributed amplitude, grain of about 1 pixel.
    parts = (scan.standard_normal(shape).astype(np.float32) for _ in range(2))
    speckle = np.hypot(*(ndimage.gaussian_filter(part, (0.6, 1.1)) for part in parts))
    image = np.clip(echo, 0.02, None) * (0.35 + 0.65 * speckle / speckle.mean())
    return np.clip(image * scan.uniform(0.8, 1.2), 0, 1), mask


def draw_chest(patient: Generator, scan: Generator, label: str, shape: Shape) -> Drawn:
    """Draw a frontal chest radiograph, and the mask of the lung fields.

    The classes differ in the opacities: peripheral patches on both sides (Covid), diffuse fine
    streaks (viral), one dense consolidation on one side (bacterial), or none (normal).
    """
    y, x = grid(shape)
    image = 0.62 * np.exp(-((np.abs(x) / 0.97) ** 12)) + 0.04 * smooth_noise(patient, shape, 20)
    image += 0.16 * np.exp(-((x / 0.13) ** 2))  # spine and mediastinum
    lungs = np.zeros(shape, bool)
    for side in (-1, 1):
        centre = patient.uniform(-0.12, -0.02), side * patient.uniform(0.38, 0.46)
        radii = patient.uniform(0.6, 0.74), patient.uniform(0.24, 0.31)
        lungs |= blob(patient, shape, centre, radii, -side * patient.uniform(0.02, 0.14), 0.08)
    centre = patient.uniform(0.22, 0.32), patient.uniform(0.08, 0.2)
    radii = patient.uniform(0.26, 0.36), patient.uniform(0.22, 0.32)
    heart = blob(patient, shape, centre, radii, 0.0, 0.06)
    lungs &= ~heart
    air = soften(lungs, 2.5)
    image -= patient.uniform(0.36, 0.46) * air
    image += 0.1 * soften(heart, 4)
    bow, gap = patient.uniform(0.3, 0.45), patient.uniform(0.19, 0.24)
    phase = ((y - bow * x**2 + 0.05 * np.abs(x)) / gap + patient.uniform(0, 1)) % 1 - 0.5
    ribs = 0.1 * np.exp(-((phase / 0.16) ** 2)) * (np.abs(x) > 0.1)
    image += ribs * (0.35 + 0.65 * air)
    image += 0.025 * np.abs(smooth_noise(patient, shape, 3)) * air  # vessels
    if label.lower() != "normal":
        image += _opacities(scan, label, lungs, air)
    image = image * scan.uniform(0.85, 1.15) + scan.uniform(-0.04, 0.06)
    image += 0.06 * scan.uniform(-1, 1) * y + 0.02 * scan.standard_normal(shape)
    return np.clip(image, 0, 1), lungs


def _opacities(rng: Generator, label: str, lungs: np.ndarray, air: np.ndarray) -> np.ndarray:
    shape, x = lungs.shape, grid(lungs.shape)[1]
    if label in ("Viral Pneumonia", "viral"):
        streaks = smooth_noise(rng, shape, 2) - smooth_noise(rng, shape, 6)
        haze = 0.5 + 0.5 * smooth_noise(rng, shape, 30)
        return air * (rng.uniform(0.03, 0.07) * np.abs(streaks) + 0.05 * np.clip(haze, 0, 2))
    depth = ndimage.distance_transform_edt(lungs) / max(shape)
    if label == "bacterial":
        places = np.argwhere(lungs & (depth > 0.05) & ((x < 0) == (rng.random() < 0.5)))
        spots, size, density = 1, rng.uniform(0.22, 0.36), rng.uniform(0.25, 0.36)
    else:
        places = np.argwhere(lungs & (depth < 0.05) & (np.abs(x) > 0.4))
        spots, size, density = rng.integers(4, 8), 0.13, rng.uniform(0.12, 0.22)
    opacity = np.zeros(shape, np.float32)
    for centre in places[rng.integers(0, len(places), spots)]:
        at = 2 * centre / (np.array(shape) - 1) - 1
        spot = blob(rng, shape, at, size * rng.uniform(0.8, 1.2, 2), 0.0, 0.3)
        opacity = np.maximum(opacity, soften(spot, 5))
    return air * opacity * density * (1 + 0.15 * smooth_noise(rng, shape, 4))


TASKS: dict[str, Task] = {
    "brain": (draw_brain, ("glioma", "meningioma", "notumor", "pituitary")),
    "covid": (draw_chest, ("Covid", "Normal", "Viral Pneumonia")),
    "lung": (draw_chest, ("bacterial", "normal", "viral")),
    "breast": (draw_breast, ("benign", "malignant", "normal")),
}
