"""Fabricated inputs of a report: small real image files, tables with a known content.

Everything is labelled synthetic. The tables have the shapes that `train` and `evaluate` write;
their values are drawn with a fixed seed, so that two calls give the same bytes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from make_stores import write_audit, write_masks, write_records
from make_tables import (
    FRACTIONS,
    comparisons_table,
    metrics_table,
    per_class_table,
    predictions_and_runs,
    prompts_table,
    quality_table,
)
from PIL import Image
from pipeline.evaluate.pairing import beside, write_stamped
from pipeline.training.pairing import pairing

from pipeline.config import Params, load_params
from pipeline.paths import Paths

REPO = Path(__file__).resolve().parents[2]


def project(root: Path, *names: str, **kwargs) -> tuple[Params, Paths]:
    """Make a project folder with the given datasets; returns its parameters and paths."""
    params = load_params(REPO / "params.yaml", {"report.gallery": 6})
    params = params.model_copy(update={"datasets": names})  # whatever they are called
    paths = Paths(root)
    for name in names:
        make_dataset(paths, name, **kwargs)
    return params, paths


def make_dataset(
    paths: Paths,
    name: str,
    *,
    classes: tuple[str, ...] = ("alpha", "beta", "gamma"),
    per_class: int = 12,
    seeds: int = 2,
    fractions: tuple[float, ...] = FRACTIONS,
    synthetic: str = "1",
    size: tuple[int, int] = (48, 36),
    noise: float = 12,
) -> None:
    """Write every file that a report reads of one dataset."""
    rng = np.random.default_rng(7)
    manifest = _images(paths, name, classes, per_class, size, noise, synthetic, rng)
    predictions, runs = predictions_and_runs(manifest, classes, fractions, seeds, rng)
    cache = paths.cache(name)
    (cache / "plots").mkdir(parents=True, exist_ok=True)
    coded = ["protocol", "head", "view", "image_id", "y_true", "y_pred"]
    stored = predictions.astype(dict.fromkeys(coded, "category"))
    stored.to_parquet(paths.predictions(name), index=False)
    runs.to_parquet(paths.runs(name))
    per_class_table(predictions).to_csv(paths.plots(name) / "per_class.csv", index=False)
    comparisons_table(predictions).to_csv(paths.plots(name) / "comparisons.csv", index=False)
    quality_table(manifest, rng).to_parquet(paths.mask_quality(name))
    restamp(paths, name, metrics_table(predictions, manifest))
    prompts_table(manifest).to_parquet(paths.prompt_quality(name))
    write_masks(paths, name, manifest)
    write_audit(paths, name, manifest)
    write_records(paths, name, manifest)


def restamp(paths: Paths, name: str, metrics: pd.DataFrame | None = None) -> None:
    """Say in the predictions and in the metrics, the new ones if any are given, that they are of
    the runs and tables that are there now."""
    training = pairing(pd.read_parquet(paths.runs(name)), {})
    predicted = pd.read_parquet(paths.predictions(name))
    write_stamped(predicted, training, paths.predictions(name))
    metrics = pd.read_parquet(paths.metrics_table(name)) if metrics is None else metrics
    metadata = {**training, **beside(name, paths)}
    write_stamped(metrics, metadata, paths.metrics_table(name))


def _images(paths, name, classes, per_class, size, noise, synthetic, rng) -> pd.DataFrame:
    width, height = size
    data = paths.data(name)
    rows = []
    y, x = np.mgrid[:height, :width]
    for c, label in enumerate(classes):
        for i in range(per_class):
            split = "test" if i % 3 == 0 else "train"
            relative = f"{split}/{label}/{i:03d}.png"
            cx, cy, r = rng.uniform(14, width - 14), rng.uniform(12, height - 12), 5 + 2 * c
            truth = (x - cx) ** 2 + (y - cy) ** 2 < r**2
            image = rng.normal(60, noise, (height, width)) + 110 * truth
            file = data / relative
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(file)
            mask = data / "masks" / relative
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((truth * 255).astype(np.uint8)).save(mask)
            rows.append(
                {
                    "image_id": relative,
                    "path": relative,
                    "frame": "0",
                    "label": label,
                    "split": split,
                    "patient_id": "",
                    "group": "",
                    "fold": "",
                    "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                    "width": str(width),
                    "height": str(height),
                    "mask_path": f"masks/{relative}",
                    "mask_area": str(int(truth.sum())),
                    "box": "",
                    "points": "",
                    "synthetic": synthetic,
                }
            )
    table = pd.DataFrame(rows)
    paths.manifest(name).parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(paths.manifest(name), index=False)
    return table
