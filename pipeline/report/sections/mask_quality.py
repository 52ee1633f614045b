"""Masks against ground truth, mask outcomes, and the worst masks in pictures."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.config import Params
from pipeline.report import select
from pipeline.report.figures import Figure, histogram
from pipeline.report.gallery import Album, Gallery
from pipeline.report.inputs import DatasetInputs
from pipeline.report.page import Grid, Section, Text
from pipeline.report.tables import Cell, Table, head, interval_cell, many, number, numeric, percent

WORST = 8
RESAMPLES = 1000
OUTCOMES = {
    "ok": "used as they are",
    "empty": "empty: the whole image is used instead",
    "full": "full frame: the whole image is used instead",
    "failed": "failed: no mask, no features",
}


def section(found: DatasetInputs, album: Album, params: Params) -> Section | None:
    """Show how many masks came out how, their sizes, and Dice, IoU and HD95 by class."""
    made = Section("mask-quality", "Mask quality")
    figures: list[Figure] = []
    masks = mask_table(found)
    if masks is not None:
        made.blocks.append(outcomes(masks))
        figures += _store_figures(masks)
    quality = found.mask_quality
    if quality is not None and not quality.empty:
        made.blocks.append(
            Text(
                "Dice and IoU: 1 is perfect, 0 no overlap. HD95: the 95th percentile of the "
                "distance between the outlines, in pixels of the image. Intervals: bootstrap over "
                "images. “test” rows are of the set's own test part."
            )
        )
        made.blocks.append(dice_table(quality))
        figures = _dice_figures(quality) + figures
    elif masks is not None:
        made.blocks.append(Text("This dataset has no ground-truth masks to compare with.", "note"))
    if figures:
        made.blocks.append(Grid(figures))
    if quality is not None and not quality.empty:
        made.blocks.append(_worst(quality, album))
    return made if made.blocks else None


def mask_table(found: DatasetInputs) -> pd.DataFrame | None:
    """Return the index of the mask store, without rows that left the manifest."""
    if found.masks is None:
        return None
    table = found.masks.table()
    return table[table["in_manifest"]] if "in_manifest" in table else table


def outcomes(masks: pd.DataFrame) -> Table:
    """Count the masks by outcome; the fallbacks are named."""
    counts = masks["status"].value_counts()
    rows = [
        [
            head(status),
            Cell(f"{int(counts.get(status, 0)):,}", look="number"),
            percent(counts.get(status, 0) / len(masks)),
            words,
        ]
        for status, words in OUTCOMES.items()
    ]
    return Table(
        ["outcome", "images", "%", "what becomes of them"], rows, caption="Masks by outcome"
    )


def mean_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return mean, low and high of a percentile bootstrap over images; NaN without values."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan, np.nan
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    tail = (1 - confidence) / 2
    lo, hi = np.quantile(means, [tail, 1 - tail])
    return float(values.mean()), float(lo), float(hi)


def dice_table(quality: pd.DataFrame) -> Table:
    """Return Dice, IoU and HD95 by strategy and class, and over all classes; floors last."""
    rows = []
    names = sorted(quality["strategy"].unique(), key=lambda s: (s in select.FLOORS, s))
    for strategy in names:
        table = quality[quality["strategy"] == strategy]
        parts = [("all classes", table)]
        test = table[table["split"] == "test"]
        if len(test) and len(test) < len(table):
            parts.append(("all classes, test", test))
        if strategy not in select.FLOORS:
            parts += list(table.groupby("label", sort=True))
        for name, part in parts:
            cells = [
                interval_cell(*mean_interval(part[m].to_numpy()), as_percent=False)
                for m in ("dice", "iou", "hd95")
            ]
            dice = part["dice"].dropna()
            median = float(dice.median()) if len(dice) else np.nan
            missed = float((dice < 0.1).mean()) if len(dice) else np.nan
            rows.append(
                [
                    head(select.FLOORS.get(strategy, f"stored masks, prompt “{strategy}”")),
                    name,
                    len(part),
                    *cells,
                    numeric(number(median), median),
                    numeric(percent(missed), missed),
                ]
            )
    headers = ["masks", "class", "images", "Dice", "IoU", "HD95, px"]
    headers += ["median Dice", "Dice < 0.1, %"]
    note = "HD95 is the mean over the images whose mask is not empty."
    unread = int(quality["dice"].isna().sum())
    if unread:
        note += f" {many(unread, 'row')} without a figure (ground truth not readable)."
    return Table(headers, rows, caption="Masks against ground truth", note=note)


def _dice_figures(quality: pd.DataFrame) -> list[Figure]:
    stored = select.stored_strategy(quality)
    table = quality[quality["strategy"] == stored]
    dice = {"stored masks": table["dice"].to_numpy()}
    floor = quality[quality["strategy"] == "random"]
    if len(floor):
        dice["the same shapes elsewhere"] = floor["dice"].to_numpy()
    areas = {
        "stored mask": table["pred_area_fraction"].to_numpy(),
        "ground truth": table["gt_area_fraction"].to_numpy(),
    }
    return [
        histogram("Dice of each image", dice, "Dice"),
        histogram("Share of the image inside the mask", areas, "share of the image", limits=None),
    ]


def _store_figures(masks: pd.DataFrame) -> list[Figure]:
    figures = []
    known = {
        "area_fraction": "Share of the image inside the mask",
        "predicted_iou": "SAM2's own quality estimate (predicted IoU)",
        "stability": "Stability of the mask",
    }
    for column, title in known.items():
        if column in masks and np.isfinite(masks[column].to_numpy(float)).any():
            values = masks[column].to_numpy(float)
            limits = None if column == "area_fraction" else (0.0, 1.0)
            axis = title.split(" (")[0]
            figures.append(histogram(f"{title}, all images", {"": values}, axis, limits=limits))
    return figures


def _worst(quality: pd.DataFrame, album: Album) -> Gallery:
    stored = select.stored_strategy(quality)
    table = quality[quality["strategy"] == stored].dropna(subset=["dice"])
    shown = table.sort_values(["dice", "image_id"]).head(WORST)
    pictures = [
        album.picture(r["image_id"], f"{r['label']}; Dice {number(r['dice'], 2)}")
        for _, r in shown.iterrows()
    ]
    missed = int((table["dice"] < 0.1).sum())
    note = (
        f"{many(missed, 'mask')} of {len(table):,} miss the region (Dice below 0.1). "
        "Orange line: stored mask; blue dashes: ground truth."
    )
    return Gallery("Worst masks", pictures, note=note)
