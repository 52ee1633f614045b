"""Seconds for 4 learners x 5 fractions x 5 seeds on 3,000 images of 1,280 features.

    python -m benchmarks.learner_grid --jobs 2

The features are synthetic: four overlapping classes with the decaying spectrum and the common
mean of an image encoder. Stated target: under 2 minutes on 2 cores; evaluate is timed as well.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline.config import load_params
from pipeline.evaluate import evaluate_dataset
from pipeline.learners.train import train_dataset
from pipeline.paths import Paths
from tests.learners.projects import REPO, make_manifest, write_features

CLASSES = ["a", "b", "c", "d"]


def features(y: np.ndarray, dim: int, seed: int = 0) -> np.ndarray:
    """Return float32 (n, dim), not negative, as pooled activations are."""
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, dim + 1) ** -0.5
    mixing = rng.standard_normal((dim, dim)) * spectrum
    centres = 0.15 * rng.standard_normal((len(CLASSES), dim))
    latent = rng.standard_normal((len(y), dim)) + centres[y]
    return np.maximum(latent @ mixing.T / 20 + 0.3, 0).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    y = np.arange(args.images) % len(CLASSES)
    manifest = make_manifest(
        [CLASSES[c] for c in y], ["test" if i % 20 >= 16 else "train" for i in range(len(y))]
    )
    params = load_params(REPO / "params.yaml", {"train.views": {"official": ["masked"]}})
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths(Path(folder))
        text = np.random.default_rng(1).standard_normal((len(CLASSES), args.dim))
        views = {"masked": features(y, args.dim)}
        write_features(paths, "grid", manifest, views, text, CLASSES)
        clock = time.perf_counter()
        records = train_dataset("grid", params, paths, jobs=args.jobs)
        trained = time.perf_counter()
        evaluate_dataset("grid", params, paths, jobs=args.jobs)
        done = time.perf_counter()
    fits = sum(record.total for record in records)
    print(f"{fits} fits on {args.images} images x {args.dim}, {args.jobs} jobs")
    print(f"train    {trained - clock:6.1f} s")
    print(f"evaluate {done - trained:6.1f} s")


if __name__ == "__main__":
    main()
