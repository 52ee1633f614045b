"""Tables of masks against ground truth: the stored ones with their floors, and every prompt."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.report import select
from pipeline.report.bootstrap import mean_interval
from pipeline.report.inputs import DatasetInputs
from pipeline.report.tables import (
    NOTHING,
    Cell,
    Table,
    head,
    interval_cell,
    listed,
    many,
    number,
    numeric,
    percent,
)
from pipeline.segment.references import ELLIPSE

EMPTY = "HD95 is the mean over the images whose mask is not empty, in pixels of the image."


def dice_table(found: DatasetInputs) -> Table:
    """Return Dice, IoU and HD95 of the stored masks by class, and over all classes; floors last."""
    quality = found.mask_quality
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
            dice = part["dice"].dropna()
            median = float(dice.median()) if len(dice) else np.nan
            missed = float((dice < 0.1).mean()) if len(dice) else np.nan
            rows.append(
                [
                    head(select.FLOORS.get(strategy, f"stored masks, prompt “{strategy}”")),
                    name,
                    numeric(f"{len(dice):,}", len(dice)),
                    *figures_of(found, part),
                    numeric(number(median), median),
                    numeric(percent(missed), missed),
                ]
            )
    headers = ["masks", "class", "images", "Dice", "IoU", "HD95, px"]
    headers += ["median Dice", "Dice < 0.1, %"]
    note = EMPTY
    why = quality.loc[quality["dice"].isna(), "note"].str.split(":").str[0].value_counts()
    if len(why):
        reasons = listed(f"{name} {n:,}" for name, n in sorted(why.items()))
        note += f" {many(int(why.sum()), 'image')} without a figure, in no mean: {reasons}."
    return Table(headers, rows, caption="Masks against ground truth", note=note)


def prompt_table(found: DatasetInputs) -> Table:
    """Return Dice, IoU and HD95 of every prompt strategy, over all classes and by class.

    The last column is the paired difference of Dice to the strategy of the stored masks.
    """
    quality = found.prompt_quality
    stored = stored_prompt(found)
    dice = quality.pivot(index="image_id", columns="strategy", values="dice")
    rows = []
    for strategy, words in prompt_names(quality).items():
        table = quality[quality["strategy"] == strategy]
        for name, part in [("all classes", table), *table.groupby("label", sort=True)]:
            less = Cell(NOTHING, look="number")
            if stored in dice and strategy != stored:
                mine = dice.loc[part["image_id"]]
                gap = mean_interval(
                    mine[strategy] - mine[stored], found.units(mine.index), found.evaluate
                )
                less = _signed(*gap)
            rows.append(
                [
                    head(words),
                    name,
                    numeric(f"{len(part):,}", len(part)),
                    *figures_of(found, part),
                    less,
                ]
            )
    headers = ["prompt", "class", "images", "Dice", "IoU", "HD95, px"]
    headers.append(f"Dice minus that of “{stored}”" if stored else "Dice minus the stored one's")
    images = quality["image_id"].nunique()
    test = quality[quality["split"] == "test"]["image_id"].nunique()
    own = f", {test:,} of them of the set's own test part" if test else ""
    note = (
        f"A seeded sample of {many(images, 'image')} with ground truth, in proportion to the "
        f"classes{own}. {EMPTY} References are made from the ground truth, for this "
        "table alone: no mask that is classified was made with them."
    )
    unread = quality[quality["dice"].isna()]["image_id"].nunique()
    if unread:
        note += f" {many(unread, 'image')} could not be judged (not readable)."
    return Table(headers, rows, caption="Prompt strategies against ground truth", note=note)


def figures_of(found: DatasetInputs, part: pd.DataFrame) -> list[Cell]:
    """Return the cells of mean Dice, IoU (0 to 1) and HD95 (pixels) with their intervals."""
    digits = {"dice": 2, "iou": 2, "hd95": 1}
    return [
        interval_cell(*found.mean_interval(part, m), as_percent=False, digits=d)
        for m, d in digits.items()
    ]


def _signed(value: float, lo: float, hi: float) -> Cell:
    if not np.isfinite(value):
        return Cell(NOTHING, look="number")
    shown = [f"{v:+.3f}".replace("-", "−") for v in (value, lo, hi)]
    ends = f" [{shown[1]}, {shown[2]}]" if np.isfinite([lo, hi]).all() else ""
    return numeric(f"{shown[0]}{ends}", value)


def prompt_names(quality: pd.DataFrame) -> dict[str, str]:
    """Name the strategies of prompt_quality: those that need nothing first, the best first.

    Returns:
        {strategy: "salient (no prompt)"}; those told where the region is are called references.
    """
    table = quality.groupby("strategy").agg(dice=("dice", "mean"), told=("from_truth", "first"))
    table["floor"] = table.index == ELLIPSE
    table = table.sort_values(["told", "floor", "dice"], ascending=[True, True, False])
    names = {}
    for strategy, told in table["told"].items():
        words = select.STRATEGIES.get(strategy)
        name = f"{strategy} ({words})" if words else strategy
        names[strategy] = f"reference: {name}" if told else name
    return names


def stored_prompt(found: DatasetInputs) -> str | None:
    """Return the prompt strategy of the stored masks."""
    quality = found.mask_quality
    return None if quality is None or quality.empty else select.stored_strategy(quality)
