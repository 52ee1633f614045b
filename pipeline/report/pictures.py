"""Thumbnails of a dataset, and which images the page shows: misclassified, changed by masking,
badly masked, copied."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.encode.views import outside_of
from pipeline.errors import PipelineError
from pipeline.evaluate.predictions import flips
from pipeline.images import read_image, read_mask
from pipeline.images.overlay import data_uri, draw_outlines, shrink
from pipeline.images.read import bytes_changed
from pipeline.io import FileHashes
from pipeline.manifest import mask_file, row_file
from pipeline.report import words
from pipeline.report.data import Dataset, reason_of
from pipeline.report.words import number, plural

SHOWN, PAIRS = 6, 3
"""Images of a list, and pairs of copies of a kind."""


class Picture(NamedTuple):
    """A thumbnail: `uri` is "" where there is none, and `note` says why."""

    image_id: str
    uri: str = ""
    caption: str = ""
    note: str = ""
    alt: str = ""


class Gallery(NamedTuple):
    """Thumbnails under a title; with `pairs` every two consecutive ones stay together."""

    title: str
    pictures: list[Picture]
    note: str = ""
    pairs: bool = False


def spread(worst_first: Sequence[str], n: int) -> list[str]:
    """Choose `n` ids: the worst half of them, then evenly spaced ones through the rest."""
    if len(worst_first) <= n:
        return list(worst_first)
    worst = (n + 1) // 2
    rest = np.linspace(worst, len(worst_first) - 1, n - worst).round().astype(int)
    return [*worst_first[:worst], *(worst_first[i] for i in rest)]


class Album:
    """The thumbnails of a dataset, each made once, `size` pixels on the longest side."""

    def __init__(self, data: Dataset, size: int = 160) -> None:
        self.data = data
        self.size = size
        self.hashes = FileHashes(data.paths.hashes(data.name))
        self.lost: dict[str, str] = {}
        """Masks that the store lists but cannot give, by image_id, with the reason."""
        table = data.manifest
        self.table = pd.DataFrame() if table is None else table.set_index("image_id")
        self._made = cache(self._make)

    def picture(self, image_id: str, caption: str = "", *, outlines: bool = True) -> Picture:
        """Return a thumbnail; what cannot be read is said in its `note`."""
        return self._made(image_id, outlines)._replace(caption=caption)

    def row(self, image_id: str) -> dict[str, Any]:
        """Return an image's row of the manifest."""
        return self.table.loc[image_id].to_dict()

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Read an image: (h, w, 3) uint8, upright; ImageError for other bytes than were masked."""
        row = self.row(image_id)
        file = row_file(row, self.data.paths.data(self.data.name))
        if file.is_file() and self.hashes(file) != row["sha256"]:
            raise bytes_changed(file)
        return read_image(file, row["frame"], window=self.data.params.images.shown)

    def truth(self, image_id: str) -> NDArray[np.bool_] | None:
        """Read the ground-truth mask of an image, (h, w) bool; None where there is none."""
        row = self.row(image_id)
        if (files := mask_file(row, self.data.paths.data(self.data.name))) is None:
            return None
        return read_mask(
            files, row["frame"], shape=(row["height"], row["width"]) if files.rule else None
        )

    def mask(self, image_id: str) -> tuple[NDArray[np.bool_] | None, str]:
        """Read the stored mask of an image.

        Returns:
            (h, w) bool and "", or None and why there is no mask to draw. A mask that the store
            lists but cannot give is also entered in `lost`.
        """
        status = self.data.mask_status.get(image_id)
        if self.data.masks is None:
            return None, ""
        if status in (None, "failed"):
            return None, "segmentation failed" if status else "no mask in the store"
        try:
            return np.asarray(self.data.masks[image_id]), ""
        except PipelineError as error:
            self.lost[image_id] = error.message
            return None, f"mask lost: {error.message}"

    def example(self, image_id: str) -> list[Picture]:
        """Return the image, the image with its mask's outline, and the masked view."""
        whole = self.picture(image_id, "image", outlines=False)
        pictures = [whole, self.picture(image_id, "mask")]
        mask, note = self.mask(image_id)
        if mask is None or not whole.uri:
            note = note or "no mask in the store"
            return [*pictures, Picture(image_id, "", "masked image", note)]
        shown = image = self.image(image_id)
        caption = "no usable mask: whole image"
        if self.data.mask_status[image_id] == "ok":
            identity = {} if self.data.features is None else dict(self.data.features.identity)
            mean = (identity.get("model") or {}).get("mean", (0.5, 0.5, 0.5))
            fill = identity.get("fill", self.data.params.encode.fill)
            shown = np.where(mask[..., None], image, outside_of(image, fill, mean))
            caption = "masked image"
        uri = data_uri(shrink(shown, self.size))
        return [*pictures, Picture(image_id, uri, caption, alt=f"{whole.alt}, {caption}")]

    def _make(self, image_id: str, outlines: bool) -> Picture:
        if image_id not in self.table.index:
            return Picture(image_id, note="not in the manifest")
        mask = truth = None
        note = ""
        try:
            image = self.image(image_id)
            if outlines:
                mask, note = self.mask(image_id)
                if image_id in self.lost:  # without an outline it would look like an empty mask
                    return Picture(image_id, note=note)
                truth = self.truth(image_id)
        except (PipelineError, OSError) as error:
            return Picture(image_id, note=f"cannot be shown: {reason_of(error)}")
        shapes = {"mask": mask, "ground truth": truth}
        notes = [note] if note else []
        for name, region in shapes.items():
            if region is not None and region.shape != image.shape[:2]:
                notes.append(f"the {name} has another size than the image")
                shapes[name] = None
        uri = data_uri(draw_outlines(image, *shapes.values(), size=self.size))
        alt = f"{image_id}, {self.table.at[image_id, 'label']}"
        return Picture(image_id, uri, note="; ".join(notes), alt=alt)


