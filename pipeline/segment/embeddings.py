"""SAM2's embeddings of whole images: cache/<dataset>/embeddings.zarr, with `segment.embeddings`.

The encoder takes most of the time and does not see the prompt. With its maps stored, another prompt
costs the decoder alone, and the masks are those that are made without the store, to the bit. Crops
(`segment.zoom`) are encoded each time. The store is large: docs/embeddings.md has the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import StoreError
from pipeline.images import read_image, reader_rules
from pipeline.io import sha256_json
from pipeline.models import Sam2ImagePredictor
from pipeline.paths import Paths
from pipeline.segment.predictor import BatchPredictor
from pipeline.store import EmbeddingRow, EmbeddingStore, EmbeddingStoreWriter, WorkItem
from pipeline.store.items import canonical

MAPPER_VERSION = 1
"""Incremented when the same model and image give another embedding than before."""


class EmbeddingMapper:
    """Images to their embeddings, as a mapper of the engine; `window` is that of `read_image`,
    `writer` that of their store."""

    def __init__(self, predictor: Sam2ImagePredictor, window: tuple[float, float] | None):
        self.sam2, self.window = BatchPredictor(predictor), window
        self.device = predictor.device.type
        self.writer = partial(EmbeddingStoreWriter, example=self.example)
        self.identity: dict[str, Any] = {
            "stage": "embeddings",
            "mapper_version": MAPPER_VERSION,
            "reader": reader_rules(window),
            "model": {n: getattr(predictor, n) for n in ("fingerprint", "precision", "image_size")},
        }

    def load(self, item: WorkItem) -> Tensor:
        """Read and preprocess an image."""
        return self.sam2.preprocess(read_image(item.path, item.frame, window=self.window))

    def map(self, items: Sequence[WorkItem], loaded: Sequence[Tensor]) -> list[EmbeddingRow]:
        """Return the embeddings of a batch."""
        levels = [as_arrays(level) for level in self.sam2.embed(loaded)]
        rows = zip(items, *levels, strict=True)
        return [EmbeddingRow(item.image_id, maps) for item, *maps in rows]

    def example(self) -> list[np.ndarray]:
        """Return the maps of a black image."""
        side = self.sam2.predictor.image_size
        return [as_arrays(level)[0] for level in self.sam2.embed([torch.zeros(3, side, side)])]


def as_arrays(level: Tensor) -> np.ndarray:
    """Return maps (n, c, h, w) with their strides; of bfloat16 the bits, as int16."""
    level = level.cpu()
    return (level.view(torch.int16) if level.dtype == torch.bfloat16 else level).numpy()


def key_of(row: Mapping[str, Any]) -> str:
    """Return the key of an image that its bytes and frame alone decide; see `image_items`."""
    return sha256_json({"sha256": row["sha256"], "frame": int(row["frame"])})


def same_embeddings(
    dataset: str,
    paths: Paths,
    predictor: Sam2ImagePredictor,
    window: tuple[float, float] | None,
) -> EmbeddingStore | None:
    """Return the store, if it is there and of this model, precision and way to read images."""
    with suppress(StoreError):  # none, or a damaged one
        store = EmbeddingStore(paths.embeddings(dataset))
        if store.identity == canonical(EmbeddingMapper(predictor, window).identity):
            return store
    return None


def stored_embedding(store: EmbeddingStore | None, row: Mapping[str, Any]) -> list[Tensor] | None:
    """Return the maps of the image of a row of the manifest; None where the store has none of these
    bytes, or they are damaged."""
    image_id = row["image_id"]
    if store is None or image_id not in store or store.frame.at[image_id, "key"] != key_of(row):
        return None
    with suppress(StoreError):
        maps = map(torch.from_numpy, store[image_id])
        return [one.view(torch.bfloat16) if one.dtype == torch.int16 else one for one in maps]
    return None
