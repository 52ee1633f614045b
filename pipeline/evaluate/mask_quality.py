"""Stored masks against ground truth: Dice, IoU and HD95 per image with two baselines, and means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from pipeline.config import EvaluateParams
from pipeline.encode.views import random_mask
from pipeline.errors import ImageError, StoreError
from pipeline.evaluate.intervals import mean_interval
from pipeline.images import read_mask
from pipeline.manifest import mask_file
from pipeline.paths import Paths
from pipeline.segment.quality import center_ellipse, hd95, overlap
from pipeline.store import open_masks

VALUES = ("dice", "iou", "hd95", "pred_area_fraction", "gt_area_fraction")
COLUMNS = ("image_id", "label", "split", "strategy", *VALUES, "note")
SUMMARY_COLUMNS = (
    *("strategy", "split", "label", "n_images", "n_missing"),
    *(f"{metric}{end}" for metric in ("dice", "iou", "hd95") for end in ("", "_lo", "_hi")),
    *("median_dice", "missed"),
)
MISSED = 0.1  # a mask with a lower Dice has missed the region


def mask_quality(
    dataset: str, manifest: pd.DataFrame, paths: Paths, *, jobs: int = 1
) -> pd.DataFrame:
    """Compare the stored masks with the ground truth of all images that have one.

    Images with an empty ground truth are left out, since overlap is undefined. An image without a
    mask (segmentation failed, or was not run) or with an unreadable ground truth is a row with a
    note and NaN, so that it is counted.

    Args:
        dataset, paths: where the masks are.
        manifest: the images.
        jobs: number of threads.

    Returns:
        One row per image and strategy, columns `COLUMNS`; empty without masks. Strategy is the
        prompt strategy of the store; `random`, the mask moved elsewhere in the image as in view
        `random` of encode; or `ellipse`, a centred ellipse of its area.

    Raises:
        StoreError: masks were made from other image files than those of the manifest.
    """
    having = manifest[manifest["mask_path"] != ""]
    rows: list[list[dict]] = []
    if len(having) and paths.masks(dataset).exists():
        store = open_masks(paths.masks(dataset))
        table = store.table()
        lacking = dict.fromkeys(set(having["image_id"]) - set(table.index), "not segmented")
        lacking |= table.loc[table["status"] == "failed", "reason"].to_dict()
        made = having[~having["image_id"].isin(lacking)].set_index("image_id")["sha256"]
        stale = made.index[made != table["sha256"].reindex(made.index)]
        if len(stale):
            raise StoreError(
                f"masks of {len(stale)} image(s) were made from older image files, e.g. "
                + ", ".join(stale[:3]),
                path=paths.masks(dataset),
                remedy=f"run: pipeline segment --dataset {dataset}",
            )
        strategy = store.identity.get("prompt", {}).get("strategy", "stored")

        def judge(row: Any) -> list[dict[str, Any]]:
            name = {"image_id": row.image_id, "label": row.label, "split": row.split}
            name["strategy"] = strategy
            mask = None if row.image_id in lacking else store[row.image_id]
            if mask is not None:
                name["pred_area_fraction"] = mask.mean()
            try:
                path, shape = mask_file(row, paths.data(dataset)), getattr(mask, "shape", None)
                truth = read_mask(path, int(row.frame), shape=shape)
            except (ImageError, OSError) as error:
                return [{**name, "note": f"ground truth not readable: {error}"}]
            if not truth.any():
                return []
            name["gt_area_fraction"] = truth.mean()
            if mask is None:
                return [{**name, "note": f"no mask: {lacking[row.image_id]}"}]
            masks = {strategy: mask, "random": random_mask(mask, f"{row.sha256}#{row.frame}")}
            masks["ellipse"] = center_ellipse(mask)
            return [{**name, "strategy": s, **_measures(m, truth)} for s, m in masks.items()]

        # Threads, since an opened store must not be carried over a fork.
        parallel = Parallel(n_jobs=jobs, prefer="threads")
        rows = parallel(delayed(judge)(row) for row in having.itertuples())
    kinds = {name: "float64" if name in VALUES else "str" for name in COLUMNS}
    return pd.DataFrame([row for of in rows for row in of], columns=[*COLUMNS]).astype(kinds)


def _measures(mask: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    dice, iou = overlap(mask, truth)
    note = "" if mask.any() else "empty mask: HD95 not defined"
    found = {"dice": dice, "iou": iou, "hd95": hd95(mask, truth), "note": note}
    return found | {"pred_area_fraction": mask.mean()}


def masks_inputs(paths: Paths, dataset: str) -> dict[str, Any]:
    """Return what `mask_quality` is made from, as it is now, for `pipeline.provenance.stamp`."""
    path = paths.masks(dataset)
    masks = open_masks(path) if path.exists() else None
    return {"manifest": paths.manifest(dataset), "masks": masks}


def summarise_masks(
    quality: pd.DataFrame, units: Mapping[str, str], params: EvaluateParams
) -> pd.DataFrame:
    """Return the means of Dice, IoU and HD95 with bootstrap intervals.

    Args:
        quality: mask_quality.parquet or prompt_quality.parquet.
        units: unit of each image id (`image_units`).
        params: number of resamples, confidence and seed.

    Returns:
        One row per strategy and part: split "all" and "test" over all classes (label ""), and
        split "all" for each class. `n_images` counts images with a value, `n_missing` those
        without; `missed` is the share with a Dice below 0.1.
    """
    rows = []
    for strategy, mine in quality.groupby("strategy", sort=False):
        parts = [("all", "", mine), ("test", "", mine[mine["split"] == "test"])]
        parts += [("all", label, part) for label, part in mine.groupby("label", sort=True)]
        for split, label, part in parts:
            dice = part["dice"].dropna()
            row = {"strategy": strategy, "split": split, "label": label}
            row |= {"n_images": len(dice), "n_missing": len(part) - len(dice)}
            of = [units.get(i, i) for i in part["image_id"]]
            for metric in ("dice", "iou", "hd95"):
                ends = mean_interval(part[metric], of, params)
                row |= dict(zip((metric, f"{metric}_lo", f"{metric}_hi"), ends, strict=True))
            missed = (dice < MISSED).mean() if len(dice) else np.nan
            rows.append(row | {"median_dice": dice.median(), "missed": missed})
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
