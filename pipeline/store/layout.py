"""How a store lies on disk, and how a commit becomes visible.

A store is a Zarr v3 group. One row per image; rows are numbered in the order they are written.

    masks.zarr/
      zarr.json                  group attributes, consolidated metadata of all arrays, and the name
                                 of the index: REPLACED LAST, in one rename. This is the commit.
      index-1f2e3d4c.parquet     the index: one line per image_id -> row number, status, checksum
      mask/c/0/0/0               a shard: 256 rows, one inner chunk per row (see `shards`)
      mask/c/1/0/0               the last shard, not yet full
      label/c/0                  columns for plain Zarr and xarray readers, derived from the index
      .partial-h2k7/             files being written; left by a kill, removed by the next writer

                  rows 0 ... 255            rows 256 ... 511
    shards       [################]        [#####...........]   <- appended rows go here
                  ^    ^   ^                 ^ ^  (row 7 was computed again: it is row 259 now)
    index        img_a  img_b ...  img_k -> 259

Why a reader never sees a half-written state:

* A row is written once. A row that is computed again gets a new row number, and the next index
  points to that one; the old row is `superseded` until the store is compacted.
* A full shard is never written again. The last shard is replaced by a longer file in which the
  bytes of all earlier rows keep their offsets, so that whoever read its chunk index before the
  replacement reads the same bytes after it.
* An index file is never written again; its name holds its checksum. The previous one stays for
  readers that have just read the previous zarr.json.
* A column in which an existing row changes (a new label, a superseded row) is written under its
  other chunk key (`label/c/0` <-> `label/c.0`), which zarr.json names; otherwise it is extended.
* A killed writer leaves rows that no index lists. The next writer overwrites them.

A rebuild with other choices and a compaction are made in a hidden folder next to the store, which
takes its place when complete (see `folders`). `StoreReader` keeps the folder open and reads the
replaced store to the end.

A plain reader (`xarray.open_zarr(path)`) sees the committed rows, failed ones included; rows with
`status` "superseded" are not images and have the image_id "". What it cannot see is a lost shard
file, which Zarr reads as fill values: only `StoreReader` compares every row with its checksum. A
plain dataset that stays open while existing rows change twice should be opened again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StoreError
from pipeline.io import atomic_write, fsync_path

LAYOUT = 2
"""Version of this layout, in the attributes of every store."""

PARTIAL = ".partial-"
"""Begin of the names of folders, inside a store, with files that are being written."""

GOOD = ("ok", "empty", "full")
"""Statuses of rows that have data. A row with status "failed" has a reason instead."""

Columns = Mapping[str, tuple[str, Any]]
"""Index columns: name -> (data type, value of a row that has none)."""

Row = dict[str, Any]
"""Index values of one row, by column."""

Data = dict[str, np.ndarray]
"""Data of one row, by array name."""

COMMON: Columns = {
    "image_id": ("string", ""),
    "label": ("string", ""),
    "split": ("string", ""),
    "in_manifest": ("bool", True),
    "status": ("string", ""),
    "reason": ("string", ""),
    "sha256": ("string", ""),
    "key": ("string", ""),
    "crc": ("uint32", 0),
}
"""Index columns of both kinds of store."""


@dataclass(frozen=True)
class Kind:
    """What distinguishes mask stores from feature stores.

    Args:
        name: "masks" or "features", in the store's attributes.
        stage: the command that writes it.
        columns: index columns.
        shown: index columns that plain Zarr readers see as coordinates.
        sums: data array -> the index column with the checksum of its rows. The first array is
            always there.
        shape: index row -> shape of its data, or None where all rows have the array's shape.
        digest: data of one row of an array -> its checksum.
    """

    name: str
    stage: str
    columns: Columns
    shown: tuple[str, ...]
    sums: Mapping[str, str]
    shape: Callable[[Row], tuple[int, ...] | None]
    digest: Callable[[np.ndarray], int]

    def checksums(self, data: Data) -> dict[str, int]:
        """Return the checksums of a row's data by index column."""
        return {self.sums[name]: self.digest(values) for name, values in data.items()}

    def matches(self, data: Data, row: Row) -> bool:
        """Whether the data are those that the index row was written for."""
        return all(row[column] == crc for column, crc in self.checksums(data).items())


def mask_crc(mask: np.ndarray) -> int:
    """Return the CRC-32 of a mask's bits, packed eight to a byte."""
    return zlib.crc32(np.packbits(mask).tobytes())


def feature_crc(values: np.ndarray) -> int:
    """Return the CRC-32 of an array's little-endian float32 bytes."""
    return zlib.crc32(np.ascontiguousarray(values, dtype="<f4"))


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
    shown=("image_id", "label", "split", "in_manifest", "status", "height", "width"),
    sums={"mask": "crc"},
    shape=lambda row: (row["height"], row["width"]),
    digest=mask_crc,
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
    shown=("image_id", "label", "split", "in_manifest", "status", "mask_status"),
    sums={"image_features": "crc", "tokens": "tokens_crc"},
    shape=lambda row: None,
    digest=feature_crc,
)

