"""What the stages leave beside their tables: a real mask store, an audit, the records."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.store import MaskRow, MaskStoreWriter
from pipeline.store.items import WorkItem

FAILED = "train/alpha/001.png"
# What the plan of the splits noted, as `train` records it.
NOTES = ["official: 5 images without a split take no part", "ground_truth: without 'omega'"]


def write_masks(paths, name, manifest) -> None:
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


def write_audit(paths, name, manifest) -> None:
    train, test = (manifest[manifest["split"] == s]["image_id"].tolist() for s in ("train", "test"))
    table = manifest[["image_id", "sha256", "split"]].assign(
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


def write_records(paths, name, manifest) -> None:
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
            "parameters": {"notes": NOTES} if stage == "train" else {"workers": 2},
            "last_computed": {
                "started": "2026-01-01T00:00:00Z",
                "done": len(manifest),
                "skipped": 0,
                "seconds": 12.5,
            },
        }
        paths.record(name, stage).parent.mkdir(parents=True, exist_ok=True)
        paths.record(name, stage).write_text(json.dumps(record))
