"""What the two kinds of store have of their own: columns, data arrays, checksum of a row."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pipeline.errors import StoreError
from pipeline.stores.index import COMMON, GOOD, Index

Row = dict[str, Any]
Data = dict[str, np.ndarray]


@dataclass(frozen=True)
class Kind:
    """A kind of store.

    Args:
        name: "masks" or "features", in the root's attributes.
        stage: the command that writes it.
        columns: index columns, name -> (dtype, default).
        arrays: data arrays with one row an image; the first is always there.
        region: index row -> the part of a stored row that belongs to the image.
        crc: data of one row -> checksum.
    """

    name: str
    stage: str
    columns: Mapping[str, tuple[str, Any]]
    arrays: tuple[str, ...]
    region: Callable[[Row], tuple[slice, ...]]
    crc: Callable[[Data], int]


def _mask_crc(data: Data) -> int:
    """CRC-32 of the packed bits: one bit a pixel, whatever the array holds a pixel in."""
    return zlib.crc32(np.packbits(data["mask"]).tobytes())


def _feature_crc(data: Data) -> int:
    """CRC-32 of the row's float32 bytes, tokens after features."""
    crc = 0
    for name in ("image_features", "tokens"):
        if name in data:
            crc = zlib.crc32(np.ascontiguousarray(data[name], dtype="<f4").tobytes(), crc)
    return crc


MASKS = Kind(
    name="masks",
    stage="segment",
    columns={
        **COMMON,
        "height": ("int32", 0),
        "width": ("int32", 0),
        "area": ("int64", 0),
        "area_fraction": ("float32", float("nan")),
        "predicted_iou": ("float32", float("nan")),
        "stability": ("float32", float("nan")),
        "components": ("int32", 0),
        "prompt": ("string", ""),
    },
    arrays=("mask",),
    region=lambda row: (slice(row["height"]), slice(row["width"])),
    crc=_mask_crc,
)

FEATURES = Kind(
    name="features",
    stage="encode",
    columns={**COMMON, "mask_status": ("string", "")},
    arrays=("image_features", "tokens"),
    region=lambda row: (),
    crc=_feature_crc,
)

KINDS = {kind.name: kind for kind in (MASKS, FEATURES)}


def kind_of(path: Path, root: Mapping[str, Any]) -> Kind:
    """Return the kind of an opened store."""
    name = root["attributes"].get("store")
    if name not in KINDS:
        raise StoreError(f"an unknown kind of store: {name!r}", path=path)
    return KINDS[name]


class RowReader:
    """Reads rows' data from one committed state of a store.

    Args:
        path: the store.
        kind: its kind.
        metadata: consolidated metadata of its arrays.
    """

    def __init__(self, path: Path, kind: Kind, metadata: Mapping[str, dict]):
        self.path, self.kind = path, kind
        # From the arrays' own metadata on disk, whose row count may be ahead of the root's.
        self.arrays: dict[str, zarr.Array] = {
            name: zarr.open_array(str(path / name), mode="r")
            for name in kind.arrays
            if name in metadata
        }

    @property
    def shard_rows(self) -> int:
        """Rows a shard of the first data array."""
        array = self.arrays[self.kind.arrays[0]]
        return (array.shards or array.chunks)[0]

    def files(self, i: int, row: Row) -> list[Path]:
        """Return the files that row i lies in."""
        files = []
        for name, array in self.arrays.items():
            shape = array.shards or array.chunks
            region = self.kind.region(row) or tuple(slice(n) for n in array.shape[1:])
            grid = [
                range((part.stop - 1) // n + 1) for part, n in zip(region, shape[1:], strict=True)
            ]
            cells = [()]
            for axis in grid:
                cells = [(*cell, k) for cell in cells for k in axis]
            first = i // shape[0]
            files += [self.path.joinpath(name, "c", *map(str, (first, *c))) for c in cells]
        return files

    def lost(self, i: int, row: Row) -> bool:
        """Whether a file of row i is missing; Zarr would read it as zeros."""
        return not all(file.exists() for file in self.files(i, row))

    def read(self, i: int, row: Row) -> Data:
        """Return the data of row i, unchecked."""
        region = self.kind.region(row)
        return {name: np.asarray(array[(i, *region)]) for name, array in self.arrays.items()}

    def block(self, low: int, high: int) -> Data | None:
        """Return the data of rows low to high - 1, unchecked; None when a codec refuses it."""
        try:
            return {name: np.asarray(array[low:high]) for name, array in self.arrays.items()}
        except Exception:
            return None

    def good(self, i: int, row: Row) -> bool:
        """Whether row i reads back as what was written."""
        try:
            return self.kind.crc(self.read(i, row)) == row["crc"]
        except Exception:
            return False  # bytes that no codec takes are as damaged as wrong ones

    def damaged(self, index: Index, *, slab: int = 32) -> Iterator[int]:
        """Yield good rows whose bytes do not match their checksum, reading a slab at a time."""
        n = len(index)
        for low in range(0, n, slab):
            high = min(low + slab, n)
            rows = {i: index.get(i) for i in range(low, high)}
            rows = {i: row for i, row in rows.items() if row["status"] in GOOD}
            if not rows:
                continue
            slabs = self.block(low, high)
            if slabs is None:
                yield from (i for i, row in rows.items() if not self.good(i, row))
                continue
            for i, row in rows.items():
                region = self.kind.region(row)
                data = {name: values[(i - low, *region)] for name, values in slabs.items()}
                if self.kind.crc(data) != row["crc"]:
                    yield i