KINDS = {kind.name: kind for kind in (MASKS, FEATURES)}


def kind_of(path: Path, root: Mapping[str, Any]) -> Kind:
    """Return the kind of the store with this root."""
    name = root["attributes"].get("store")
    if name not in KINDS:
        raise StoreError(f"unknown kind of store: {name!r}", path=path)
    return KINDS[name]


# -- the root ---------------------------------------------------------------------------------


def read_root(path: Path, folder: int | None = None, layout: int = LAYOUT) -> dict[str, Any]:
    """Return the content of a store's zarr.json.

    Args:
        path: the store.
        folder: file descriptor of the store's folder; by default it is found by `path`.
        layout: the layout version wanted.

    Raises:
        StoreError: no store, not one of this pipeline's stores, or another layout version.
    """
    stage = {"masks": "segment", "features": "encode"}.get(path.name.split(".")[0])
    remedy = f"run: pipeline {stage} --dataset {path.absolute().parent.name}"
    if stage is None:
        remedy = "check the name: a dataset has masks.zarr and features.zarr"
    try:
        name = path / "zarr.json" if folder is None else "zarr.json"
        root = json.loads(read_bytes(name, folder))
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError("no store here", path=path, remedy=remedy) from None
    except ValueError:
        raise StoreError(
            "the store's zarr.json is damaged", path=path, remedy=f"delete the store and {remedy}"
        ) from None
    except OSError as error:
        raise StoreError(
            f"cannot be read: {error.strerror}", path=path, remedy="check its owner and mode"
        ) from None
    try:
        found = root["attributes"]["layout"]
        _ = root["consolidated_metadata"]["metadata"], root["attributes"]["identity"]
    except (KeyError, TypeError):
        raise StoreError(
            "a Zarr group, but not one of this pipeline's stores", path=path, remedy=remedy
        ) from None
    if found == 1 and layout != 1:
        raise StoreError(
            "the store has layout 1, of an earlier version",
            path=path,
            remedy=f"run: pipeline convert {path} (nothing is computed again)",
        )
    if found != layout:
        raise StoreError(
            f"the store has layout {found}; this version reads {layout}",
            path=path,
            remedy=f"delete the store and {remedy}",
        )
    return root


def make_root(attrs: Mapping[str, Any], arrays: Mapping[str, dict]) -> dict[str, Any]:
    """Return a group's metadata with the consolidated metadata of its arrays."""
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": dict(attrs),
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": dict(arrays),
        },
    }


def write_root(folder: Path, root: Mapping[str, Any]) -> None:
    """Commit: replace zarr.json."""
    with atomic_write(folder / "zarr.json") as partial:
        partial.write_bytes(to_json(root))


def to_json(value: Any) -> bytes:
    """Return compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False).encode()


def read_bytes(name: str | os.PathLike, folder: int | None = None) -> bytes:
    """Return the bytes of a file, by its path or by its name within an open folder."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    with open(fd, "rb") as file:
        return file.read()


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files of a store; a kill or a power cut leaves each file old or new, never damaged.

    All are flushed to the disk before the first is renamed into place.

    Args:
        folder: the store.
        files: name within the store -> content.
    """
    if not files:
        return
    folder.mkdir(parents=True, exist_ok=True)
    # A folder of its own for each call: several processes write shards of one store.
    partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=folder))
    staged = {partial / str(k): folder / name for k, name in enumerate(files)}
    for path, content in zip(staged, files.values(), strict=True):
        path.write_bytes(content)
    with ThreadPoolExecutor(16) as pool:  # a disk flushes many files at once
        list(pool.map(fsync_path, staged))
        for path, final in staged.items():
            final.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, final)
        list(pool.map(fsync_path, {final.parent for final in staged.values()}))
    shutil.rmtree(partial, ignore_errors=True)


# -- arrays -----------------------------------------------------------------------------------

ZSTD = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
SINGLE_BYTE = {"name": "bytes"}
FILLS: Mapping[str, Any] = {"string": "", "bool": False, "float32": "NaN"}


def codecs_of(dtype: str, compressed: bool = True) -> list[dict[str, Any]]:
    """Return the Zarr codecs of an array's chunks."""
    if dtype == "string":
        first = {"name": "vlen-utf8", "configuration": {}}
    else:
        first = SINGLE_BYTE if dtype == "bool" else LITTLE
    return [first, ZSTD] if compressed else [first]


def array_metadata(
    shape: tuple[int, ...],
    dtype: str,
    dims: tuple[str, ...],
    chunks: tuple[int, ...],
    codecs: list[dict[str, Any]],
    separator: str = "/",
) -> dict[str, Any]:
    """Return the Zarr v3 metadata of an array."""
    return {
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": separator}},
        "fill_value": FILLS.get(dtype, 0),
        "codecs": codecs,
        "attributes": {},
        "dimension_names": list(dims),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
