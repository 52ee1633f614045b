"""Where the mask helped and where it hurt: predictions that flip between whole and masked."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pipeline.config import Params
from pipeline.report import select
from pipeline.report.cases import image_cases
from pipeline.report.gallery import OUTLINES, Album, Gallery
from pipeline.report.inputs import DatasetInputs
from pipeline.report.page import Section, Text
from pipeline.report.tables import Table, head, many, share

SHOWN = 8


def section(found: DatasetInputs, album: Album, params: Params) -> Section | None:
    """Compare the same head on whole and masked images, image by image."""
    if found.metrics is None:
        return None
    table = select.over_seeds(found.metrics, "official", "full")
    heads, fractions = heads_on_both(table), select.fractions_of(table)
    if not heads or not fractions:
        return None
    made = Section("flips", "Where the mask helped, where it hurt")
    rows = []
    for name in heads:
        for fraction in dict.fromkeys([fractions[0], fractions[-1]]):
            both = flips(found, name, fraction)
            if both is not None:
                helped = int((both["change"] > 0).sum())
                hurt = int((both["change"] < 0).sum())
                same = len(both) - helped - hurt
                label = select.HEADS.get(name, name)
                rows.append([head(label), share(fraction), helped, hurt, same])
    if not rows:
        return None
    headers = ["head", "share of labels", "helped", "hurt", "no change"]
    made.blocks.append(
        Text(
            "An image counts as helped when more seeds are right on the masked image than on the "
            f"whole one, and as hurt when fewer are. {OUTLINES}"
        )
    )
    made.blocks.append(Table(headers, rows, caption="Test images whose predictions flip"))
    shown = first_flips(found, heads, fractions[-1])
    if shown is None:
        return made
    name, both = shown
    label = f"{select.HEADS.get(name, name)}, {share(fractions[-1])} of the labels"
    for sign, title in ((1, "The mask helped"), (-1, "The mask hurt")):
        mine = both[both["change"] * sign > 0]
        made.blocks.append(_gallery(mine, sign, f"{title} ({label})", album))
    return made


def heads_on_both(table: pd.DataFrame) -> list[str]:
    """List the trained heads of a table that were run on whole and on masked images."""
    runs = select.runs_of(table)
    return [h for h, v in runs if v == "masked" and (h, "whole") in runs and h != "zero-shot"]


def first_flips(
    found: DatasetInputs, heads: Sequence[str], fraction: float, protocol: str = "official"
) -> tuple[str, pd.DataFrame] | None:
    """Return the first head with predictions on both views and its `flips`; None without one."""
    for name in heads:
        both = flips(found, name, fraction, protocol)
        if both is not None:
            return name, both
    return None


def flips(
    found: DatasetInputs, name: str, fraction: float, protocol: str = "official"
) -> pd.DataFrame | None:
    """Return by image the share of seeds right on `whole` and `masked`, and the change."""
    whole = image_cases(found, protocol, name, "whole", fraction)
    masked = image_cases(found, protocol, name, "masked", fraction)
    if whole is None or masked is None:
        return None
    both = whole.merge(masked, left_index=True, right_index=True, suffixes=("_whole", "_masked"))
    both["change"] = (both["right_masked"] - both["right_whole"]).round(6)
    both["p_change"] = both["p_true_masked"] - both["p_true_whole"]
    return both


def _gallery(mine: pd.DataFrame, sign: int, title: str, album: Album) -> Gallery:
    keys = mine.assign(a=-mine["change"] * sign, b=-mine["p_change"] * sign, id=mine.index)
    shown = keys.sort_values(["a", "b", "id"]).head(SHOWN)
    pictures = []
    for image_id, r in shown.iterrows():
        seeds = int(r["seeds_whole"])
        counts = f"right: whole {round(r['right_whole'] * seeds)} of {seeds}, "
        counts += f"masked {round(r['right_masked'] * seeds)} of {seeds}"
        said = f"{r['y_true_whole']}: whole says {r['y_pred_whole']}, masked {r['y_pred_masked']}"
        pictures.append(album.picture(image_id, f"{said}; {counts}"))
    note = "" if pictures else "No such image."
    heading = f"{title}: {many(len(mine), 'image')}"
    return Gallery(heading, pictures, note=note, rest=max(0, len(mine) - len(shown)))
