"""How a store lies on disk, and how a commit becomes visible.

A store is a Zarr v3 group. One row per image; rows are numbered in the order they are written.

    masks.zarr/
      zarr.json                  group attributes, consolidated metadata of all arrays, and the name
                                 of the index: REPLACED LAST, in one rename. This is the commit.
      index-1f2e3d4c.parquet     the index: one line per image_id -> row number, status, checksum
      mask/c/0/0/0               a shard: 256 rows or more, one inner chunk per row
      mask/c/1/0/0               the last shard, not yet full
      label/c/0                  columns for plain Zarr and xarray readers, derived from the index
      .partial-h2k7/             files being written; left by a kill, removed by the next writer

Why a reader never sees a half-written state:

* A row is written once. Computed again, it gets a new row number, to which the next index points;
  the old row is `superseded` and costs disk space only.
* A full shard is never written again. The last one is replaced by a longer file in which earlier
  rows keep their offsets: who read its chunk table before reads the same bytes after.
* An index file is never written again; its name holds its checksum. The previous one stays.
* Each commit writes the columns under their other chunk key (`label/c/0` <-> `label/c.0`), which
  zarr.json names. A plain dataset that stays open over two commits may see newer labels, and over
  a rebuild newer rows: it finds its files by path. The readers of this package do not.
* A killed writer leaves rows that no index lists. The next writer overwrites them.

A shard is in the format of Zarr's `sharding_indexed` codec: the chunks, one per row, then a table
with the offset and size of each (little-endian uint64; all ones = no data). It is written here
because the last shard must grow without moving its rows, and read here because Zarr takes a lost
file for fill values. The codec's checksum over the table is left out: a damaged entry spoils its
own row only, which fails its checksum.

Reference: Zarr v3 specification; sharding codec version 1.0.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import remote
from pipeline.errors import StoreError
from pipeline.io import fsync_path

LAYOUT = 2
PARTIAL = ".partial-"
GOOD = ("ok", "empty", "full")
"""Statuses of rows that have data. A row with status "failed" has a reason instead."""
SHARD_ROWS, SHARD_BYTES = 256, 64 << 20
SHARDS = 512  # of an array, as far as `SHARD_BYTES` allows: a large store has longer ones
TILE = 1024
COLUMN_ROWS, COLUMN_CHUNKS = 16384, 16  # of a column for plain readers: mostly one file
ENTRY, EMPTY = struct.Struct("<QQ"), 2**64 - 1  # of a shard's table

Row = dict[str, Any]  # index values of one row, by column
Data = dict[str, np.ndarray]  # data of one row, by array name
Folder = int | Path  # an open one: a file descriptor, or the path of a URL
Cell = tuple[int, ...]  # which tile of a large mask; zeros where a row is one chunk

COMMON: Mapping[str, tuple[str, Any]] = {
    "image_id": ("string", ""),
    "label": ("string", ""),
    "split": ("string", ""),
    "in_manifest": ("bool", True),
    "status": ("string", ""),
    "reason": ("string", ""),
    "sha256": ("string", ""),
    "key": ("string", ""),
    "crc": ("uint32", 0),
    "row": ("int64", -1),
}
"""Index columns of both kinds of store: name -> (data type, value of a row that has none)."""


@dataclass(frozen=True)
class Kind:
    """What distinguishes mask stores from feature stores."""

    name: str  # in the store's attributes
    stage: str  # the command that writes it
    columns: Mapping[str, tuple[str, Any]]  # of the index, as `COMMON`
    shown: tuple[str, ...]  # index columns that plain Zarr readers see as coordinates
    sums: Mapping[str, str]  # data array -> the index column with the checksum of its rows
    sides: tuple[str, ...] = ()  # index columns with the shape of a row; () = that of the array


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
    sides=("height", "width"),
)

CANDIDATES = Kind(
    name="candidates",
    stage="segment",
    columns={
        **COMMON,
        "count": ("int32", 0),
        "height": ("int32", 0),
        "width": ("int32", 0),
        "ranking": ("string", "[]"),
    },
    shown=("image_id", "label", "split", "in_manifest", "status", "count", "height", "width"),
    sums={"candidate": "crc"},
    sides=("count", "height", "width"),
)

EMBEDDINGS = Kind(
    name="embeddings",
    stage="segment",
    columns=COMMON,
    shown=("image_id", "label", "split", "in_manifest", "status"),
    sums={"embedding": "crc"},
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
)

POOLED_FEATURES = replace(
    FEATURES,
    columns={**FEATURES.columns, "pooled_crc": ("uint32", 0)},
    sums={**FEATURES.sums, "pooled_features": "pooled_crc"},
)
"""Of the feature stores that have pooled views, whose features are of another length."""

KINDS = {kind.name: kind for kind in (MASKS, CANDIDATES, EMBEDDINGS, FEATURES)}


def kind_of(root: Mapping[str, Any]) -> Kind:
    """Return the kind of a store, from its zarr.json."""
    kind = KINDS[root["attributes"]["store"]]
    pooled = kind is FEATURES and "pooled_features" in root["consolidated_metadata"]["metadata"]
    return POOLED_FEATURES if pooled else kind


def checksum(values: np.ndarray) -> int:
    """Return the CRC-32 of a mask's bits, eight to a byte, of bytes, or of little-endian float32
    values."""
    if values.dtype == bool:
        return zlib.crc32(np.packbits(values))
    if values.dtype == np.uint8:
        return zlib.crc32(values)
    return zlib.crc32(np.ascontiguousarray(values, dtype="<f4"))


def read_root(path: Path, folder: Folder | None = None, layout: int = LAYOUT) -> dict[str, Any]:
    """Return the content of a store's zarr.json, in the open `folder` if there is one.

    Raises:
        StoreError: no store, not one of this pipeline's stores, or another layout version.
    """
    stage = KINDS.get(path.name.split(".")[0], MASKS).stage
    remedy = f"run: pipeline {stage} --dataset {path.absolute().parent.name}"
    try:
        root = json.loads(read_bytes("zarr.json" if folder else path / "zarr.json", folder))
        attrs, arrays = root["attributes"], root["consolidated_metadata"]["metadata"]
        _ = attrs["identity"], arrays[next(iter(KINDS[attrs["store"]].sums))]
        if attrs["layout"] == layout:
            return root
        message = f"the store has layout {attrs['layout']}, not {layout}"
        if attrs["layout"] == 1:
            remedy = f"pipeline convert {path} (nothing is computed again)"
    except (FileNotFoundError, NotADirectoryError):
        message = "no store here"
    except (OSError, ValueError, KeyError, TypeError):
        message = "its zarr.json is damaged, or not of one of this pipeline's stores"
        remedy = f"restore it (dvc checkout) and check its mode, or delete the store and {remedy}"
    raise StoreError(message, path=path, remedy=remedy)


def rebuild_of(path: Path) -> Path:
    """Return the hidden folder in which the store that replaces another one is made."""
    return path.with_name(f".{path.name}.rebuild")


def read_bytes(name: str | os.PathLike, folder: Folder | None = None) -> bytes:
    """Return the bytes of a file, by its path or by its name within an open folder."""
    if not isinstance(folder, int | None):
        return remote.read(folder / name)
    if remote.is_url(name):
        return remote.read(name)
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    with open(fd, "rb") as file:
        return file.read()


def read_if_there(path: Path) -> bytes:
    """Return the bytes of a file; none where it is absent."""
    with suppress(FileNotFoundError):
        return read_bytes(path)
    return b""


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files of a store (name -> content), each of which is old or new after a power cut.

    All are flushed to the disk before the first is renamed into place. At a URL each is replaced by
    itself: what a reader of the commit before does not need, so that the order does not matter.
    """
    if remote.is_url(folder):
        return remote.write({folder / name: content for name, content in files.items()})
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


