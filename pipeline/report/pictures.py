"""Thumbnails of a dataset: images, mask outlines and masked views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.encode.views import outside_of
from pipeline.errors import PipelineError
from pipeline.images import read_image, read_mask
from pipeline.images.overlay import data_uri, draw_outlines, shrink
from pipeline.report.data import Dataset, reason_of


class Picture(NamedTuple):
    """A thumbnail: `uri` is "" where there is none, and `note` says why."""

    image_id: str
    uri: str = ""
    caption: str = ""
    note: str = ""
    alt: str = ""


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
        self.lost: dict[str, str] = {}
        """Masks that the store lists but cannot give, by image_id, with the reason."""
        table = data.manifest
        self._rows = {} if table is None else table.set_index("image_id").to_dict("index")
        self._made: dict[tuple[str, bool], Picture] = {}

    def picture(self, image_id: str, caption: str = "", *, outlines: bool = True) -> Picture:
        """Return a thumbnail; what cannot be read is said in its `note`."""
        key = (image_id, outlines)
        if key not in self._made:
            self._made[key] = self._make(image_id, outlines)
        return self._made[key]._replace(caption=caption)

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Read an image: (h, w, 3) uint8, upright."""
        row = self._rows[image_id]
        return read_image(self.data.paths.data(self.data.name) / row["path"], row["frame"])

    def truth(self, image_id: str) -> NDArray[np.bool_] | None:
        """Read the ground-truth mask of an image, (h, w) bool; None where there is none."""
        row = self._rows[image_id]
        path = self.data.paths.data(self.data.name) / row["mask_path"]
        return read_mask(path, row["frame"]) if row["mask_path"] else None

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
        if image_id not in self._rows:
            return Picture(image_id, note="not in the manifest")
        mask = truth = None
        note = ""
        try:
            image = self.image(image_id)
            if outlines:
                mask, note = self.mask(image_id)
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
        alt = f"{image_id}, {self._rows[image_id]['label']}"
        return Picture(image_id, uri, note="; ".join(notes), alt=alt)
