"""Compute the numbers that tests/golden holds.

    python -m tests.golden.make SHARED OUT   # SHARED: the folder of real images

Writes to OUT what tests/golden keeps: `reader.json` (hashes of decoded images and masks) and, for
two small sets of real images and one set of phantoms taken through every command from `data add`
to `evaluate`, `<dataset>.json` (hashes of masks and features, splits, copies) and
`<dataset>.<table>.parquet` (predictions, metrics, comparisons, overlap with the ground truth).
No pixel of an image is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # sums of floats depend on the number of threads

import numpy as np
import pandas as pd
import torch

from pipeline import open_features, open_masks
from pipeline.images import read_image, read_mask
from tests.project import REPO, write_params
from tests.site import Site

DATASETS = ("brain", "breast", "known-lesion")
PARAMS = {
    "datasets": list(DATASETS),
    "prompt_quality.images": 6,
    "prompt_quality.phantoms": 4,
    "splits.fractions": [0.5, 1.0],
    "splits.folds": 2,
    "train.seeds": [0, 1],
    "train.views": {
        "official": ["whole", "masked"],
        "grouped": ["whole", "masked"],
        "ground_truth": ["masked", "oracle"],
        "grouped_truth": ["masked"],
    },
    "learners.linear-probe.c_steps": 3,
    "learners.medfocus.epochs": 6,
    "learners.medfocus-probe.epochs": 6,
    "learners.medfocus-probe.c_steps": 3,
    "evaluate.bootstrap": 200,
}


def array_hash(array: np.ndarray) -> str:
    """Hash of an array's dtype, shape and values."""
    data = f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(data).hexdigest()[:16]


