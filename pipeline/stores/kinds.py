"""What the two kinds of store have of their own: columns, data arrays, checksum of a row."""

from __future__ import annotations

import functools
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pipeline.errors import StoreError
from pipeline.stores.index import COMMON, GOOD, PATIENCE, Index

SLAB_BYTES = 32 << 20
"""Most bytes read or written in one go: memory does not grow with number or size of images."""

Row = dict[str, Any]
Data = dict[str, np.ndarray]


@dataclass(frozen=True)
class Kind:
    """A kind of store.

    Args:
        name: "masks" or "features", in the root's attributes.
        stage: the command that writes it.
        columns: index columns, name -> (dtype, default).
        sums: data array with one row an image -> the index column with its rows' checksums; the
            first array is always there.
        region: index row -> the part of a stored row that belongs to the image.
        digest: one row of an array -> its checksum.
    """

    name: str
    stage: str
    columns: Mapping[str, tuple[str, Any]]
    sums: Mapping[str, str]
    region: Callable[[Row], tuple[slice, ...]]
    digest: Callable[[np.ndarray], int]

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the data arrays that may be there."""
        return tuple(self.sums)

    def checksums(self, data: Data) -> dict[str, int]:
        """Return the checksums of a row's data by index column."""
        return {self.sums[name]: self.digest(values) for name, values in data.items()}

    def matches(self, data: Data, row: Row) -> bool:
        """Whether data are what the index row says they are."""
        return all(row[column] == crc for column, crc in self.checksums(data).items())


def _packed_crc(mask: np.ndarray) -> int:
    """CRC-32 of the packed bits: one bit a pixel, whatever the array holds a pixel in."""
    return zlib.crc32(np.packbits(mask).tobytes())


def _float_crc(values: np.ndarray) -> int:
    """CRC-32 of little-endian float32 bytes."""
    return zlib.crc32(np.ascontiguousarray(values, dtype="<f4").tobytes())


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
    sums={"mask": "crc"},
    region=lambda row: (slice(row["height"]), slice(row["width"])),
    digest=_packed_crc,
)

FEATURES = Kind(
    name="features",
    stage="encode",
    columns={
        **COMMON,
        "tokens_crc": ("uint32", 0),
        "mask_status": ("string", ""),
        "mask_crc": ("int64", -1),
    },
    sums={"image_features": "crc", "tokens": "tokens_crc"},
    region=lambda row: (),
    digest=_float_crc,
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

    def lost(self, i: int, row: Row, exists: Callable[[Path], bool] = Path.exists) -> bool:
        """Whether a file of row i is missing; Zarr would read it as zeros."""
        return not all(map(exists, self.files(i, row)))

    def lost_rows(self, index: Index) -> list[int]:
        """Return the good rows of an index that are lost; each file is looked for once."""
        exists = functools.cache(Path.exists)
        return [
            i
            for i, status in enumerate(index.rows["status"])
            if status in GOOD and self.lost(i, index.get(i), exists)
        ]

    def read(self, i: int, row: Row) -> Data:
        """Return the data of row i, unchecked."""
        region = self.kind.region(row)
        return {name: np.asarray(array[(i, *region)]) for name, array in self.arrays.items()}

    def block(self, low: int, high: int, names: Collection[str] | None = None) -> Data | None:
        """Return the data of rows low to high - 1, unchecked; None when a codec refuses it."""
        arrays = {n: a for n, a in self.arrays.items() if names is None or n in names}
        try:
            return {name: np.asarray(array[low:high]) for name, array in arrays.items()}
        except Exception:
            return None

    def stamp(self, i: int, row: Row) -> tuple | None:
        """What tells one version of row i's files from the next; None where one is missing."""
        try:
            stats = [file.stat() for file in self.files(i, row)]
        except OSError:
            return None
        return tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in stats)

    def checked(self, i: int, row: Row) -> Data | None:
        """Return the data of row i when they are what the index row says, else None.

        Zarr reads a shard in two goes, where its chunks lie and then one of them. A writer that
        adds rows replaces the file between the two every now and then, so what does not match is
        read again for as long as the files go on changing, PATIENCE seconds at most.
        """
        end = time.monotonic() + PATIENCE
        while (stamp := self.stamp(i, row)) is not None:
            try:
                data = self.read(i, row)
            except Exception:
                data = None  # bytes that no codec takes are as damaged as wrong ones
            if data is not None and self.kind.matches(data, row):
                return data
            if self.stamp(i, row) == stamp or time.monotonic() > end:
                break
        return None

    def damaged(self, index: Index) -> Iterator[int]:
        """Yield good rows whose bytes do not match their checksum, reading a slab at a time."""
        n = len(index)
        sizes = [a.dtype.itemsize * int(np.prod(a.shape[1:])) for a in self.arrays.values()]
        slab = max(1, min(128, SLAB_BYTES // max(1, sum(sizes))))
        for low in range(0, n, slab):
            high = min(low + slab, n)
            rows = {i: index.get(i) for i in range(low, high)}
            rows = {i: row for i, row in rows.items() if row["status"] in GOOD}
            if not rows:
                continue
            slabs = self.block(low, high)
            if slabs is None:
                yield from (i for i, row in rows.items() if self.checked(i, row) is None)
                continue
            for i, row in rows.items():
                region = self.kind.region(row)
                data = {name: values[(i - low, *region)] for name, values in slabs.items()}
                if not self.kind.matches(data, row) and self.checked(i, row) is None:
                    yield i
