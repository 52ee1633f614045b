"""The stages beside what people write without them, on the same images with the same weights.

    python -m benchmarks.peers --images 64 --repeats 3 --out peers.csv

Each peer runs in turn with ours, since a shared machine's speed drifts. A ratio is the time of the
peer over ours (above 1: ours is faster), the median over the turns with the least and the greatest.
`agree` says how alike the results are. Run it on an idle machine.
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from pipeline.engine.process import keep_freed_memory

keep_freed_memory()  # first, as the command does

import numpy as np
import open_clip
import pandas as pd
import torch
from PIL import Image
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks.stage_speed import make_images
from pipeline.encode.encode import encode_dataset
from pipeline.engine.options import RunOptions
from pipeline.learners import Samples, get_learner
from pipeline.manifest import read_manifest, row_file
from pipeline.models import load_clip, load_sam2
from pipeline.segment.segment import segment_dataset
from pipeline.store import open_features, open_masks
from tests.project import DATASET, Project

BATCH = 16


class Pair(NamedTuple):
    """A task of ours and a peer's. Each returns its result; `agree` compares the two."""

    task: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    agree: Callable[[Any, Any], float]
    images: int


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return wall seconds, CPU seconds of all threads, and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def measure(pair: Pair, repeats: int) -> dict[str, Any]:
    """Run both once to warm up, then in turn; return a row of the table."""
    agree = pair.agree(pair.ours(), pair.theirs())
    turns = [(timed(pair.ours)[:2], timed(pair.theirs)[:2]) for _ in range(repeats)]
    row: dict[str, Any] = {"task": pair.task, "peer": pair.peer, "n": pair.images}
    for k, name in enumerate(("wall", "cpu")):
        ratios = sorted(theirs[k] / ours[k] for ours, theirs in turns)
        row[f"{name}_ms"] = 1e3 * median(ours[k] for ours, _ in turns) / pair.images
        row[f"peer_{name}_ms"] = 1e3 * median(theirs[k] for _, theirs in turns) / pair.images
        row |= {f"{name}_ratio": median(ratios), f"{name}_least": ratios[0]}
        row[f"{name}_most"] = ratios[-1]
    return row | {"agree": agree}


def center_box(image: np.ndarray, share: float = 0.7) -> np.ndarray:
    """Return the box x0, y0, x1, y1 of the prompt `center-box`."""
    height, width = image.shape[:2]
    margin = (1 - share) / 2
    return np.array(
        [width * margin, height * margin, width * (1 - margin), height * (1 - margin)], np.float32
    )


def equal_pixels(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Return the share of pixels on which two sets of masks agree."""
    return float(np.mean([(ours[name] == theirs[name]).mean() for name in theirs]))


def of_segment(project: Project, files: dict[str, Path], folder: Path) -> Iterator[Pair]:
    """SAM2: the loop of its notebook, and its generator of masks."""
    plain = {"segment__box_as_mask": False, "segment__zoom": 0}
    options = RunOptions(batch_size=BATCH, force=True, progress=False)
    sam2 = load_sam2(project.params().models.sam2)

    def stage(prompt: str) -> dict[str, np.ndarray]:
        params = project.params(segment__prompt=prompt, **plain)
        shutil.rmtree(project.paths.candidates(DATASET), ignore_errors=True)  # they are kept
        segment_dataset(DATASET, params, project.paths, options, predictor=sam2)
        masks = open_masks(project.paths.masks(DATASET))
        return {name: masks[name] for name in files}

    def loop() -> dict[str, np.ndarray]:
        found = {}
        for name, file in files.items():
            image = np.asarray(Image.open(file).convert("RGB"))
            with torch.inference_mode():
                sam2.set_image(image)
                mask, _, _ = sam2.predict(box=center_box(image), multimask_output=False)
            found[name] = mask[0].astype(bool)
            np.savez_compressed(folder / "mask.npz", mask=found[name])
        return found

    generator = SAM2AutomaticMaskGenerator(sam2.model, points_per_side=8)
    generator.predictor = sam2  # its own is for frames of 1,024 pixels

    def generated() -> dict[str, np.ndarray]:
        found = {}
        for name, file in files.items():
            image = np.asarray(Image.open(file).convert("RGB"))
            with torch.inference_mode():
                parts = generator.generate(image)
            best = max(parts, key=lambda part: part["predicted_iou"], default=None)
            found[name] = np.zeros(image.shape[:2], bool) if best is None else best["segmentation"]
            np.savez_compressed(folder / "mask.npz", mask=found[name])
        return found

    ours = "segment, prompt center-box", lambda: stage("center-box")
    yield Pair(ours[0], "SAM2ImagePredictor in a loop", ours[1], loop, equal_pixels, len(files))
    auto = "segment, prompt auto"
    generate = "SAM2AutomaticMaskGenerator, 8 x 8 points"
    yield Pair(auto, generate, lambda: stage("auto"), generated, equal_pixels, len(files))


class Images(torch.utils.data.Dataset):
    """Files as CLIP's own preprocessing shows them."""

    def __init__(self, files: dict[str, Path], transform: Callable):
        self.files, self.transform = list(files.values()), transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.files[index]).convert("RGB"))