def to_json(value: Any) -> bytes:
    """Return compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False).encode()


def make_index(kind: Kind, columns: Mapping[str, Any]) -> pa.Table:
    """Return an index as an Arrow table, sorted by image_id, so that the order does not tell how a
    store came about; columns that are not given have their default."""
    n = len(columns["image_id"])
    arrays = {
        name: pa.array(columns.get(name, [default] * n), pa.type_for_alias(dtype))
        for name, (dtype, default) in kind.columns.items()
    }
    return in_order(pa.table(arrays))


def in_order(index: pa.Table) -> pa.Table:
    """Return an index sorted by image_id, each column in one piece."""
    order = pc.sort_indices(index["image_id"])
    return index.take(order).combine_chunks()


def index_to_bytes(index: pa.Table) -> bytes:
    """Return the index as a Parquet file."""
    file = io.BytesIO()
    pq.write_table(index, file, compression="zstd")
    return file.getvalue()


def read_column(kind: Kind, data: bytes, name: str) -> pa.ChunkedArray:
    """Read a column of a Parquet file of `index_to_bytes`, possibly by a version without it."""
    # pyarrow starts no thread here: a short script that ends just then would be aborted
    # (apache/arrow#34314). `read_table`, and any reader of a Python file, start some.
    file = pq.ParquetFile(pa.BufferReader(data))
    if name in file.schema_arrow.names:
        return file.read([name], use_threads=False).combine_chunks()[name]
    dtype, default = kind.columns[name]
    scalar = pa.scalar(default, pa.type_for_alias(dtype))
    return pa.chunked_array([pa.repeat(scalar, file.metadata.num_rows)])


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column as a NumPy array; text as an object array of str."""
    return column.to_numpy(zero_copy_only=False)


