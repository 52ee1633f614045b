"""How much of what the part without copies loses is left for copies: its classes differ too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.report import select
from pipeline.report.inputs import DatasetInputs
from pipeline.report.tables import labels_words, listed, number, percent

CLEAN = ("official", "clean_any")


@dataclass(frozen=True)
class Mix:
    """Accuracies of one run with the most labels, as shares.

    Attributes:
        fraction: of the labels.
        full: on the whole test part.
        clean: on the test images without a copy in train.
        matched: on the whole test part, each class weighted by its share of the clean one.
        lacking: classes that the clean part has no image of.
    """

    fraction: float
    full: float
    clean: float
    matched: float
    lacking: list[str]

    @property
    def sentence(self) -> str:
        """Say what the whole part reaches in the clean part's shares, and what that leaves."""
        what = f"no image of {listed(self.lacking)} and " if self.lacking else ""
        return (
            f"The part without copies has {what}other shares of the classes: weighted to its "
            f"shares, the whole test part reaches {percent(self.matched)} %{self.left}."
        )

    @property
    def left(self) -> str:
        """What the shares of the classes leave for copies: ", so 2.4 of 6.6 points ..."."""
        # Of the figures as they are shown, so that a reader's subtraction comes out.
        full, clean, matched = (round(100 * v, 1) for v in (self.full, self.clean, self.matched))
        drop, left = round(full - clean, 1), round(matched - clean, 1)
        if drop <= 0:
            return ""
        said = number(left, 1) if left > 0 else "none"
        return f", so {said} of the {number(drop, 1)} points are left for copies"


def class_mix(found: DatasetInputs, run: tuple[str, str]) -> Mix | None:
    """Return the accuracies of a run with and without the clean part's shares of the classes.

    The weighted one is the mean over the classes of their recall on the whole test part, by the
    number of their images in the clean part. None where one of them is not known, or where the
    clean part is the whole one.
    """
    rows = [
        select.with_most_labels(found.metrics, run, block) for block in (select.PUBLISHED, CLEAN)
    ]
    table = found.per_class
    if None in rows or table is None or table.empty:
        return None
    fraction = round(float(rows[0]["fraction"]), 4)
    mine = table[
        (table["head"] == run[0])
        & (table["view"] == run[1])
        & (table["protocol"] == "official")
        & (table["fraction"].astype(float).round(4) == fraction)
    ]
    full, clean = (
        mine[mine["subset"] == subset].set_index("class") for subset in ("full", CLEAN[1])
    )
    there = full["support"] > 0
    images = clean["support"].reindex(full.index).fillna(0.0)
    kept = images > 0
    if not kept.any() or images.equals(full["support"]):
        return None
    matched = float(np.average(full["recall"][kept], weights=images[kept]))
    if not np.isfinite(matched):
        return None
    lacking = sorted(full.index[there & ~kept])
    return Mix(fraction, float(rows[0]["value"]), float(rows[1]["value"]), matched, lacking)


def mix_note(found: DatasetInputs, runs: dict[str, tuple[str, str]]) -> str:
    """Say beside a table what the published figures are in the clean part's shares; "" if alike."""
    mixes = {name: class_mix(found, run) for name, run in runs.items()}
    shown = [f"{name} {percent(mix.matched)}" for name, mix in mixes.items() if mix is not None]
    if not shown:
        return ""
    (first,) = [mix for mix in mixes.values() if mix is not None][:1]
    lacking = f" has no image of {listed(first.lacking)} and" if first.lacking else ""
    labels = labels_words(first.fraction)
    return (
        f" The clean part of {found.name}{lacking} has other shares of the classes than the whole "
        f"one, which, weighted to them, reaches with {labels}: {listed(shown)} %."
    )
