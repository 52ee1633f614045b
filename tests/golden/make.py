"""Compute the numbers that tests/golden holds, with the package `pipeline` that Python finds.

    python tests/golden/make.py SHARED OUT [PROJECT]   # SHARED: the folder of real images

Writes to OUT what tests/golden keeps: `reader.json` (hashes of decoded images and masks) and, for
two small sets of real images and one set of phantoms taken through every command from `data add`
to `evaluate`, `<dataset>.json` (hashes of masks and features, splits, copies) and
`<dataset>.<table>.parquet` (predictions, metrics, comparisons, overlap with the ground truth).
No pixel of an image is kept. PROJECT is an empty folder for the project, which then stays. Only
commands and public readers are used, so that the script runs on any version of the code.
About 80 seconds of one core.
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
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"  # sums of floats depend on the number of threads

import numpy as np
import pandas as pd
import torch
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
DATASETS = ("brain", "breast", "known-lesion")
PER_FOLDER = 30
"""Images and masks that are taken of each folder of real images."""
PARAMS = {
    "datasets": list(DATASETS),
    "segment": {"precision": "fp32"},
    "encode": {"precision": "fp32"},
    "prompt_quality": {"images": 6, "phantoms": 4},
    "splits": {"fractions": [0.5, 1.0], "folds": 2},
    "train": {
        "seeds": [0, 1],
        "views": {
            "official": ["whole", "masked"],
            "grouped": ["whole", "masked"],
            "ground_truth": ["masked", "oracle"],
            "grouped_truth": ["masked"],
        },
    },
    "evaluate": {"bootstrap": 200},
}
LEARNERS = {
    "zero-shot": {},
    "linear-probe": {"c_steps": 3},
    "medfocus": {"epochs": 6},
    "medfocus-probe": {"epochs": 6, "c_steps": 3},
}
KEYS = ["protocol", "subset", "learner", "view", "fraction", "seed", "metric"]
SAMPLES = 4
"""Values that are kept of each feature vector, beside its hash."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def array_hash(array: np.ndarray) -> str:
    """Hash of an array's dtype, shape and values."""
    return sha256(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())


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


# ------------------------------------------------------------------------------------- reader


def chosen(shared: Path) -> Iterator[Path]:
    """Yield up to `PER_FOLDER` files of each folder, evenly spaced by name."""
    for part in ("data", "segmentation"):
        for folder, _, names in sorted(os.walk(shared / part, followlinks=True)):
            names = sorted(n for n in names if Path(n).suffix not in (".md", ".csv"))
            for index in np.unique(np.linspace(0, len(names) - 1, PER_FOLDER).astype(int)):
                if names:
                    yield Path(folder) / names[index]


def reader(shared: Path) -> dict[str, str]:
    """Return path below `shared` -> hash of what the reader gives."""
    from pipeline.images import read_image, read_mask

    found = {}
    for path in chosen(shared):
        name = path.relative_to(shared).as_posix()
        found[name] = array_hash(read_image(path))
        if "masks" in name:
            found[f"{name} as mask"] = array_hash(read_mask(path))
    return found


# ------------------------------------------------------------------------------------- project


def command(*arguments: str) -> None:
    """Run `pipeline ...` in this process."""
    from pipeline.cli import main

    with mock.patch.object(sys, "argv", ["pipeline", *arguments]):
        try:
            main()
        except SystemExit as ended:
            assert not ended.code, f"pipeline {' '.join(arguments)} ended with {ended.code}"


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


def copy(names: list[str], images: Path, masks: Path, dataset: str) -> None:
    for name in names:
        truth = Path(name).with_suffix(".png")
        for source, target in (
            (images / name, Path("scans", dataset, name)),
            (masks / truth, Path("truths", dataset, truth)),
        ):
            if source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


def add_brain(shared: Path) -> None:
    """A folder filed by split and class, masks for some, a table of known groups."""
    images, groups = shared / "data/brain", shared / "data/brain_groups.csv"
    names = brain_files(images, groups)
    copy(names, images, shared / "data/brain_masks", "brain")
    table = pd.read_csv(groups, dtype=str)
    table["path"] = table["path"].str.removeprefix("brain/")
    table[table["path"].isin(names)].to_csv("groups.csv", index=False)
    where = ("--from", "scans/brain", "--masks", "truths/brain", "--groups", "groups.csv")
    command("data", "add", "brain", *where)


def add_breast(shared: Path) -> None:
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
    copy([row["path"] for row in rows], images, shared / "data/breast_masks", "breast")
    pd.DataFrame(rows).to_csv("scans/breast/table.csv", index=False)
    command("data", "add", "breast", "--from", "scans/breast/table.csv")


def write_params() -> None:
    """The checkout's params.yaml with the values of `PARAMS` and `LEARNERS`."""
    raw = yaml.safe_load((CHECKOUT / "params.yaml").read_text(encoding="utf-8"))
    for key, value in PARAMS.items():
        raw[key] = raw[key] | value if isinstance(value, dict) else value
    raw["learners"] = {name: raw["learners"][name] | changed for name, changed in LEARNERS.items()}
    Path("params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")


