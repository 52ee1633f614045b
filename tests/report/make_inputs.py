"""Fabricated inputs of a report: small real image files, tables with a known content.

Everything is labelled synthetic. The tables have the shapes that `train` and `evaluate` write;
their values are drawn with a fixed seed, so that two calls give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.config import Params, load_params
from pipeline.engine.items import WorkItem
from pipeline.paths import Paths
from pipeline.stores import MaskRow, MaskStoreWriter

REPO = Path(__file__).resolve().parents[2]
FRACTIONS = (0.05, 0.2, 1.0)
RUNS = {
    "official": [("linear-probe", v) for v in ("whole", "masked", "crop", "binary")]
    + [("medfocus", "masked"), ("medfocus-probe", "whole"), ("medfocus-probe", "masked")],
    "grouped": [
        ("linear-probe", "whole"),
        ("linear-probe", "masked"),
        ("medfocus-probe", "masked"),
    ],
    "ground_truth": [("linear-probe", v) for v in ("whole", "masked", "oracle", "random")],
}
FAILED = "train/alpha/001.png"
LIFT = {"masked": 0.04, "crop": 0.02, "binary": -0.2, "oracle": 0.1, "random": -0.06}


def project(root: Path, *names: str, **kwargs) -> tuple[Params, Paths]:
    """Make a project folder with the given datasets; returns its parameters and paths."""
    params = load_params(REPO / "params.yaml", {"datasets": list(names), "report.gallery": 6})
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
    synthetic: str = "1",
    size: tuple[int, int] = (48, 36),
) -> None:
    """Write every file that a report reads of one dataset."""
    rng = np.random.default_rng(7)
    manifest = _images(paths, name, classes, per_class, size, synthetic, rng)
    predictions, runs = _predictions(manifest, classes, seeds, rng)
    cache = paths.cache(name)
    (cache / "plots").mkdir(parents=True, exist_ok=True)
    coded = ["protocol", "head", "view", "image_id", "y_true", "y_pred"]
    predictions.astype(dict.fromkeys(coded, "category")).to_parquet(paths.predictions(name))
    runs.to_parquet(paths.runs(name))
    _metrics(predictions, manifest).to_parquet(paths.metrics_table(name))
    _per_class(predictions).to_csv(paths.plots(name) / "per_class.csv", index=False)
    _comparisons(predictions).to_csv(paths.plots(name) / "comparisons.csv", index=False)
    _quality(manifest, rng).to_parquet(paths.mask_quality(name))
    _masks(paths, name, manifest)
    _audit(paths, name, manifest)
    _records(paths, name, manifest)


def _images(paths, name, classes, per_class, size, synthetic, rng) -> pd.DataFrame:
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
            image = rng.normal(60, 12, (height, width)) + 110 * truth
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


def _predictions(manifest, classes, seeds, rng):
    test = manifest[manifest["split"] == "test"]
    true = np.array([classes.index(label) for label in test["label"]])
    parts, runs = [], []
    jobs = [
        (p, h, v, f, s)
        for p, pairs in RUNS.items()
        for h, v in pairs
        for f in FRACTIONS
        for s in range(seeds)
    ]
    jobs += [("official", "zero-shot", "whole", 0.0, 0)]
    for protocol, head, view, fraction, seed in jobs:
        skill = 0.45 + 0.12 * np.log10(1 + 99 * fraction) + LIFT.get(view, 0.0)
        skill -= 0.1 * (protocol == "grouped") - 0.02 * head.startswith("medfocus")
        scores = rng.normal(0, 1, (len(test), len(classes)))
        scores[np.arange(len(test)), true] += 3.2 * skill
        p = np.exp(1.4 * scores)
        p /= p.sum(axis=1, keepdims=True)
        table = pd.DataFrame(
            {
                "protocol": protocol,
                "head": head,
                "view": view,
                "fraction": np.float32(fraction),
                "seed": np.int16(seed),
                "image_id": test["image_id"].to_numpy(),
                "y_true": test["label"].to_numpy(),
                "y_pred": np.array(classes)[p.argmax(axis=1)],
                **{f"p:{c}": p[:, i].astype(np.float32) for i, c in enumerate(classes)},
            }
        )
        failed = (protocol, head, fraction, seed) == ("official", "medfocus", 0.05, 1)
        if not failed:
            parts.append(table)
        labels = round(fraction * (len(manifest) - len(test)))
        runs.append(
            {
                "protocol": protocol,
                "head": head,
                "view": view,
                "fraction": fraction,
                "seed": seed,
                "n_train": labels - round(0.2 * labels),
                "n_val": round(0.2 * labels),
                "n_test": len(test),
                "chosen": json.dumps({"C": 0.1}),
                "val_score": 0.8,
                "status": "diverged" if failed else "ok",
                "error": "loss is not finite after epoch 3" if failed else "",
            }
        )
    return pd.concat(parts, ignore_index=True), pd.DataFrame(runs)


def _metrics(predictions, manifest) -> pd.DataFrame:
    """Accuracy by seed and over seeds; the other metrics are shifted copies of it."""
    labels = int((manifest["split"] == "train").sum())
    rows = []
    keys = ["protocol", "head", "view", "fraction"]
    right = predictions.assign(right=predictions["y_true"] == predictions["y_pred"])
    for key, part in right.groupby(keys, sort=True):
        by_seed = part.groupby("seed")["right"].mean()
        subsets = ("full", "clean", "clean_any") if key[0] == "official" else ("full",)
        for i, subset in enumerate(subsets):
            base = dict(zip(keys, key, strict=True), subset=subset)
            for metric, shift in (
                ("accuracy", 0.0),
                ("balanced_accuracy", -0.01),
                ("macro_f1", -0.02),
                ("macro_auroc", 0.05),
                ("ece", -0.6),
                ("brier", -0.5),
            ):
                values = (by_seed + shift - 0.03 * i).clip(0, 1)
                spread = 1.96 * (values.std() if len(values) > 1 else 0.03) / len(values) ** 0.5
                base |= {"metric": metric, "note": "", "n_images": part["image_id"].nunique()}
                base["n_labels"] = round(float(key[3]) * labels)
                mean = values.mean()
                rows.append(base | {"seed": -1, "value": mean} | _around(mean, spread + 0.02))
                for seed, value in values.items():
                    rows.append(base | {"seed": seed, "value": value} | _around(value, 0.1))
    return pd.DataFrame(rows)


def _around(value: float, spread: float) -> dict[str, float]:
    return {"lo": max(0.0, value - spread), "hi": min(1.0, value + spread)}


def _per_class(predictions) -> pd.DataFrame:
    from sklearn.metrics import precision_recall_fscore_support

    rows = []
    keys = ["protocol", "head", "view", "fraction"]
    for key, part in predictions.groupby(keys, sort=True):
        names = sorted(part["y_true"].unique())
        found = precision_recall_fscore_support(
            part["y_true"], part["y_pred"], labels=names, zero_division=0
        )
        for i, name in enumerate(names):
            values = {m: found[j][i] for j, m in enumerate(("precision", "recall", "f1"))}
            support = found[3][i] / part["seed"].nunique()
            row = dict(zip(keys, key, strict=True), subset="full", **{"class": name})
            rows.append(row | values | {"support": support})
    return pd.DataFrame(rows)


def _comparisons(predictions) -> pd.DataFrame:
    right = predictions.assign(right=predictions["y_true"] == predictions["y_pred"])
    means = right.groupby(["protocol", "head", "view", "fraction"])["right"].mean()
    pairs = [
        (("linear-probe", "masked"), ("linear-probe", "whole")),
        (("medfocus-probe", "masked"), ("linear-probe", "whole")),
        (("medfocus-probe", "masked"), ("medfocus-probe", "whole")),
        (("linear-probe", "whole"), ("linear-probe", "oracle")),
        (("linear-probe", "masked"), ("linear-probe", "random")),
    ]
    rows = []
    for protocol in RUNS:
        for a, b in pairs:
            for f in FRACTIONS:
                at = [(protocol, *run, np.float32(f)) for run in (a, b)]
                if any(k not in means.index for k in at):
                    continue
                d = means[at[0]] - means[at[1]]
                rows.append(
                    {
                        "protocol": protocol,
                        "subset": "full",
                        "metric": "accuracy",
                        "fraction": f,
                        "head_a": a[0],
                        "view_a": a[1],
                        "head_b": b[0],
                        "view_b": b[1],
                        "difference": d,
                        "lo": d - 0.05,
                        "hi": d + 0.05,
                        "p": 0.01 if abs(d) > 0.05 else 0.4,
                        "p_holm": 0.03 if abs(d) > 0.05 else 1.0,
                        "n_seeds": 3,
                        "n_images": 12,
                    }
                )
    return pd.DataFrame(rows)


def _quality(manifest, rng) -> pd.DataFrame:
    gt = manifest["mask_area"].astype(float) / (48 * 36)
    parts = []
    for strategy, (a, b) in {"salient": (4, 2), "random": (1, 6), "ellipse": (2, 4)}.items():
        dice = rng.beta(a, b, len(manifest))
        parts.append(
            manifest[["image_id", "label", "split"]].assign(
                strategy=strategy,
                dice=dice,
                iou=dice / (2 - dice),
                hd95=20 * (1 - dice),
                pred_area_fraction=gt * rng.uniform(0.6, 1.5, len(manifest)),
                gt_area_fraction=gt,
                note="",
            )
        )
    return pd.concat(parts, ignore_index=True)


def _masks(paths, name, manifest) -> None:
    """Write a real mask store: the truth moved by two pixels; one empty mask, one failed row."""
    items = [
        WorkItem(r.image_id, r.sha256, paths.data(name) / r.path, 0, r._asdict())
        for r in manifest.itertuples(index=False)
    ]
    with MaskStoreWriter(paths.masks(name), {"model": "fabricated", "prompt": "salient"}) as writer:
        writer.sync_manifest(manifest)
        writer.plan(items)
        for i, item in enumerate(items):
            if item.image_id == FAILED:
                writer.write_failed(item, "truncated file")
                continue
            truth = np.asarray(Image.open(paths.data(name) / item.row["mask_path"])) > 127
            mask = np.roll(truth, 2, axis=1) & (i != 3)
            status = "ok" if mask.any() else "empty"
            row = MaskRow(item.image_id, mask, status=status, predicted_iou=0.9, stability=0.95)
            writer.write([item], [row])
        writer.commit()


def _audit(paths, name, manifest) -> None:
    train, test = (manifest[manifest["split"] == s]["image_id"].tolist() for s in ("train", "test"))
    table = manifest[["image_id", "sha256"]].assign(
        exact_group="",
        near_group="",
        copy_group="",
        copy_in_train=manifest["image_id"].isin(test[:1]),
        copy_in_train_any=manifest["image_id"].isin(test[:3]),
        label_conflict=False,
    )
    table.to_parquet(paths.audit(name))
    labels = manifest.set_index("image_id")["label"]
    kinds = [("byte", 1.0, 0), ("mirror", 0.999, 1), ("mirror", 0.997, 2)]
    pairs = [
        {
            "image_id_a": test[i],
            "image_id_b": train[i],
            "split_a": "test",
            "split_b": "train",
            "label_a": labels[test[i]],
            "label_b": labels[train[i]],
            "kind": kind,
            "score": score,
            "straddles": True,
        }
        for kind, score, i in kinds[: min(len(test), len(train))]
    ]
    pd.DataFrame(pairs).to_parquet(paths.audit_pairs(name))
    summary = {"images": len(manifest), "pairs": {"byte": 1, "mirror": 2}, "min_correlation": 0.995}
    paths.audit_summary(name).write_text(json.dumps(summary))


def _records(paths, name, manifest) -> None:
    for stage in ("segment", "encode", "train", "evaluate"):
        record = {
            "stage": stage,
            "dataset": name,
            "status": "ok",
            "started": "2026-01-01T00:00:00Z",
            "done": len(manifest),
            "skipped": 0,
            "failed": {FAILED: "truncated file"} if stage == "segment" else {},
            "seconds": {"total": 12.5, "load_wait": 1.0, "model": 10.0, "write": 1.5},
            "versions": {"numpy": np.__version__},
            "parameters": {"batch_size": 8},
        }
        paths.record(name, stage).parent.mkdir(parents=True, exist_ok=True)
        paths.record(name, stage).write_text(json.dumps(record))
