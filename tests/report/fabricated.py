"""A project folder with everything that a report reads, made without a model."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.special import softmax

from pipeline.config import Params, load_params
from pipeline.engine.run import image_items
from pipeline.evaluate import evaluate_dataset
from pipeline.evaluate.comparison import compare_dataset
from pipeline.io import sha256_file
from pipeline.learners.runs import run_inputs, write_tables
from pipeline.manifest import COLUMNS, write_manifest
from pipeline.paths import Paths
from pipeline.provenance import stamp
from pipeline.store import MaskRow, MaskStoreWriter
from tests.project import small

REPO = Path(__file__).resolve().parents[2]
CLASSES = ("alpha", "beta", "gamma")
SIZE = (36, 48)
EMPTY, FAILED = "train/alpha/002.png", "train/beta/001.png"
"""Images whose mask is empty, and whose segmentation failed."""
DIVERGED = ("official", "medfocus-probe", "masked", 0.05, 1)
NOTES = ["official: 5 images without a split take no part", "ground_truth: without 'omega'"]
TRUTH = [("linear-probe", view) for view in ("whole", "masked", "oracle", "random")]
GROUPED = [
    *(("linear-probe", v) for v in ("whole", "masked", "crop", "random")),
    ("medfocus-probe", "masked"),
]
OFFICIAL = [("zero-shot", "whole"), *GROUPED]
RUNS = {"official": OFFICIAL, "grouped": GROUPED, "ground_truth": TRUTH, "grouped_truth": TRUTH}
SKILL = {"whole": 1.0, "masked": 2.2, "crop": 1.2, "oracle": 2.6, "random": 0.4}
"""Added to the score of the true class, by view: masked images are classified better."""


def make_project(
    root: Path,
    name: str,
    *,
    classes: tuple[str, ...] = CLASSES,
    fractions: tuple[float, ...] = (0.05, 1.0),
    synthetic: str = "1",
    test_part: bool = True,
) -> tuple[Params, Paths]:
    """Make a project folder with one dataset; returns its parameters and paths."""
    settings = small() | {"report.gallery": 6, "report.thumbnail": 64, "evaluate.bootstrap": 60}
    params = load_params(REPO / "params.yaml", settings)
    learners = {k: params.learners[k] for k in ("zero-shot", "linear-probe", "medfocus-probe")}
    params = params.model_copy(update={"datasets": (name,), "learners": learners})
    paths, rng = Paths(root), np.random.default_rng(7)
    manifest = write_images(paths.data(name), classes, rng).assign(synthetic=synthetic)
    tested = (manifest["split"] == "test").to_numpy()
    manifest["split"] = manifest["split"] if test_part else ""
    write_manifest(manifest, paths.manifest(name))
    write_masks(paths, name, manifest)
    write_audit(paths, name, manifest, tested)
    write_runs(paths, name, manifest.assign(tested=tested), classes, fractions, rng)
    evaluate_dataset(name, params, paths)
    compare_dataset(name, params, paths)
    write_prompts(paths, name, manifest)
    write_records(paths, name)
    return params, paths


def write_images(folder: Path, classes, rng) -> pd.DataFrame:
    """Write noisy images with a bright disc and its ground truth; returns the manifest."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    rows = []
    for (c, label), i in itertools.product(enumerate(classes), range(12)):
        split = "train" if i % 3 else "test"
        path = f"{split}/{label}/{i:03d}.png"
        truth = (x - rng.uniform(14, 34)) ** 2 + (y - rng.uniform(12, 24)) ** 2 < (5 + 2 * c) ** 2
        image = (rng.normal(60, 12, SIZE) + 110 * truth).clip(0, 255)
        for file, pixels in ((path, image), (f"masks/{path}", 255 * truth)):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / file)
        row = {"image_id": path, "path": path, "frame": 0, "label": label, "split": split}
        row |= {"width": SIZE[1], "height": SIZE[0], "sha256": sha256_file(folder / path)}
        row |= {"mask_path": f"masks/{path}", "mask_area": int(truth.sum())}
        rows.append(dict.fromkeys(COLUMNS, "") | row)
    return pd.DataFrame(rows)


