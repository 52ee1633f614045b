"""Masks against ground truth: Dice, IoU and HD95 of each image, with two floors beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.segment.overlap import center_ellipse, hd95, overlap

if TYPE_CHECKING:
    from pipeline.paths import Paths

FIGURES = ("dice", "iou", "hd95", "pred_area_fraction", "gt_area_fraction")
COLUMNS = ("image_id", "label", "split", "strategy", *FIGURES, "note")
RANDOM, ELLIPSE = "random", "ellipse"


@dataclass(frozen=True)
class Pair:
    """What a worker judges: one stored mask and the file of its ground truth.

    `mask` is None where there is none, and `why` then says why. `seed` places the random region;
    it is the encode stage's, so that of a usable mask the region judged here is the one that view
    `random` shows. Of an empty or full one, judged as it is, that view shows the whole image.
    """

    image_id: str
    label: str
    split: str
    strategy: str
    seed: str
    mask: np.ndarray | None
    truth_path: Path
    truth_frame: int
    why: str = ""


def judge(pair: Pair) -> list[dict]:
    """Return the rows of one image: the stored mask and the two floors.

    Without a mask or a readable ground truth it is one row with a note and NaN, so that it is
    counted; with an empty ground truth none.
    """
    from pipeline.encode.views import random_mask
    from pipeline.errors import ImageError
    from pipeline.images import read_mask

    base = {"image_id": pair.image_id, "label": pair.label, "split": pair.split}
    nan = float("nan")
    unjudged = {**base, "strategy": pair.strategy, "dice": nan, "iou": nan, "hd95": nan}
    area, shape = (nan, None) if pair.mask is None else (pair.mask.mean(), pair.mask.shape)
    unjudged |= {"pred_area_fraction": float(area), "gt_area_fraction": nan}
    try:
        truth = read_mask(pair.truth_path, pair.truth_frame, shape=shape)
    except (ImageError, OSError) as error:
        return [{**unjudged, "note": f"ground truth not readable: {error}"}]
    if not truth.any():
        return []
    if pair.mask is None:
        area = float(truth.mean())
        return [{**unjudged, "gt_area_fraction": area, "note": f"no mask: {pair.why}"}]
    candidates = {
        pair.strategy: pair.mask,
        RANDOM: random_mask(pair.mask, pair.seed),
        ELLIPSE: center_ellipse(pair.mask),
    }
    rows = []
    for strategy, mask in candidates.items():
        dice, iou = overlap(mask, truth)
        rows.append(
            {
                **base,
                "strategy": strategy,
                "dice": dice,
                "iou": iou,
                "hd95": hd95(mask, truth),
                "pred_area_fraction": float(mask.mean()),
                "gt_area_fraction": float(truth.mean()),
                "note": "" if mask.any() else "empty mask: HD95 not defined",
            }
        )
    return rows


def mask_quality(
    dataset: str, manifest: pd.DataFrame, paths: Paths, *, jobs: int = 1
) -> pd.DataFrame:
    """Judge the stored masks of all images that have a ground-truth mask.

    Images whose ground truth is empty are left out: no overlap is defined. Those whose mask failed
    or was never made are rows with a note and NaN. Strategy names the prompt strategy of the store;
    `random` is the mask's own shape moved elsewhere in the frame, `ellipse` a centred ellipse of
    its area.

    Args:
        jobs: parallel threads (the store must not be carried over a fork).

    Returns:
        One row an image and strategy, columns as `COLUMNS`; empty without masks.

    Raises:
        StoreError: masks are of other bytes than the manifest's images.
    """
    from joblib import Parallel, delayed

    from pipeline.errors import StoreError
    from pipeline.manifest import mask_file
    from pipeline.store import open_masks

    having = manifest[manifest["mask_path"] != ""]
    if having.empty or not paths.masks(dataset).exists():
        return _table([])
    store = open_masks(paths.masks(dataset))
    table = store.table()
    failed = table["status"] == "failed"
    lacking = dict.fromkeys(set(having["image_id"]) - set(table.index), "not segmented")
    lacking |= table.loc[failed, "reason"].to_dict()
    made = having[~having["image_id"].isin(lacking)]
    segmented = table.loc[made["image_id"], "sha256"].to_numpy()
    stale = made.loc[segmented != made["sha256"], "image_id"]
    if len(stale):
        raise StoreError(
            f"masks of {len(stale)} image(s) are of older image bytes; for example "
            + ", ".join(stale[:3]),
            path=paths.masks(dataset),
            remedy=f"run: pipeline segment --dataset {dataset}",
        )
    prompt = store.identity.get("prompt")
    strategy = prompt["strategy"] if isinstance(prompt, dict) else str(prompt or "stored")

    def one(row) -> list[dict]:
        return judge(
            Pair(
                row.image_id,
                row.label,
                row.split,
                strategy,
                f"{row.sha256}#{row.frame}",
                None if row.image_id in lacking else store[row.image_id],
                mask_file(row, paths.data(dataset)),
                int(row.frame),
                lacking.get(row.image_id, ""),
            )
        )

    found = Parallel(n_jobs=jobs, prefer="threads")(
        delayed(one)(row) for row in having.itertuples()
    )
    return _table([r for rows in found for r in rows])


def _table(rows: list[dict]) -> pd.DataFrame:
    """Return rows as a table whose columns have their types, also where there is no row."""
    kinds = {name: "float64" if name in FIGURES else "str" for name in COLUMNS}
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(kinds)
