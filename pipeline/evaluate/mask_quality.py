"""Stored masks against ground truth: Dice, IoU and HD95 per image, with two baselines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.errors import ImageError, StoreError
from pipeline.evaluate.intervals import mean_interval
from pipeline.segment.overlap import center_ellipse, hd95, overlap

if TYPE_CHECKING:
    from pipeline.config import EvaluateParams
    from pipeline.paths import Paths

VALUES = ("dice", "iou", "hd95", "pred_area_fraction", "gt_area_fraction")
COLUMNS = ("image_id", "label", "split", "strategy", *VALUES, "note")
RANDOM, ELLIPSE = "random", "ellipse"
SUMMARY_COLUMNS = (
    *("strategy", "split", "label", "n_images", "n_missing"),
    *(f"{metric}{end}" for metric in ("dice", "iou", "hd95") for end in ("", "_lo", "_hi")),
    *("median_dice", "missed"),
)
MISSED = 0.1  # a mask with a lower Dice has missed the region


def judge(
    row: Any, strategy: str, mask: np.ndarray | None, truth_path: Path, reason: str = ""
) -> list[dict]:
    """Return the rows of one image: the stored mask and the two baselines.

    The random region is that of the view `random` in encode (of an empty or full mask that view
    shows the whole image instead).

    Args:
        row: the image's row of the manifest.
        strategy: prompt strategy of the mask.
        mask: bool (h, w); None = there is none.
        truth_path: file of the ground-truth mask.
        reason: why there is no mask.

    Returns:
        One row with a note and NaN without a mask or a readable ground truth, so that the image
        is counted; no row when the ground truth is empty.
    """
    from pipeline.encode.views import random_mask
    from pipeline.images import read_mask

    base = {"image_id": row.image_id, "label": row.label, "split": row.split}
    area = np.nan if mask is None else float(mask.mean())
    unknown = base | {"strategy": strategy, "pred_area_fraction": area}
    try:
        shape = None if mask is None else mask.shape
        truth = read_mask(truth_path, int(row.frame), shape=shape)
    except (ImageError, OSError) as error:
        return [{**unknown, "note": f"ground truth not readable: {error}"}]
    if not truth.any():
        return []
    truth_area = float(truth.mean())
    if mask is None:
        return [{**unknown, "gt_area_fraction": truth_area, "note": f"no mask: {reason}"}]
    masks = {
        strategy: mask,
        RANDOM: random_mask(mask, f"{row.sha256}#{row.frame}"),
        ELLIPSE: center_ellipse(mask),
    }
    rows = []
    for name, candidate in masks.items():
        dice, iou = overlap(candidate, truth)
        rows.append(
            {
                **base,
                "strategy": name,
                "dice": dice,
                "iou": iou,
                "hd95": hd95(candidate, truth),
                "pred_area_fraction": float(candidate.mean()),
                "gt_area_fraction": truth_area,
                "note": "" if candidate.any() else "empty mask: HD95 not defined",
            }
        )
    return rows


def mask_quality(
    dataset: str, manifest: pd.DataFrame, paths: Paths, *, jobs: int = 1
) -> pd.DataFrame:
    """Compare the stored masks with the ground truth of all images that have one.

    Images with an empty ground truth are left out, since overlap is undefined. An image without a
    mask (segmentation failed, or was not run) is a row with a note and NaN.

    Args:
        dataset, paths: where the masks are.
        manifest: the images.
        jobs: number of threads.

    Returns:
        One row per image and strategy, columns `COLUMNS`; empty without masks. Strategy is the
        prompt strategy of the store; `random`, the mask moved elsewhere in the image; or
        `ellipse`, a centred ellipse of its area.

    Raises:
        StoreError: masks were made from other image files than those of the manifest.
    """
    from joblib import Parallel, delayed

    from pipeline.manifest import mask_file
    from pipeline.store import open_masks

    having = manifest[manifest["mask_path"] != ""]
    if having.empty or not paths.masks(dataset).exists():
        return _typed([])
    store = open_masks(paths.masks(dataset))
    table = store.table()
    lacking = dict.fromkeys(set(having["image_id"]) - set(table.index), "not segmented")
    lacking |= table.loc[table["status"] == "failed", "reason"].to_dict()
    made = having[~having["image_id"].isin(lacking)]
    stale = made.loc[table.loc[made["image_id"], "sha256"].to_numpy() != made["sha256"], "image_id"]
    if len(stale):
        raise StoreError(
            f"masks of {len(stale)} image(s) were made from older image files, e.g. "
            + ", ".join(stale[:3]),
            path=paths.masks(dataset),
            remedy=f"run: pipeline segment --dataset {dataset}",
        )
    prompt = store.identity.get("prompt")
    strategy = prompt["strategy"] if isinstance(prompt, dict) else str(prompt or "stored")

    def rows_of(row) -> list[dict]:
        reason = lacking.get(row.image_id)
        mask = store[row.image_id] if reason is None else None
        return judge(row, strategy, mask, mask_file(row, paths.data(dataset)), reason or "")

    # Threads, since an opened store must not be carried over a fork.
    found = Parallel(n_jobs=jobs, prefer="threads")(
        delayed(rows_of)(row) for row in having.itertuples()
    )
    return _typed([row for rows in found for row in rows])


def masks_inputs(paths: Paths, dataset: str) -> dict[str, Any]:
    """Return what `mask_quality` is made from, as it is now, for `pipeline.provenance.stamp`."""
    from pipeline.store import open_masks

    path = paths.masks(dataset)
    masks = open_masks(path) if path.exists() else None
    return {"manifest": paths.manifest(dataset), "masks": masks}


def _typed(rows: list[dict]) -> pd.DataFrame:
    """Return rows as a table with the right dtypes, also without rows."""
    kinds = {name: "float64" if name in VALUES else "str" for name in COLUMNS}
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(kinds)


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
                mean, lo, hi = mean_interval(part[metric].to_numpy(), of, params)
                row |= {metric: mean, f"{metric}_lo": lo, f"{metric}_hi": hi}
            row["median_dice"] = float(dice.median()) if len(dice) else np.nan
            row["missed"] = float((dice < MISSED).mean()) if len(dice) else np.nan
            rows.append(row)
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
