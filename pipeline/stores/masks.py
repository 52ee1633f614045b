"""The mask store: m = SAM2(x), one row an image, each at the image's own size."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import numpy as np
from skimage.measure import label

from pipeline.engine.items import WorkItem
from pipeline.stores.kinds import MASKS, Data, Row
from pipeline.stores.layout import ArraySpec
from pipeline.stores.reader import StoreReader
from pipeline.stores.rows import MaskRow
from pipeline.stores.writer import StoreWriter

SHARD_ROWS = 256
TILE = 1024


class MaskStore(StoreReader):
    """Masks by image_id, checked on every read. Made by `open_masks`.

    A mapping-like object: `len`, iteration over ids, `in`, `store[image_id]`.
    """

    store_kind = MASKS

    def __getitem__(self, image_id: str) -> np.ndarray:
        """Return the mask, bool (height, width) of the upright image, pixel for pixel as SAM2
        gave it; one chunk is read.

        Raises:
            StoreError: no such row, a row that failed (with its reason), lost or damaged bytes.
                A lost mask is never returned as an empty one.
        """
        return self.read(image_id)["mask"]


def open_masks(path: str | PathLike) -> MaskStore:
    """Open a mask store for reading.

        masks = open_masks("cache/brain/masks.zarr")
        masks["test/glioma/Te-gl_0010.jpg"]      # bool (h, w)
        masks.table()[["status", "area_fraction"]]

    Raises:
        StoreError: no store there, or its index is damaged.
    """
    return MaskStore(path)


class MaskStoreWriter(StoreWriter):
    """The one writer of a mask store.

        with MaskStoreWriter(path, mapper.identity) as writer:
            writer.sync_manifest(manifest)
            run_stage("segment", items, mapper, writer, ...)

    Args:
        path: e.g. cache/brain/masks.zarr.
        identity: the mapper's `identity`, JSON values.
        on_mismatch: "refuse" (StoreError with a readable difference) or "rebuild" (a new store
            is built in a hidden folder beside it and takes the old one's place when the run
            ends well).
        attrs: more attributes for people who open the store (model, checkpoint, versions).
    """

    store_kind = MASKS

    def data_specs(self, items: Sequence[WorkItem]) -> list[ArraySpec]:
        """One chunk a mask up to 1024 px a side, tiles above; many masks a shard.

        Chunks are rounded up to 256 px: the padding compresses to nothing, and somewhat larger
        images can be added later without a second chunk.
        """
        height = max([int(item.row.get("height") or 0) for item in items], default=0) or TILE
        width = max([int(item.row.get("width") or 0) for item in items], default=0) or TILE
        chunk = tuple(min(TILE, -(-n // 256) * 256) for n in (height, width))
        shard = tuple(-(-n // c) * c for n, c in zip((height, width), chunk, strict=True))
        return [
            ArraySpec(
                "mask",
                ("image", "y", "x"),
                (0, 1, 1),
                "bool",
                (1, *chunk),
                (SHARD_ROWS, *shard),
                fill=False,
            )
        ]

    def encode_row(self, row: MaskRow) -> tuple[Row, Data]:
        """Return index values and data of a mask row."""
        mask = np.asarray(row.mask)
        if mask.ndim != 2 or mask.dtype != bool or not mask.size:
            raise ValueError(f"a mask is bool (h, w), not {mask.dtype} {mask.shape}")
        area = int(np.count_nonzero(mask))
        components = row.components
        if components < 0:
            components = int(label(mask, connectivity=2, return_num=True)[1])
        data = {"mask": mask}
        return {
            "status": row.status,
            "reason": row.reason,
            **MASKS.checksums(data),
            "height": mask.shape[0],
            "width": mask.shape[1],
            "area": area,
            "area_fraction": area / mask.size,
            "predicted_iou": float(row.predicted_iou),
            "stability": float(row.stability),
            "components": components,
            "prompt": row.prompt,
        }, data