def shown_columns(kind: Kind, index: pa.Table, rows: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the columns that plain readers see, one value per row of the data arrays.

    Rows that the index does not list have status "superseded", image_id "" and in_manifest False.
    """
    at = numbers(index["row"])
    for name in kind.shown:
        dtype, default = kind.columns[name]
        fill = {"status": "superseded", "in_manifest": False}.get(name, default)
        values = np.full(rows, fill, object if dtype == "string" else dtype)
        values[at] = numbers(index[name])
        yield name, values


LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
ZSTD = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
FIRST = {"string": {"name": "vlen-utf8", "configuration": {}}, "bool": {"name": "bytes"}}


def array_metadata(
    shape: Sequence[int],
    dtype: str,
    dims: Sequence[str],
    chunks: Sequence[int],
    codecs: list[dict[str, Any]],
    separator: str = "/",
) -> dict[str, Any]:
    """Return the Zarr v3 metadata of an array."""
    return {
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": separator}},
        "fill_value": {"string": "", "bool": False, "float32": "NaN"}.get(dtype, 0),
        "codecs": codecs,
        "attributes": {},
        "dimension_names": list(dims),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def write_array(
    files: dict[str, bytes],
    name: str,
    dtype: str,
    dims: tuple[str, ...],
    values: np.ndarray,
    old: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Add a small array's chunks and metadata to the files of a commit (name within the store ->
    content); return the metadata.

    Columns ("image",) are cut in chunks of `COLUMN_ROWS`, long ones in `COLUMN_CHUNKS`. Where the
    array is on disk with the metadata `old`, the new chunks get the other of two names, so that a
    reader of the present commit is not disturbed.
    """
    column = max(COLUMN_ROWS, _power_of_two(-(-len(values) // COLUMN_CHUNKS)))
    chunks = (column,) if dims == ("image",) else values.shape
    separator = "." if old and separator_of(old) == "/" else "/"
    for k in range(-(-len(values) // chunks[0])):
        part = values[k * chunks[0] : (k + 1) * chunks[0]]
        key = separator.join(map(str, ("c", k, *[0] * (len(dims) - 1))))
        files[f"{name}/{key}"] = _compress(_chunk(part, dtype, chunks))
    codecs = [FIRST.get(dtype, LITTLE), ZSTD]
    found = array_metadata(values.shape, dtype, dims, chunks, codecs, separator)
    files[f"{name}/zarr.json"] = to_json(found)
    return found


def separator_of(metadata: Mapping[str, Any]) -> str:
    """Return what stands between the numbers of an array's chunk keys."""
    return metadata["chunk_key_encoding"]["configuration"]["separator"]


def _power_of_two(n: int) -> int:
    """Return the smallest power of two that is not below n."""
    return 1 << max(0, n - 1).bit_length()


def _compress(data: bytes) -> bytes:
    return pa.Codec("zstd", compression_level=3).compress(data, asbytes=True)


def _chunk(values: np.ndarray, dtype: str, shape: tuple[int, ...]) -> bytes:
    if dtype == "string":
        texts = [str(v).encode() for v in values] + [b""] * (shape[0] - len(values))
        parts = (struct.pack("<I", len(text)) + text for text in texts)
        return struct.pack("<I", len(texts)) + b"".join(parts)
    padded = np.zeros(shape, np.dtype(dtype).newbyteorder("<"))
    padded[tuple(map(slice, values.shape))] = values
    return padded.tobytes()


@dataclass(frozen=True)
class DataArray:
    """An array in shards, with one row per image: bool rows in compressed tiles, other rows in one
    chunk, which compression would hardly make smaller."""

    name: str
    dims: tuple[str, ...]  # the first is "image"
    shape: tuple[int, ...]  # of a row; smaller ones are padded with fill values
    dtype: str
    chunk: tuple[int, ...]  # of a row
    rows: int  # per shard

    @classmethod
    def new(
        cls, name: str, dims: Sequence[str], chunk: Sequence[int], dtype: str, count: int = 0
    ) -> DataArray:
        """Return an array whose rows are single chunks (masks grow to their largest row), with
        shards of a suitable size for about `count` rows."""
        size = math.prod(chunk) * np.dtype(dtype).itemsize
        rows = max(SHARD_ROWS, _power_of_two(-(-count // SHARDS)))
        rows = rows if dtype == "bool" else max(1, min(rows, SHARD_BYTES // size))
        rows = 1 << (rows.bit_length() - 1)  # a power of two: shards of two arrays nest
        shape = (1,) * len(chunk) if dtype == "bool" else tuple(chunk)
        return cls(name, tuple(dims), shape, dtype, tuple(chunk), rows)

    def metadata(self, rows: int) -> dict[str, Any]:
        sharding = {
            "chunk_shape": [1, *self.chunk],
            "codecs": [FIRST["bool"], ZSTD] if self.dtype == "bool" else [LITTLE],
            "index_codecs": [LITTLE],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": sharding}]
        shape, chunks = (rows, *self.shape), (self.rows, *self.chunk)
        return array_metadata(shape, self.dtype, self.dims, chunks, codecs)

    def file(self, shard: int, cell: Cell) -> str:
        """Return the file of a shard."""
        return "/".join(map(str, (self.name, "c", shard, *cell)))

    def cells(self, shape: Sequence[int]) -> list[Cell]:
        """Return the chunks that a row of this shape occupies."""
        if shape == self.chunk:
            return [(0,) * len(shape)]
        return list(product(*(range(-(-n // c)) for n, c in zip(shape, self.chunk, strict=True))))

    def encode(self, values: np.ndarray) -> dict[Cell, bytes]:
        found = {}
        for cell in self.cells(values.shape):
            raw = _chunk(values[self._region(cell)], self.dtype, self.chunk)
            found[cell] = _compress(raw) if self.dtype == "bool" else raw
        return found

    def decode(self, chunks: Mapping[Cell, bytes], shape: Sequence[int]) -> np.ndarray:
        """Return the data of one row; OSError, ValueError or ArrowException: damaged chunks."""
        if self.dtype != "bool":
            (raw,) = chunks.values()
            return np.frombuffer(bytearray(raw), np.dtype(self.dtype).newbyteorder("<")).reshape(
                shape
            )
        out = np.empty(shape, bool)
        for cell, raw in chunks.items():
            raw = pa.decompress(raw, math.prod(self.chunk), codec="zstd", asbytes=True)
            region = out[self._region(cell)]
            tile = np.frombuffer(raw, np.uint8).reshape(self.chunk)
            # Not a view as bool: a damaged byte may be neither 0 nor 1.
            region[...] = tile[tuple(map(slice, region.shape))] != 0
        return out

    def _region(self, cell: Cell) -> tuple[slice, ...]:
        return tuple(slice(k * c, (k + 1) * c) for k, c in zip(cell, self.chunk, strict=True))


def data_arrays(kind: Kind, arrays: Mapping[str, Any]) -> dict[str, DataArray]:
    """Return the data arrays of a store by name, from its consolidated metadata."""
    found = {}
    for name in kind.sums:
        if name in arrays or not found:  # the first is always there
            metadata = arrays[name]
            rows, *chunk = metadata["chunk_grid"]["configuration"]["chunk_shape"]
            dims, shape = tuple(metadata["dimension_names"]), tuple(metadata["shape"][1:])
            found[name] = DataArray(name, dims, shape, metadata["data_type"], tuple(chunk), rows)
    return found


def write_rows(
    folder: Path, arrays: Mapping[str, DataArray], first: int, rows: Iterable[Data]
) -> None:
    """Write rows `first`, `first` + 1, ... into their shard files.

    They count once an index lists them. Rows before `first` in the same shard keep their bytes and
    offsets; what lies behind them (of a killed writer) is dropped. No lock is needed by processes
    that write different shards.
    """
    shards: dict[tuple[DataArray, int, Cell], dict[int, bytes]] = {}
    for number, data in enumerate(rows, first):
        for name, values in data.items():
            array = arrays[name]
            for cell, chunk in array.encode(values).items():
                key = array, number // array.rows, cell
                shards.setdefault(key, {})[number % array.rows] = chunk
    files = {}
    for (array, shard, cell), chunks in shards.items():
        file, kept = array.file(shard, cell), max(0, first - shard * array.rows)
        # Absent where no row before these reaches this tile, or where they are lost.
        old = read_if_there(folder / file) if kept else b""
        files[file] = extended(old, array.rows, kept, chunks)
    write_files(folder, files)


def chunks_of(shard: bytes, rows: int) -> dict[int, bytes]:
    """Return the chunks of a whole shard file of `rows` rows by position."""
    table = np.frombuffer(shard[-rows * ENTRY.size :], "<u8").reshape(rows, 2).tolist()
    return {k: shard[at : at + size] for k, (at, size) in enumerate(table) if at != EMPTY}


def extended(old: bytes, rows: int, kept: int, chunks: Mapping[int, bytes]) -> bytes:
    """Return a shard file of `rows` rows with `chunks` (position -> bytes) after the first `kept`
    rows of `old`. A file that is cut keeps what it can."""
    table, body = np.full((rows, 2), EMPTY, "<u8"), b""
    if len(old) >= table.nbytes:
        table[:kept] = np.frombuffer(old[-table.nbytes :], "<u8").reshape(rows, 2)[:kept]
        there = [int(a) + int(n) for a, n in table[:kept] if a != EMPTY]
        body = old[: -table.nbytes][: max(there, default=0)]
    parts, at = [body], len(body)
    for position, chunk in sorted(chunks.items()):
        table[position] = at, len(chunk)
        parts.append(chunk)
        at += len(chunk)
    return b"".join([*parts, table.tobytes()])
