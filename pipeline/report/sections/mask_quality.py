"""Masks against ground truth, mask outcomes, and the worst masks in pictures."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.config import Params
from pipeline.report import select
from pipeline.report.fallbacks import outcomes_by_class, uneven_fallbacks
from pipeline.report.figures import Figure, histogram
from pipeline.report.gallery import Album, Gallery
from pipeline.report.inputs import DatasetInputs
from pipeline.report.page import Grid, Heading, Section, Text
from pipeline.report.remarks import seen_images
from pipeline.report.sections.truth_tables import dice_table, prompt_table
from pipeline.report.tables import Cell, Table, head, many, number, percent

WORST = 8
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
        made.blocks += [outcomes(masks), outcomes_by_class(masks)]
        uneven = uneven_fallbacks(found, masks)
        made.blocks += [Text(uneven, "note")] if uneven else []
        figures += _store_figures(masks)
    quality = found.mask_quality
    if quality is not None and not quality.empty:
        made.blocks.append(
            Text(
                "Dice and IoU: 1 is perfect, 0 no overlap. HD95: the 95th percentile of the "
                "distance between the outlines, in pixels of the image. Intervals: bootstrap over "
                "images, by patient, group and copies where known. “test” rows are of the set's "
                "own test part."
            )
        )
        seen = seen_images(found)
        made.blocks += [Text(seen, "note")] if seen else []
        made.blocks.append(dice_table(found))
        figures = _dice_figures(quality) + figures
    elif masks is not None:
        made.blocks.append(Text("This dataset has no ground-truth masks to compare with.", "note"))
    if found.prompt_quality is not None and not found.prompt_quality.empty:
        made.blocks += [Heading("Every prompt strategy"), prompt_table(found)]
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
