"""The first screen: a row for each dataset with pictures, a curve and the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from pipeline.report import words
from pipeline.report.accuracy import Runs, curve_svg, largest_class
from pipeline.report.blocks import Picture, interval_text, is_known, percent, plural, slug
from pipeline.report.data import Dataset
from pipeline.report.masks import stored_strategy
from pipeline.report.pictures import Album


@dataclass(frozen=True)
class Verdict:
    """What a run of the study does to accuracy against the baseline.

    Attributes:
        name: of the run.
        code: the verdict with the most labels, for its colour; `label` is its text.
        label: the verdict in words.
        figures: the difference with the most and the fewest labels.
    """

    name: str
    code: str
    label: str
    figures: list[str]


@dataclass(frozen=True)
class Row:
    """One dataset of the overview."""

    name: str
    id: str
    synthetic: bool
    pictures: Sequence[Picture]
    curve: Markup | None
    where: str
    verdicts: list[Verdict]
    facts: list[str]


def row(data: Dataset, album: Album, runs: Runs) -> Row:
    """Return the overview's row of a dataset, as far as its files allow."""
    block = data.headline
    curve = None
    if block is not None:
        shown = [run for run in runs.names if run in data.accuracy(block)]
        title = words.OVERVIEW_CURVE.format(data.name, words.block(data, block))
        curve = curve_svg(slug("overview", data.name), title, data, block, shown, runs, small=True)
    example = example_image(data)
    return Row(
        data.name,
        slug("set", data.name),
        data.synthetic,
        album.example(example) if example else [],
        curve,
        words.NOT_EVALUATED if block is None else words.block(data, block),
        verdicts(data, runs),
        facts(data),
    )


def verdicts(data: Dataset, runs: Runs) -> list[Verdict]:
    """Return the verdict on every run of the study but the baseline, in the headline's block."""
    baseline = data.params.study.baseline.key
    found = []
    for run, name in runs.names.items():
        by = data.differences.get((data.headline, run, baseline), {})
        by = {f: d for f, d in sorted(by.items()) if f > 0 and is_known(d.value)}
        if run == baseline or not by:
            continue
        most = max(by)
        figures = [
            words.DIFFERENCE_AT.format(words.points(by[f]), words.labels(f))
            for f in dict.fromkeys((most, min(by)))
        ]
        found.append(
            Verdict(name, slug(by[most].verdict), words.VERDICTS[by[most].verdict], figures)
        )
    return found


def facts(data: Dataset) -> list[str]:
    """Return short facts: images and classes, copies, Dice, the largest class."""
    said = []
    if data.manifest is not None:
        classes = plural(len(data.classes), "class", "classes")
        said.append(words.SIZE.format(plural(len(data.manifest), "image"), classes))
    copies = data.test_copies
    if copies is not None:
        said.append(words.SHORT_COPIES.format(percent(copies.all / max(copies.test, 1))))
    quality = data.mask_quality
    if quality is not None and len(quality):
        dice = data.mask_figures(stored_strategy(quality))
        if dice is not None:
            ends = dice.dice, dice.dice_lo, dice.dice_hi
            said.append(words.SHORT_DICE.format(interval_text(*ends, digits=2)))
    largest = largest_class(data, data.headline) if data.headline else None
    return said + ([words.SHORT_LARGEST.format(largest[0], percent(largest[1]))] if largest else [])


def example_image(data: Dataset) -> str | None:
    """Return the image with the median Dice, or else the first one with a usable mask.

    Test images come first, since their predictions are what the figures are about.
    """
    if data.manifest is None:
        return None
    usable = {i for i, status in data.mask_status.items() if status == "ok"}
    table = data.manifest.assign(order=data.manifest["split"] != "test")
    table = table[table["image_id"].isin(usable)].sort_values(["order", "image_id"], kind="stable")
    if table.empty:
        return str(data.manifest["image_id"].iloc[0])
    quality = data.mask_quality
    if quality is not None and len(quality):
        mine = quality[quality["strategy"] == stored_strategy(quality)].dropna(subset=["dice"])
        mine = mine[mine["image_id"].isin(usable)]
        test = mine[mine["split"] == "test"]
        mine = (test if len(test) else mine).sort_values(["dice", "image_id"])
        if len(mine):
            return str(mine["image_id"].iloc[int(np.floor(len(mine) / 2))])
    return str(table["image_id"].iloc[0])
