"""Which images of a dataset the page shows: misclassified, changed by masking, badly masked,
copied."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from pipeline.evaluate.images import flips
from pipeline.report import words
from pipeline.report.data import Dataset
from pipeline.report.pictures import Album, Picture, spread
from pipeline.report.words import number, plural

SHOWN, PAIRS = 6, 3
"""Images of a list, and pairs of copies of a kind."""
MISSED = 0.1
"""A mask with a smaller Dice than this misses the region."""


class Gallery(NamedTuple):
    """Thumbnails under a title; with `pairs` every two consecutive ones stay together."""

    title: str
    pictures: list[Picture]
    note: str = ""
    pairs: bool = False


def example(data: Dataset) -> str | None:
    """Return the image with the median Dice, or else the first one with a usable mask.

    Test images come first, since their predictions are what the figures are about.
    """
    if data.manifest is None:
        return None
    table = data.manifest.assign(other=data.manifest["split"] != "test").set_index("image_id")
    usable = [i for i, status in data.mask_status.items() if status == "ok" and i in table.index]
    if not usable:
        return str(table.index[0])
    table = table.loc[usable].sort_index().sort_values("other", kind="stable")
    if data.stored_quality is not None:
        table = table.join(data.stored_quality.set_index("image_id")["dice"])
        judged = table.dropna(subset=["dice"]).sort_values(["other", "dice"], kind="stable")
        if len(judged):
            judged = judged[judged["other"] == judged["other"].iloc[0]]
            return str(judged.index[len(judged) // 2])
    return str(table.index[0])


def worst_first(data: Dataset) -> tuple[str, pd.DataFrame] | None:
    """Return the name of the study's last run that was predicted, and the images of the headline
    by the probability of the true class, the lowest first."""
    for run, name in reversed(data.study.items()):
        cases = data.cases(run)
        if cases is not None and data.manifest is not None:
            cases = cases[cases.index.isin(data.manifest["image_id"])]
            return name, cases.sort_values(["p_true", "right"], kind="stable")
    return None


def images(data: Dataset, album: Album) -> list[Gallery]:
    """Return images with outlines: worst first, changed by the study's second run, fallbacks."""
    made = []
    ranked = worst_first(data)
    size = data.params.report.gallery
    if ranked is not None:
        name, cases = ranked
        shown = cases.loc[spread(list(cases.index), size)]
        pictures = []
        for i, r in shown.iterrows():
            called = "" if r.y_true == r.y_pred else f", called {r.y_pred}"
            pictures.append(album.picture(i, f"{r.y_true}{called}; p(true) {number(r.p_true)}"))
        note = "Sorted by the probability of the true class: the worst half, then evenly spaced."
        made += [Gallery(f"Test images, “{name}” with all labels", pictures, note)]
        made += changed(data, album)
    elif data.masks is not None and data.manifest is not None:
        ids = spread(list(data.manifest["image_id"]), size)
        made.append(Gallery("No predictions yet", [album.picture(i) for i in ids]))
    for status, name in words.OUTCOMES.items():
        ids = sorted(i for i, s in data.mask_status.items() if s == status)
        if ids and status != "ok":
            title = f"Mask {name}: {len(ids):,} of {plural(len(data.mask_status), 'image')}"
            made.append(Gallery(title, [album.picture(i) for i in ids[:SHOWN]]))
    return made


def changed(data: Dataset, album: Album) -> list[Gallery]:
    """Show where the study's second run is right more or less often than the baseline."""
    cases = [data.cases(run) for run in list(data.study)[:2]]
    if len(cases) < 2 or any(c is None for c in cases):
        return []
    table = flips(*cases)
    before, after = list(data.study.values())[:2]
    made = []
    for sign, often in ((1, "more"), (-1, "less")):
        mine = table[table["change"] * sign > 0]
        order = mine.assign(a=-sign * mine["change"], b=-sign * mine["p_change"], id=mine.index)
        pictures = []
        for i, r in order.sort_values(["a", "b", "id"]).head(SHOWN).iterrows():
            right = [round(r[f"right_{s}"] * r[f"seeds_{s}"]) for s in ("before", "after")]
            text = f"{r['y_true_before']}: {r['y_pred_before']} → {r['y_pred_after']}; "
            text += f"right in {right[0]} → {right[1]} of {r['seeds_after']:.0f}"
            pictures.append(album.picture(i, text))
        of = f"{len(mine):,} of {plural(len(table), 'image')}"
        made.append(Gallery(f"“{after}” is right {often} often than “{before}”: {of}", pictures))
    return made


def worst_masks(data: Dataset, album: Album) -> Gallery | None:
    """Return the masks with the smallest Dice, and how many miss the region."""
    if data.stored_quality is None:
        return None
    worst = data.stored_quality.dropna(subset=["dice"]).sort_values(["dice", "image_id"])
    pictures = [
        album.picture(r.image_id, f"{r.label}; Dice {number(r.dice)}")
        for r in worst.head(SHOWN).itertuples()
    ]
    missed = f"{(worst['dice'] < MISSED).sum():,} of {plural(len(worst), 'mask')}"
    note = f"{missed} miss the region (Dice below {MISSED})."
    return Gallery("Masks with the smallest Dice", pictures, note)


def pairs(data: Dataset, album: Album) -> list[Gallery]:
    """Return the most similar pairs of copies of each kind, those across the split first, and
    pairs with different labels."""
    if data.pairs is None or data.pairs.empty:
        return []
    table = data.pairs.sort_values(
        ["straddles", "score", "image_id_a", "image_id_b"], ascending=[False, False, True, True]
    )
    shown = {words.KINDS.get(kind, kind): of for kind, of in table.groupby("kind")}
    conflicts = table[table["label_a"] != table["label_b"]]
    if len(conflicts):
        shown = {"copies with different labels": conflicts} | shown
    made = []
    for title, of in shown.items():
        pictures = [
            album.picture(
                r[f"image_id_{side}"],
                f"{r[f'split_{side}'] or 'no part'}, {r[f'label_{side}']}",
                outlines=False,
            )
            for _, r in of.head(PAIRS).iterrows()
            for side in "ab"
        ]
        made.append(Gallery(f"{title} ({plural(len(of), 'pair')})", pictures, pairs=True))
    return made
