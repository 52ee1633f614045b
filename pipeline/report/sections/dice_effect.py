"""Does a better mask give a better classification? One point per image."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.config import Params
from pipeline.report import select
from pipeline.report.bootstrap import mean_interval, spearman
from pipeline.report.figures import scatter
from pipeline.report.gallery import Album
from pipeline.report.inputs import DatasetInputs
from pipeline.report.page import Grid, Section, Text
from pipeline.report.sections.flips import first_flips, heads_on_both
from pipeline.report.tables import Table, head, interval_cell, number, share

QUARTERS = 4
Joined = tuple[pd.DataFrame, str, float, str]


def section(found: DatasetInputs, album: Album, params: Params) -> Section | None:
    """Plot each test image's Dice against what masking did to its probability."""
    both = joined(found)
    if both is None:
        return None
    table, name, fraction, protocol = both
    units = pd.Series(found.units(table.index), index=table.index)
    quarter = pd.qcut(table["dice"].rank(method="first"), min(QUARTERS, len(table)), labels=False)
    rows, bins = [], []
    for _, part in table.groupby(quarter):
        drawn = units[part.index].to_numpy()
        change, whole, masked = (
            mean_interval(part[column].to_numpy(), drawn, found.evaluate)
            for column in ("p_change", "right_whole", "right_masked")
        )
        bins.append((float(part["dice"].mean()), *change))
        rows.append(
            [
                head(f"{part['dice'].min():.2f} to {part['dice'].max():.2f}"),
                len(part),
                interval_cell(*whole),
                interval_cell(*masked),
                interval_cell(*change, as_percent=False),
            ]
        )
    headers = ["Dice", "images", "whole right, %", "masked right, %", "change of p(true)"]
    label = f"{select.HEADS.get(name, name)}, {share(fraction)} of the labels"
    label += f", {select.short_name(protocol, 'full', drawn=found.drawn_split)}"
    figure = scatter(
        f"Mask quality and what the mask did ({label})",
        table["dice"].to_numpy(),
        table["p_change"].to_numpy(),
        "Dice of the mask",
        "p(true), masked minus whole",
        Table(headers, rows, caption="A quarter of the images each, by Dice"),
        groups=list(table["y_true_whole"]),
        bins=bins,
    )
    title = "Does a better mask give a better classification?"
    return Section("dice-effect", title, [Text(effect(found, both)), Grid([figure])])


def effect(found: DatasetInputs, both: Joined | None = None) -> str | None:
    """Answer the question in words, with the rank correlation within classes and its interval."""
    both = both or joined(found)
    if both is None:
        return None
    table, _, _, protocol = both
    dice, change = table["dice"].to_numpy(), table["p_change"].to_numpy()
    classes = table["y_true_whole"].to_numpy(str)
    rho, lo, hi = spearman(dice, change, found.units(table.index), found.evaluate, classes)
    shown = [number(v, 2).replace("-", "−") for v in (rho, lo, hi)]
    return (
        f"{answer(rho, lo, hi, float(change.mean()))} Spearman's rank correlation, within classes, "
        f"between Dice and the change of the true class's probability: "
        f"{shown[0]} [{shown[1]}, {shown[2]}], {len(table):,} test images, "
        f"{select.where(found.drawn_split)[protocol, 'full']}."
    )


def answer(rho: float, lo: float, hi: float, change: float = 0.0) -> str:
    """Say in words what the correlation means; `change`: what masking does to the mean image."""
    if not np.isfinite([rho, lo, hi]).all():
        return "There is too little to tell."
    more, less = "gain more from", "gain less from"
    if change < 0:  # masking costs the mean image something: none is said to gain by it
        more, less = "lose less by", "lose more by"
    if lo > 0:
        size = "Yes, clearly:" if rho >= 0.3 else "Yes, a little:"
        return f"{size} images with a better mask {more} masking."
    if hi < 0:
        return f"No, the reverse: images with a better mask {less} masking."
    return "Not measurably: the interval of the correlation includes zero."


def joined(found: DatasetInputs) -> Joined | None:
    """Join Dice and the change between whole and masked, by image; with head, fraction, protocol.

    In grouped cross-validation where that was run: no copy of a test image is in train.
    """
    quality = found.mask_quality
    if quality is None or quality.empty or found.metrics is None:
        return None
    chosen = quality[quality["strategy"] == select.stored_strategy(quality)]
    dice = chosen.drop_duplicates("image_id").set_index("image_id")["dice"]
    for protocol in ("grouped", "official"):
        table = select.over_seeds(found.metrics, protocol, "full")
        heads, fractions = heads_on_both(table), select.fractions_of(table)
        shown = first_flips(found, heads, fractions[-1], protocol) if fractions else None
        if shown is None:
            continue
        name, both = shown
        both = both.join(dice, how="inner").dropna(subset=["dice", "p_change"]).sort_index()
        if len(both) >= 2 * QUARTERS:
            return both, name, fractions[-1], protocol
    return None