def build(shared: Path) -> None:
    """Make the project in the working folder."""
    Path("data_manifests").mkdir()
    shutil.copyfile(CHECKOUT / "data_manifests/prompts.yaml", "data_manifests/prompts.yaml")
    write_params()
    add_brain(shared)
    add_breast(shared)
    command("data", "sample", "--known-answer", "lesion", "--images", "40")
    for dataset in DATASETS:
        on = ("--dataset", dataset)
        command("audit", *on)
        command("segment", *on, "--device", "cpu")
        command("prompt-quality", *on, "--device", "cpu")
        command("encode", *on, "--device", "cpu")
        command("train", *on, "--jobs", "1")
        command("evaluate", *on, "--jobs", "1")
        command("splits", "export", *on, "--out", f"{dataset}.splits.csv")


# ------------------------------------------------------------------------------------- what is kept


def facts(dataset: str) -> dict[str, object]:
    """Manifest, masks, features, copies and splits of a dataset, by image id."""
    from pipeline import open_features, open_masks

    cache = Path("cache", dataset)
    text = {"dtype": str, "keep_default_na": False}
    manifest = pd.read_csv(Path("data_manifests", f"{dataset}.csv"), **text).set_index("image_id")
    columns = ["label", "split", "patient_id", "group", "fold", "width", "height", "mask_area"]
    masks, features = open_masks(cache / "masks.zarr"), open_features(cache / "features.zarr")
    ids = sorted(manifest.index)
    views: dict[str, dict[str, object]] = {}
    for view in features.views:
        table = features.to_pandas(view=view)
        vectors = {i: table.loc[i, range(features.dim)].to_numpy("float32") for i in table.index}
        views[view] = {
            i: [array_hash(v), *(float(f) for f in v[:SAMPLES])]
            for i, v in vectors.items()
            if not np.isnan(v).any()
        }
    audit = pd.read_parquet(cache / "audit.parquet").set_index("image_id")
    groups = ["exact_group", "near_group", "copy_group"]
    flags = ["copy_in_train", "copy_in_train_any", "label_conflict"]
    splits = pd.read_csv(f"{dataset}.splits.csv", **text)
    plan: dict[str, dict[str, str]] = {}
    for (protocol, seed), rows in splits.groupby(["protocol", "seed"]):
        parts = rows["part"] + " " + rows["from_fraction"].astype(float).astype(str)
        plan[f"{protocol} {seed}"] = dict(zip(rows["image_id"], parts, strict=True))
    table = masks.table()
    return {
        "manifest": {i: manifest.loc[i, columns].tolist() for i in ids},
        "masks": {
            i: [array_hash(masks[i]), int(masks[i].sum()), table.loc[i, "status"]] for i in ids
        },
        "features": views,
        "text": {
            name: array_hash(vector) for name, vector in _class_texts(features).items()
        },
        "audit": {
            i: [*audit.loc[i, groups].tolist(), *map(bool, audit.loc[i, flags])] for i in ids
        },
        "splits": plan,
    }  # fmt: skip


def _class_texts(features: object) -> dict[str, np.ndarray]:
    """Text embeddings (template, feature) by class."""
    texts = features.text_features
    return {str(c): texts.sel({"class": c}).to_numpy() for c in texts["class"].to_numpy()}


def tables(dataset: str) -> dict[str, pd.DataFrame]:
    """Predictions and what is computed from them, rows sorted by their keys."""
    cache = Path("cache", dataset)
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
        for column in text & set(table.columns):
            table[column] = table[column].astype(str)
        for column in table.columns[table.dtypes == "float32"]:
            table[column] = table[column].astype("float64")
        keys = {*KEYS, "learner_a", "view_a", "learner_b", "view_b", "image_id", "strategy"}
        keys = [column for column in table.columns if column in keys]
        table = table.drop(columns=[c for c in ("key", "label", "split", "note") if c in table])
        if name == "predictions":
            probabilities = [column for column in table if column.startswith("p:")]
            table = table[[*keys, "y_true", "y_pred", *probabilities]]
            table[probabilities] = table[probabilities].astype("float32")
        found[name] = table.sort_values(keys, ignore_index=True)
    return found


def main(shared: Path, out: Path, project: Path | None = None) -> None:
    shared, out = shared.resolve(), out.resolve()
    out.mkdir(parents=True, exist_ok=True)

    def save(name: str, value: object) -> None:
        file = out / f"{name}.json"
        file.write_text(json.dumps(value, separators=(",", ":")), encoding="utf-8")

    save("machine", machine())
    save("reader", reader(shared))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(project or folder)
        build(shared)
        for dataset in DATASETS:
            save(dataset, facts(dataset))
            for name, table in tables(dataset).items():
                table.to_parquet(out / f"{dataset}.{name}.parquet", compression="zstd")
        os.chdir(out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
