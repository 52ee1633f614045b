"""The mask store: m = SAM2(x), one row an image, each at the image's own size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd


class MaskStore:
    """Masks by image_id, checked on every read. Made by `open_masks`."""

    attrs: dict[str, Any]
    identity: dict[str, Any]

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError

    def __contains__(self, image_id: object) -> bool:
        raise NotImplementedError

    def __getitem__(self, image_id: str) -> np.ndarray:
        """Return the mask, bool (h, w). StoreError: unknown id, failed row, lost or damaged."""
        raise NotImplementedError

    def ids(self, split: str | None = None) -> np.ndarray:
        raise NotImplementedError

    def table(self) -> pd.DataFrame:
        """Return the index columns, one row an image, index = image_id."""
        raise NotImplementedError


def open_masks(path: str | PathLike) -> MaskStore:
    raise NotImplementedError


class MaskStoreWriter:
    """`with MaskStoreWriter(path, identity, items) as writer: run_stage(..., writer, ...)`.

    Args:
        path: e.g. cache/brain/masks.zarr.
        identity: the mapper's `identity`.
        on_mismatch: "refuse" (StoreError with a readable difference) or "rebuild" (a new store
            is built beside and takes the old one's place when the run ends).
    """

    def __init__(
        self,
        path: str | PathLike,
        identity: Mapping[str, Any],
        *,
        on_mismatch: str = "refuse",
        attrs: Mapping[str, Any] | None = None,
    ):
        raise NotImplementedError

    def __enter__(self) -> MaskStoreWriter:
        raise NotImplementedError

    def __exit__(self, *exc) -> None:
        raise NotImplementedError

    def plan(self, items: Sequence, *, force=False, verify=False, retry_failed=True):
        raise NotImplementedError

    def write(self, items: Sequence, rows: Sequence) -> None:
        raise NotImplementedError

    def write_failed(self, item, reason: str) -> None:
        raise NotImplementedError

    def commit(self) -> None:
        raise NotImplementedError

    def sync_manifest(self, manifest: pd.DataFrame) -> None:
        """Refresh label, split and in_manifest from the manifest; nothing is computed."""
        raise NotImplementedError
