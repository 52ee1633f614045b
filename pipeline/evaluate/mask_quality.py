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
from pipeline.remote import exists
from pipeline.segment.quality import center_ellipse, hd95, overlap
from pipeline.store import open_masks

TEXTS = ("image_id", "label", "split", "strategy")
VALUES = ("dice", "iou", "hd95", "pred_area_fraction", "gt_area_fraction")
COLUMNS = dict.fromkeys(TEXTS, "str") | dict.fromkeys(VALUES, "float64") | {"note": "str"}
SUMMARY_COLUMNS = [
    *("strategy", "split", "label", "n_images", "n_missing"),
    *(f"{metric}{end}" for metric in VALUES[:3] for end in ("", "_lo", "_hi")),
    *("median_dice", "missed"),
]
MISSED = 0.1  # a mask with a lower Dice has missed the region


def mask_quality(
    dataset: str, manifest: pd.DataFrame, paths: Paths, *, jobs: int = 1
) -> pd.DataFrame:
    """Compare the stored masks with the ground truth of all images that have one.

    Images with an empty ground truth are left out, since overlap is undefined. An image without a
    mask (segmentation failed, or was not run) or with an unreadable ground truth is a row with a
    note and NaN, so that it is counted.

    Returns:
        One row per image and strategy, columns `COLUMNS`; empty without masks. Strategy is the
        prompt strategy of the store; `random`, the mask moved elsewhere in the image as in view
        `random` of encode; or `ellipse`, a centred ellipse of its area.

    Raises:
        StoreError: masks were made from other image files than those of the manifest.
    """
    having = manifest[manifest["mask_path"] != ""]
    rows: list[list[dict]] = []
    if len(having) and exists(paths.masks(dataset)):
        store = open_masks(paths.masks(dataset))
        table = store.table().reindex(having["image_id"])
        lacking = dict.fromkeys(table.index[table["status"].isna()], "not segmented")
        lacking |= table.loc[table["status"] == "failed", "reason"].to_dict()
        other = (table["sha256"] != having["sha256"].to_numpy()) & ~table.index.isin([*lacking])
        if len(stale := table.index[other]):
            raise StoreError(
                f"the masks of {len(stale)} images are of other files, e.g. {stale[0]}",
                path=paths.masks(dataset),
                remedy=f"run: pipeline segment --dataset {dataset}",
            )
        strategy = store.identity.get("prompt", {}).get("strategy", "stored")

        def judge(row: Any) -> list[dict[str, Any]]:
            name = {"strategy": strategy, **{column: getattr(row, column) for column in TEXTS[:3]}}
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
    return pd.DataFrame([row for of in rows for row in of], columns=[*COLUMNS]).astype(COLUMNS)


def _measures(mask: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    note = "" if mask.any() else "empty mask: HD95 not defined"
    figures = (note, *overlap(mask, truth), hd95(mask, truth), mask.mean())
    return dict(zip(("note", *VALUES[:4]), figures, strict=True))


def masks_inputs(paths: Paths, dataset: str) -> dict[str, Any]:
    """Return what `mask_quality` is made from, as it is now, for `pipeline.provenance.stamp`."""
    path = paths.masks(dataset)
    masks = open_masks(path) if exists(path) else None
    return {"manifest": paths.manifest(dataset), "masks": masks}


def summarise_masks(
    quality: pd.DataFrame, units: Mapping[str, str], params: EvaluateParams
) -> pd.DataFrame:
    """Return means of Dice, IoU and HD95 with intervals over units (`image_units`), from
    mask_quality.parquet or prompt_quality.parquet.

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
            dice, of = part["dice"].dropna(), [units.get(i, i) for i in part["image_id"]]
            missed = (dice < MISSED).mean() if len(dice) else np.nan
            means = [mean_interval(part[metric].to_numpy(), of, params) for metric in VALUES[:3]]
            about = (strategy, split, label, len(dice), len(part) - len(dice))
            rows.append((*about, *np.concatenate(means), dice.median(), missed))
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)