def machine() -> dict[str, str]:
    """What decides the last bits of a float."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    vendor = next((line.split(": ")[1] for line in lines if line.startswith("vendor_id")), "")
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "cpu": f"{platform.machine()} {vendor} {capability}",
        "torch": torch.__version__.split("+")[0],
        "numpy": np.__version__,
    }


def chosen(shared: Path) -> Iterator[Path]:
    """Yield up to 10 files of each folder of real images, evenly spaced by name."""
    for part in ("data", "segmentation"):
        for folder, _, names in sorted(os.walk(shared / part, followlinks=True)):
            names = sorted(n for n in names if Path(n).suffix not in (".md", ".csv"))
            for index in np.unique(np.linspace(0, len(names) - 1, 30).astype(int)[::3]):
                if names:
                    yield Path(folder) / names[index]


def reader(shared: Path) -> dict[str, str]:
    """Return path below `shared` -> hash of what the reader gives."""
    found = {}
    for path in chosen(shared):
        name = path.relative_to(shared).as_posix()
        found[name] = array_hash(read_image(path))
        if "masks" in name:
            found[f"{name} as mask"] = array_hash(read_mask(path))
    return found


# -- the project ----------------------------------------------------------------------------------


def brain_files(images: Path, groups: Path) -> list[str]:
    """60 names below `images`: test images with their copies in train come first."""
    table = pd.read_csv(groups)
    table["name"] = table["path"].str.removeprefix("brain/")
    table["part"] = table["name"].str.split("/").str[0]
    taken = []
    for label in ("glioma", "meningioma", "pituitary"):
        own = table[table["name"].str.contains(f"/{label}/")]
        train, test = (own[own["part"] == part].sort_values("name") for part in ("train", "test"))
        copied = test[test["slice"].isin(set(train["slice"]))].iloc[:5]
        sources = train[train["slice"].isin(set(copied["slice"]))].drop_duplicates("slice")
        others = train[~train["slice"].isin(set(copied["slice"]))]
        spaced = np.linspace(0, len(others) - 1, 10 - len(sources)).astype(int)
        taken += [*copied["name"], *sources["name"], *others["name"].iloc[spaced]]
    for part, count in (("train", 10), ("test", 5)):
        names = sorted(path.name for path in (images / part / "notumor").iterdir())
        spaced = np.linspace(0, len(names) - 1, count).astype(int)
        taken += [f"{part}/notumor/{names[index]}" for index in spaced]
    return sorted(taken)


def copy(names: list[str], images: Path, masks: Path, site: Site, dataset: str) -> None:
    for name in names:
        truth = Path(name).with_suffix(".png")
        for source, target in (
            (images / name, site.root / "scans" / dataset / name),
            (masks / truth, site.root / "truths" / dataset / truth),
        ):
            if source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


def add_brain(site: Site, shared: Path) -> None:
    """A folder filed by split and class, masks for some, a table of known groups."""
    images, groups = shared / "data/brain", shared / "data/brain_groups.csv"
    names = brain_files(images, groups)
    copy(names, images, shared / "data/brain_masks", site, "brain")
    table = pd.read_csv(groups, dtype=str)
    table["path"] = table["path"].str.removeprefix("brain/")
    table[table["path"].isin(names)].to_csv(site.root / "groups.csv", index=False)
    where = ("--from", "scans/brain", "--masks", "truths/brain", "--groups", "groups.csv")
    site.run("pipeline", "data", "add", "brain", *where)


def add_breast(site: Site, shared: Path) -> None:
    """A table with patients (of three images each, invented) and masks; no parts."""
    images = shared / "data/breast"
    rows = []
    for label in ("benign", "malignant", "normal"):
        names = sorted(path.name for path in (images / label).iterdir())
        for number, index in enumerate(np.linspace(0, len(names) - 1, 20).astype(int)):
            name = f"{label}/{names[index]}"
            mask = Path("../../truths/breast", name).with_suffix(".png").as_posix()
            patient = f"{label}-{number // 3}" if number < 12 else ""
            rows.append({"path": name, "label": label, "patient_id": patient, "mask_path": mask})
    copy([row["path"] for row in rows], images, shared / "data/breast_masks", site, "breast")
    pd.DataFrame(rows).to_csv(site.root / "scans/breast/table.csv", index=False)
    site.run("pipeline", "data", "add", "breast", "--from", "scans/breast/table.csv")


def build(site: Site, shared: Path) -> None:
    """Make the project: params.yaml with the values above, and all commands."""
    (site.root / "data_manifests").mkdir(parents=True)
    shutil.copy(REPO / "data_manifests/prompts.yaml", site.root / "data_manifests")
    write_params(site.root, **PARAMS)
    add_brain(site, shared)
    add_breast(site, shared)
    site.run("pipeline", "data", "sample", "--known-answer", "lesion", "--images", "40")
    for dataset in DATASETS:
        for command in (
            "audit",
            *("segment --device cpu", "prompt-quality --device cpu", "encode --device cpu"),
            *("train --jobs 1", "evaluate --jobs 1", f"splits export --out {dataset}.splits.csv"),
        ):
            site.run("pipeline", *command.split(), "--dataset", dataset)


# -- what is kept ---------------------------------------------------------------------------------


def facts(root: Path, dataset: str) -> dict[str, object]:
    """Return manifest, masks, features, copies and splits of a dataset, by image id."""
    cache = root / "cache" / dataset
    text = {"dtype": str, "keep_default_na": False}
    manifest = pd.read_csv(root / f"data_manifests/{dataset}.csv", **text).set_index("image_id")
    columns = ["label", "split", "patient_id", "group", "fold", "width", "height", "mask_area"]
    masks, features = open_masks(cache / "masks.zarr"), open_features(cache / "features.zarr")
    texts, ids = features.text_features, sorted(manifest.index)
    views: dict[str, dict[str, str]] = {}
    for view in features.views:
        table = features.to_pandas(view=view)
        vectors = {i: table.loc[i, range(features.dim)].to_numpy("float32") for i in table.index}
        views[view] = {i: array_hash(v) for i, v in vectors.items() if not np.isnan(v).any()}
    audit = pd.read_parquet(cache / "audit.parquet").set_index("image_id")
    groups = ["exact_group", "near_group", "copy_group"]
    flags = ["copy_in_train", "copy_in_train_any", "label_conflict"]
    splits = pd.read_csv(root / f"{dataset}.splits.csv", **text)
    plan: dict[str, dict[str, str]] = {}
    for (protocol, seed), rows in splits.groupby(["protocol", "seed"]):
        parts = rows["part"] + " " + rows["from_fraction"].astype(float).astype(str)
        plan[f"{protocol} {seed}"] = dict(zip(rows["image_id"], parts, strict=True))
    status = masks.table()["status"]
    return {
        "manifest": {i: manifest.loc[i, columns].tolist() for i in ids},
        "masks": {i: [array_hash(masks[i]), int(masks[i].sum()), status[i]] for i in ids},
        "features": views,
        "text": {
            str(c): array_hash(texts.sel({"class": c}).to_numpy())
            for c in texts["class"].to_numpy()
        },
        "audit": {
            i: [*audit.loc[i, groups].tolist(), *map(bool, audit.loc[i, flags])] for i in ids
        },
        "splits": plan,
    }


def tables(root: Path, dataset: str) -> dict[str, pd.DataFrame]:
    """Return predictions and what is computed from them."""
    cache = root / "cache" / dataset
    parts = sorted(cache.glob("runs/*/predictions.parquet"))
    predictions = pd.concat([pd.read_parquet(path) for path in parts])
    text = {"protocol", "subset", "learner", "view", "image_id", "y_true", "y_pred"}
    found = {
        "predictions": predictions,
        "metrics": pd.read_parquet(cache / "metrics.parquet"),
        "comparisons": pd.read_csv(cache / "plots/comparisons.csv"),
        "mask_quality": pd.read_parquet(cache / "mask_quality.parquet"),
        "prompt_quality": pd.read_parquet(cache / "prompt_quality.parquet"),
    }
    for name, table in found.items():
        found[name] = table.astype({column: str for column in text & set(table.columns)})
    return found


def make(site: Site, shared: Path, out: Path) -> None:
    """Build the project in an empty folder and write its numbers to another."""

    def save(name: str, value: object) -> None:
        text = json.dumps(value, separators=(",", ":"))
        (out / f"{name}.json").write_text(text, encoding="utf-8")

    build(site, shared)
    save("machine", machine())
    save("reader", reader(shared))
    for dataset in DATASETS:
        save(dataset, facts(site.root, dataset))
        for name, table in tables(site.root, dataset).items():
            table.to_parquet(out / f"{dataset}.{name}.parquet", compression="zstd")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        make(Site(Path(folder) / "site"), *map(Path, sys.argv[1:]))