def of_encode(project: Project, files: dict[str, Path], folder: Path) -> Iterator[Pair]:
    """CLIP: open_clip with a DataLoader, the features in one .npy file."""
    params = project.params(encode__views=["whole"], encode__geometry="pad")
    clip = load_clip(params.models.clip)
    options = RunOptions(batch_size=BATCH, force=True, progress=False)
    how = {"mean": clip.mean, "std": clip.std, "resize_mode": "longest"}
    transform = open_clip.image_transform(clip.image_size, is_train=False, **how)

    def stage() -> np.ndarray:
        encode_dataset(DATASET, params, project.paths, options, clip=clip)
        store = open_features(project.paths.features(DATASET))
        return store.image_features("whole", list(files))

    def loop() -> np.ndarray:
        loader = torch.utils.data.DataLoader(Images(files, transform), BATCH, num_workers=2)
        with torch.inference_mode():
            found = [clip.model.encode_image(batch, normalize=True) for batch in loader]
        features = torch.cat(found).numpy()
        np.save(folder / "features.npy", features)
        return features

    def cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
        ours = ours / np.linalg.norm(ours, axis=1, keepdims=True)
        return float((ours * theirs).sum(axis=1).min())

    yield Pair("encode, view whole", "open_clip and a DataLoader", stage, loop, cosine, len(files))


def of_probe(n: int = 2000, d: int = 1280) -> Iterator[Pair]:
    """The linear probe: scikit-learn called for each C of the same grid."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 2 * n)
    X = (rng.standard_normal((2 * n, d)) + 0.12 * rng.standard_normal((4, d))[y]).astype(np.float32)
    empty = np.zeros((4, d), np.float32)
    parts = [Samples("whole", {"whole": X[k::2]}, y[k::2], empty, tuple("abcd")) for k in (0, 1)]
    cls = get_learner("linear-probe")

    def ours() -> np.ndarray:
        return cls(cls.Parameters(), seed=0).fit(*parts).predict_proba(parts[1])

    def theirs() -> np.ndarray:
        scaler = StandardScaler().fit(parts[0].X)
        train, val = (scaler.transform(part.X) for part in parts)
        fits = [
            LogisticRegression(C=c, max_iter=300).fit(train, parts[0].y)
            for c in np.geomspace(1e-4, 1e2, 7)
        ]
        return max(fits, key=lambda fit: fit.score(val, parts[1].y)).predict_proba(val)

    def same_class(one: np.ndarray, two: np.ndarray) -> float:
        return float((one.argmax(axis=1) == two.argmax(axis=1)).mean())

    yield Pair(
        "linear probe, 7 values of C", "scikit-learn, each C anew", ours, theirs, same_class, n
    )


def of_reading(project: Project, files: dict[str, Path], folder: Path) -> Iterator[Pair]:
    """A feature store opened and read, and the same features in a .npy file."""
    path = project.paths.features(DATASET)
    np.save(folder / "stored.npy", open_features(path).image_features("whole", list(files)))

    def ours() -> np.ndarray:
        return open_features(path).image_features("whole", list(files))

    def equal(one: np.ndarray, two: np.ndarray) -> float:
        return float((one == two).mean())

    task = "open and read a feature store"
    yield Pair(task, "np.load", ours, lambda: np.load(folder / "stored.npy"), equal, len(files))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", type=int, default=320, help="of an image, pixels")
    parser.add_argument("--out", type=Path, help="CSV")
    args = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory() as folder:
        project, folder = Project(Path(folder)), Path(folder)
        make_images(project, args.images, args.side)
        manifest = read_manifest(project.paths.manifest(DATASET))
        data = project.paths.data(DATASET)
        files = {row["image_id"]: row_file(row, data) for _, row in manifest.iterrows()}
        given, rows = (project, files, folder), []
        for pairs in (of_segment(*given), of_encode(*given), of_probe(), of_reading(*given)):
            rows += [measure(pair, args.repeats) for pair in pairs]
    table = pd.DataFrame(rows)
    if args.out:
        table.to_csv(args.out, index=False, float_format="%.4g")
    print("| task | peer | ms, ours | ms, peer | ratio, wall | ratio, CPU | agree |")
    print("|---|---|---|---|---|---|---|")
    for row in table.itertuples():
        ratios = [
            f"{getattr(row, f'{k}_ratio'):.2f} [{getattr(row, f'{k}_least'):.2f}, "
            f"{getattr(row, f'{k}_most'):.2f}]"
            for k in ("wall", "cpu")
        ]
        print(
            f"| {row.task} | {row.peer} | {row.wall_ms:.2f} | {row.peer_wall_ms:.2f} | "
            f"{' | '.join(ratios)} | {row.agree:.4f} |"
        )


if __name__ == "__main__":
    main()