def write_masks(paths, name, manifest) -> None:
    """Write a mask store: the truth moved by two pixels, one empty mask, one failure."""
    identity = {"model": {"fingerprint": {"name": "drawn"}}, "prompt": {"strategy": "salient"}}
    with MaskStoreWriter(paths.masks(name), identity) as writer:
        writer.sync_manifest(manifest.astype(str))
        for item, _ in writer.plan(image_items(manifest.astype(str), paths.data(name))).todo:
            if item.image_id == FAILED:
                writer.write_failed(item, "truncated file")
                continue
            truth = np.asarray(Image.open(paths.data(name) / item.row["mask_path"])) > 127
            mask = np.roll(truth, 2, axis=1) & (item.image_id != EMPTY)
            status = "ok" if mask.any() else "empty"
            row = MaskRow(item.image_id, mask, status=status, predicted_iou=0.9, stability=0.9)
            writer.write([item], [row])
        writer.commit()


def write_audit(paths, name, manifest, tested) -> None:
    """Write an audit with one byte copy and one mirrored copy across the split."""
    train, test = (manifest["image_id"][part].tolist() for part in (~tested, tested))
    groups = dict.fromkeys(("exact_group", "near_group", "copy_group"), "")
    table = manifest[["image_id", "sha256", "split"]].assign(**groups, label_conflict=False)
    table["copy_in_train"] = table["image_id"].isin(test[:1])
    table["copy_in_train_any"] = table["image_id"].isin(test[:2])
    table.to_parquet(paths.audit(name))
    labels = manifest.set_index("image_id")["label"]
    pairs = pd.DataFrame({"image_id_a": test[:2], "image_id_b": train[:2]})
    for side in "ab":
        pairs[f"label_{side}"] = pairs[f"image_id_{side}"].map(labels)
    pairs = pairs.assign(split_a="test", split_b="train", kind=["byte", "mirror"], score=0.99)
    pairs.assign(leak=True).to_parquet(paths.audit_pairs(name))


def write_runs(paths, name, manifest, classes, fractions, rng) -> None:
    """Write what `train` writes of RUNS; grouped protocols test every image once."""
    made: dict[str, list[tuple]] = {}
    for protocol, (learner, view) in ((p, run) for p, pairs in RUNS.items() for run in pairs):
        shares = (0.0,) if learner == "zero-shot" else fractions
        for fraction, seed in itertools.product(shares, range(2)):
            fold = np.arange(len(manifest)) % 2 == seed
            test = manifest[fold if protocol.startswith("grouped") else manifest["tested"]]
            n = max(1, round(fraction * (len(manifest) - len(test))))
            fit = {"protocol": protocol, "learner": learner, "view": view}
            fit |= {"fraction": fraction, "seed": seed}
            ok = tuple(fit.values()) != DIVERGED
            row = fit | {"n_train": n - n // 5, "n_val": n // 5, "n_test": len(test)}
            row |= {"n_parameters": 10, "chosen": "{}", "val_score": 0.8, "digest": str(fit)}
            row |= {"status": "ok" if ok else "diverged", "error": "loss is not finite" * (not ok)}
            true = test[["label"]].to_numpy() == np.array(classes)
            p = softmax(rng.normal(0, 1, true.shape) + SKILL[view] * true, axis=1)
            tested = test["image_id"].to_numpy(), true.argmax(axis=1), p if ok else None
            made.setdefault(learner, []).append((row, tested))
    for learner, fits in made.items():
        rows, tested = map(list, zip(*fits, strict=True))
        inputs = stamp(**run_inputs(paths, name))
        write_tables(paths.run(name, learner), rows, tested, classes, inputs)


def write_prompts(paths, name, manifest) -> None:
    """Write what `prompt-quality` writes: two strategies, one with the ground truth."""
    table = manifest[["image_id", "label", "split"]].assign(hd95=4.0, note="", key="")
    table = table.assign(pred_area_fraction=0.1, gt_area_fraction=0.1)
    parts = [
        table.assign(strategy=strategy, dice=dice, iou=dice / (2 - dice), from_truth=truth)
        for strategy, dice, truth in (("salient", 0.8, False), ("box", 0.9, True))
    ]
    pd.concat(parts, ignore_index=True).to_parquet(paths.prompt_quality(name))


def write_records(paths, name) -> None:
    """Write the records of the stages that did not run; times differ from run to run."""
    for stage in ("segment", "train-linear-probe"):
        record = {"stage": stage.split("-")[0], "dataset": name, "status": "ok", "done": 36}
        record |= {"versions": {"numpy": "2.0"}, "seconds": {"total": 12.5}}
        record["parameters"] = {"notes": NOTES} if stage.startswith("train") else {}
        paths.record(name, stage).parent.mkdir(parents=True, exist_ok=True)
        paths.record(name, stage).write_text(json.dumps(record))
    path = paths.record(name, "evaluate")
    record = json.loads(path.read_text()) | {"started": "", "seconds": {}, "last_computed": {}}
    path.write_text(json.dumps(record))
