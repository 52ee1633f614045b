"""Pictures of the images of a dataset, with the outlines of their masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.report.inputs import DatasetInputs
from pipeline.report.overlay import data_uri, draw_outlines

OUTLINES = (
    "Orange line: the stored mask. Blue dashes: the ground truth, where there is one. "
    "No line: the mask is empty, or the image has none."
)


@dataclass(frozen=True)
class Picture:
    """One picture of a gallery: `uri` is "" where the image cannot be read (`note` says why)."""

    image_id: str
    uri: str
    caption: str = ""
    note: str = ""
    alt: str = ""


@dataclass
class Gallery:
    """Pictures under a title; with `pairs` each two that follow each other stay side by side.

    `rest` counts what is not shown; `others` names it, where there is room for that.
    """

    kind: ClassVar[str] = "gallery"
    title: str
    pictures: Sequence[Picture]
    note: str = ""
    rest: int = 0
    pairs: bool = False
    others: Sequence[str] = ()


@dataclass
class Album:
    """Makes and remembers the thumbnails of one dataset.

    Args:
        found: the tables of the dataset; the manifest says where images and masks lie.
        size: longest side of a thumbnail in pixels.
    """

    found: DatasetInputs
    size: int = 160
    _made: dict[tuple[str, bool], Picture] = field(default_factory=dict)

    def __post_init__(self) -> None:
        table = self.found.manifest
        self._rows = {} if table is None else table.set_index("image_id").to_dict("index")

    def picture(self, image_id: str, caption: str = "", *, outlines: bool = True) -> Picture:
        """Return the picture of an image; a failure to read it is said in the picture's place."""
        key = (image_id, outlines)
        if key not in self._made:
            self._made[key] = self._make(image_id, outlines)
        made = self._made[key]
        return Picture(image_id, made.uri, caption, made.note, made.alt)

    def pictures(self, items: Iterable[tuple[str, str]]) -> list[Picture]:
        """Return the pictures of (image_id, caption) pairs."""
        return [self.picture(image_id, caption) for image_id, caption in items]

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Read an image: (h, w, 3) uint8, upright."""
        from pipeline.images import read_image

        row = self._rows[image_id]
        return read_image(self.found.paths.data(self.found.name) / row["path"], row["frame"])

    def truth(self, image_id: str) -> NDArray[np.bool_] | None:
        """Read the ground-truth mask of an image: (h, w) bool, or None where there is none."""
        from pipeline.images import read_mask

        row = self._rows[image_id]
        if not row["mask_path"]:
            return None
        return read_mask(self.found.paths.data(self.found.name) / row["mask_path"], row["frame"])

    def mask(self, image_id: str) -> NDArray[np.bool_] | None:
        """Read the stored mask of an image: (h, w) bool, or None where the store has none."""
        if self.found.masks is None:
            return None
        try:
            return np.asarray(self.found.masks[image_id])
        except (KeyError, PipelineError):
            return None

    def _make(self, image_id: str, outlines: bool) -> Picture:
        if image_id not in self._rows:
            return Picture(image_id, "", note="not in the manifest")
        try:
            image = self.image(image_id)
            mask = self.mask(image_id) if outlines else None
            truth = self.truth(image_id) if outlines else None
        except (PipelineError, OSError) as error:
            return Picture(image_id, "", note=f"cannot be shown: {error}")
        notes, shapes = [], {"mask": mask, "truth": truth}
        for name, region in shapes.items():
            if region is not None and region.shape != image.shape[:2]:
                notes.append(f"the {name}'s size is not the image's")
                shapes[name] = None
        alt = f"{image_id}, {self._rows[image_id]['label']}"
        picture = draw_outlines(image, shapes["mask"], shapes["truth"], size=self.size)
        return Picture(image_id, data_uri(picture), note="; ".join(notes), alt=alt)


def spread(ordered: Sequence[str], count: int) -> list[str]:
    """Choose `count` ids of a worst-first list: the worst half, then evenly through the rest.

    So that a gallery shows the failures and does not hide what is usual.
    """
    if len(ordered) <= count:
        return list(ordered)
    worst = (count + 1) // 2
    rest = np.linspace(worst, len(ordered) - 1, count - worst).round().astype(int)
    return [*ordered[:worst], *(ordered[i] for i in rest)]
