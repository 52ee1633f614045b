"""Small project folders with real stores, made from arrays, for tests and benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config import DEFAULT_LEARNERS, LEARNERS, Params, load_params
from pipeline.learners.base import get_learner
from pipeline.learners.runs import read_predictions
from pipeline.manifest import write_manifest
from pipeline.paths import Paths
from pipeline.store import FeatureRow, FeatureStoreWriter
from pipeline.store.items import WorkItem
from tests.project import manifest_of
from tests.project import small as demo

REPO = Path(__file__).resolve().parents[2]
FROM_FEATURES = tuple(name for name in LEARNERS if not get_learner(name).needs)
"""The learners that need nothing but features."""


def small_params(*learners: str, **overrides) -> Params:
    """Return params.yaml with a grid that trains in seconds.

    Args:
        learners: the only ones; default: those of params.yaml.
        overrides: dotted keys, with __ for the dot and any other name as it is.
    """
    study = {key: value for key, value in demo().items() if key != "learners"}
    probe, focus = {"c_steps": 4}, {"epochs": 20, "attention_dim": 8}
    sections = {"linear-probe": probe, "medfocus": focus, "medfocus-probe": probe | focus}
    sections |= {"tip-adapter-f": {"epochs": 3}, "clip-adapter": {"epochs": 3, "ratio": [0.2, 0.4]}}
    small = {
        "train.seeds": [0, 1],
        "splits.fractions": [0.2, 1.0],
        "train.views": {"official": ["whole", "masked"], "grouped": ["masked"]},
        "learners": {name: dict(sections.get(name, {})) for name in learners or DEFAULT_LEARNERS},
        "evaluate.bootstrap": 100,
    }
    given = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_params(REPO / "params.yaml", {**study, **small, **given})


def make_manifest(labels, splits, *, patients=None) -> pd.DataFrame:
    """Return a valid manifest of image i.png in class folders, one row a label."""
    ids = [f"{label}/{i:04d}.png" for i, label in enumerate(labels)]
    of = {"label": list(labels), "split": list(splits)}
    return manifest_of(ids, **of, patient_id="" if patients is None else list(patients))


def write_features(
    paths: Paths,
    dataset: str,
    manifest: pd.DataFrame,
    views: dict[str, np.ndarray],
    text: np.ndarray,
    classes: list[str],
    *,
    failed: tuple[str, ...] = (),
    made: str = "from arrays",
    mask_crc: dict[str, int] | None = None,
    text_made: dict | None = None,
    templates: tuple[str, ...] = ("{}",),
) -> None:
    """Write manifest and feature store. `views` are (n, d) in manifest order, `text` (C, d);
    `made` is the store's identity, `text_made` that of the texts, `mask_crc` says of which masks
    the views are."""
    write_manifest(manifest, paths.manifest(dataset))
    stacked = np.stack(list(views.values()), axis=1).astype(np.float32)
    items, rows = [], []
    for n, row in enumerate(manifest.to_dict("records")):
        key = f"{row['image_id']}-{stacked[n].tobytes()[:64].hex()}"
        items.append(WorkItem(row["image_id"], key, paths.data(dataset) / row["path"], 0, row))
        crc = (mask_crc or {}).get(row["image_id"], -1)
        rows.append(FeatureRow(row["image_id"], stacked[n], mask_crc=crc))
    with FeatureStoreWriter(
        paths.features(dataset),
        {"made": made},
        views=list(views),
        dim=stacked.shape[2],
        on_mismatch="rebuild",
    ) as writer:
        writer.sync_manifest(manifest)
        writer.plan(items)
        writer.set_text(
            text[:, None].astype(np.float32),
            classes=classes,
            templates=templates,
            identity=text_made or {"made": "from arrays"},
        )
        for item, feature in zip(items, rows, strict=True):
            if item.image_id in failed:
                writer.write_failed(item, "cannot be read")
            else:
                writer.write([item], [feature])
        writer.finish()


def read_tables(paths: Paths, dataset: str = "toy") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the runs and the predictions of all learners that have a run folder."""
    tables = sorted(paths.run(dataset, "x").parent.glob("*/*.parquet"))
    runs, table = read_predictions(paths, dataset, dict.fromkeys(t.parent.name for t in tables))
    return runs, table.to_pandas()


def blobs(
    labels, classes: list[str], *, dim: int = 24, spread: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, dim) around one centre a class, and text features near the centres."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((len(classes), dim))
    y = np.array([classes.index(label) for label in labels])
    X = centres[y] + spread * rng.standard_normal((len(y), dim))
    return X.astype(np.float32), (centres + 0.5 * rng.standard_normal(centres.shape))
