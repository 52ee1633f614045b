"""Thumbnails of a dataset: images, mask outlines and masked views."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.encode.views import outside_of
from pipeline.errors import PipelineError
from pipeline.images import read_image, read_mask
from pipeline.images.overlay import data_uri, draw_outlines, shrink
from pipeline.report import words
from pipeline.report.blocks import Picture
from pipeline.report.data import Dataset, reason_of


def spread(worst_first: Sequence[str], n: int) -> list[str]:
    """Choose `n` ids: the worst half of them, then evenly spaced ones through the rest."""
    if len(worst_first) <= n:
        return list(worst_first)
    worst = (n + 1) // 2
    rest = np.linspace(worst, len(worst_first) - 1, n - worst).round().astype(int)
    return [*worst_first[:worst], *(worst_first[i] for i in rest)]


class Album:
    """The thumbnails of a dataset, each made once.

    Args:
        data: the manifest says where images and ground-truth masks are.
        size: longest side of a thumbnail in pixels.
    """

    def __init__(self, data: Dataset, size: int = 160) -> None:
        self.data = data
        self.size = size
        self.lost: dict[str, str] = {}
        """Masks that could not be read, by image_id, with the reason."""
        table = data.manifest
        self._rows = {} if table is None else table.set_index("image_id").to_dict("index")
        self._made: dict[tuple[str, bool], Picture] = {}

    def picture(self, image_id: str, caption: str = "", *, outlines: bool = True) -> Picture:
        """Return a thumbnail; what cannot be read is said in its `note`."""
        key = (image_id, outlines)
        if key not in self._made:
            self._made[key] = self._make(image_id, outlines)
        made = self._made[key]
        return Picture(image_id, made.uri, caption, made.note, made.alt)

    def pictures(self, items: Iterable[tuple[str, str]]) -> list[Picture]:
        """Return the thumbnails of (image_id, caption) pairs."""
        return [self.picture(image_id, caption) for image_id, caption in items]

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Read an image: (h, w, 3) uint8, upright."""
        row = self._rows[image_id]
        return read_image(self._file(row["path"]), row["frame"])

    def truth(self, image_id: str) -> NDArray[np.bool_] | None:
        """Read the ground-truth mask of an image, (h, w) bool; None where there is none."""
        row = self._rows[image_id]
        return read_mask(self._file(row["mask_path"]), row["frame"]) if row["mask_path"] else None

    def mask(self, image_id: str) -> tuple[NDArray[np.bool_] | None, str]:
        """Read the stored mask of an image.

        Returns:
            (h, w) bool and "", or None and why there is no mask to draw. A mask that the store
            lists but cannot give is also entered in `lost`.
        """
        if self.data.masks is None:
            return None, ""
        status = self.data.mask_status.get(image_id)
        if status in (None, "failed"):
            return None, words.FAILED_MASK if status else words.NO_MASK
        try:
            return np.asarray(self.data.masks[image_id]), ""
        except PipelineError as error:
            self.lost[image_id] = error.message
            return None, words.LOST_MASK.format(error.message)

    def example(self, image_id: str) -> list[Picture]:
        """Return the image, the image with its mask's outline, and the masked view."""
        pictures = [
            self.picture(image_id, words.EXAMPLE_WHOLE, outlines=False),
            self.picture(image_id, words.EXAMPLE_MASK),
        ]
        mask, note = self.mask(image_id)
        if mask is None or not pictures[0].uri:
            return [*pictures, Picture(image_id, "", words.EXAMPLE_MASKED, note or words.NO_MASK)]
        image = self.image(image_id)
        usable = self.data.mask_status.get(image_id) == "ok"
        shown = np.where(mask[..., None], image, self._outside(image)) if usable else image
        caption = words.EXAMPLE_MASKED if usable else words.EXAMPLE_FALLBACK
        alt = f"{pictures[0].alt}, {caption}"
        return [*pictures, Picture(image_id, data_uri(shrink(shown, self.size)), caption, alt=alt)]

    def _outside(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return what `encode` put outside the mask: (h, w, 3) or (1, 1, 3) uint8."""
        identity = {} if self.data.features is None else dict(self.data.features.identity)
        mean = (identity.get("model") or {}).get("mean", (0.5, 0.5, 0.5))
        return outside_of(image, identity.get("fill", self.data.params.encode.fill), mean)

    def _file(self, relative: str) -> Path:
        return self.data.paths.data(self.data.name) / relative

    def _make(self, image_id: str, outlines: bool) -> Picture:
        if image_id not in self._rows:
            return Picture(image_id, "", note=words.NOT_IN_MANIFEST)
        mask = truth = None
        note = ""
        try:
            image = self.image(image_id)
            if outlines:
                mask, note = self.mask(image_id)
                truth = self.truth(image_id)
        except (PipelineError, OSError) as error:
            return Picture(image_id, "", note=words.UNREADABLE.format(reason_of(error)))
        shapes = {words.MASK: mask, words.TRUTH: truth}
        notes = [note] if note else []
        for name, region in shapes.items():
            if region is not None and region.shape != image.shape[:2]:
                notes.append(words.WRONG_SIZE.format(name))
                shapes[name] = None
        picture = draw_outlines(image, *shapes.values(), size=self.size)
        alt = f"{image_id}, {self._rows[image_id]['label']}"
        return Picture(image_id, data_uri(picture), note="; ".join(notes), alt=alt)