def example(data: Dataset) -> str | None:
    """Return the image with the median Dice, or else the first one with a usable mask.

    Test images come first, since their predictions are what the figures are about.
    """
    if data.manifest is None:
        return None
    table = data.manifest.assign(other=data.manifest["split"] != "test").set_index("image_id")
    usable = [i for i, status in data.mask_status.items() if status == "ok" and i in table.index]
    table = (table.loc[usable] if usable else table).sort_index()
    if data.stored_quality is not None:
        judged = table.join(data.stored_quality.set_index("image_id")["dice"]).dropna(subset="dice")
        table = judged.sort_values("dice", kind="stable") if len(judged) else table
    part = table[table["other"] == table["other"].min()]
    return str(part.index[len(part) // 2 if "dice" in part else 0])


def images(data: Dataset, album: Album) -> list[Gallery]:
    """Return images with outlines: worst first, changed by the study's second run, fallbacks."""
    made = []
    ranked = [(name, data.cases(run)) for run, name in reversed(data.study.items())]
    for name, cases in [one for one in ranked if one[1] is not None][:1]:
        cases = cases[cases.index.isin(album.table.index)]
        cases = cases.sort_values(["p_true", "right"], kind="stable")
        pictures = []
        for i in spread(list(cases.index), data.params.report.gallery):
            r = cases.loc[i]
            called = "" if r.y_true == r.y_pred else f", called {r.y_pred}"
            pictures.append(album.picture(i, f"{r.y_true}{called}; p(true) {number(r.p_true)}"))
        note = "Sorted by the probability of the true class: the worst half, then evenly spaced."
        made += [Gallery(f"Test images, “{name}” with all labels", pictures, note)]
        made += changed(data, album)
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
    """Return the masks with the smallest Dice; None where there is no ground truth."""
    if data.stored_quality is None:
        return None
    worst = data.stored_quality.dropna(subset=["dice"]).sort_values(["dice", "image_id"])
    pictures = [
        album.picture(r.image_id, f"{r.label}; Dice {number(r.dice)}")
        for r in worst.head(SHOWN).itertuples()
    ]
    return Gallery("Masks with the smallest Dice", pictures)


def pairs(data: Dataset, album: Album) -> list[Gallery]:
    """Return the most similar pairs of copies of each kind, those across the split first, and
    pairs with different labels."""
    if data.pairs is None or data.pairs.empty:
        return []
    table = data.pairs.sort_values(
        ["leak", "score", "image_id_a", "image_id_b"], ascending=[False, False, True, True]
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
