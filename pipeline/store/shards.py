"""Shard files: the data of 256 rows in one file, in the format of Zarr's `sharding_indexed` codec.

A shard file is the concatenation of its inner chunks, one per row, and at its end a table with the
offset and size of each row's chunk (two little-endian uint64; all ones = no data).

    [row 0][row 1][row 2] ... [offset, size of row 0][offset, size of row 1] ... (256 entries)

Zarr and xarray read these files by themselves. This module writes them because the last shard of
a store must grow without moving the rows in it (see `layout`), and reads them because it must tell
a file that is lost from a row without data, which Zarr cannot.

A table entry that is damaged spoils its own row only: that row then fails its checksum. So does a
damaged chunk. The codec's own checksum over the whole table is left out, since it would turn one
damaged byte into 256 lost rows.

Reference: Zarr v3 specification, sharding codec version 1.0.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.store.layout import (
    GOOD,
    Data,
    Kind,
    Row,
    array_metadata,
    codecs_of,
    read_bytes,
    write_files,
)

SHARD_ROWS = 256
SHARD_BYTES = 64 << 20
TILE = 1024
ENTRY = struct.Struct("<QQ")
EMPTY = 2**64 - 1

Cell = tuple[int, ...]
"""Position of a chunk within a row: which tile of a large mask; (0, 0) where there is only one."""

Encoded = dict[str, dict[Cell, bytes]]
"""Chunks of one row by array name."""


@dataclass(frozen=True)
class DataArray:
    """An array with one row per image.

    Args:
        name: array and folder name.
        dims: names of its dimensions; the first is "image".
        shape: shape of a row; smaller rows are padded with fill values.
        dtype: Zarr data type.
        chunk: shape of an inner chunk within a row.
        rows: rows per shard.
        compressed: zstd, or raw bytes (float features hardly compress).
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    chunk: tuple[int, ...]
    rows: int
    compressed: bool

    @staticmethod
    def new(
        name: str, dims: Sequence[str], shape: Sequence[int], dtype: str, *, compressed: bool
    ) -> DataArray:
        """Return an array whose rows are single chunks, with shards of a suitable size."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        rows = SHARD_ROWS if compressed else max(1, min(SHARD_ROWS, SHARD_BYTES // size))
        rows = 1 << (rows.bit_length() - 1)  # a power of two: shards of two arrays nest
        return DataArray(name, tuple(dims), tuple(shape), dtype, tuple(shape), rows, compressed)

    @staticmethod
    def of(name: str, metadata: Mapping[str, Any]) -> DataArray:
        """Return the array with these Zarr metadata."""
        shards = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        inner = metadata["codecs"][0]["configuration"]["codecs"]
        return DataArray(
            name,
            tuple(metadata["dimension_names"]),
            tuple(metadata["shape"][1:]),
            metadata["data_type"],
            tuple(shards[1:]),
            shards[0],
            len(inner) > 1,
        )

    def metadata(self, rows: int) -> dict[str, Any]:
        """Return the Zarr metadata of the array with this number of rows."""
        sharding = {
            "chunk_shape": [1, *self.chunk],
            "codecs": codecs_of(self.dtype, self.compressed),
            "index_codecs": codecs_of("uint64", False),
            "index_location": "end",
        }
        return array_metadata(
            (rows, *self.shape),
            self.dtype,
            self.dims,
            (self.rows, *self.chunk),
            [{"name": "sharding_indexed", "configuration": sharding}],
        )

    def file(self, row: int, cell: Cell) -> str:
        """Return the name of the shard file that holds a chunk of a row."""
        return "/".join(map(str, (self.name, "c", row // self.rows, *cell)))

    def cells(self, shape: Sequence[int]) -> list[Cell]:
        """Return the chunks that a row of this shape occupies."""
        return list(product(*(range(-(-n // c)) for n, c in zip(shape, self.chunk, strict=True))))

    def encode(self, values: np.ndarray) -> dict[Cell, bytes]:
        """Return the chunks of one row."""
        chunks = {}
        for cell in self.cells(values.shape):
            part = values[self._region(cell)]
            full = np.zeros(self.chunk, np.dtype(self.dtype).newbyteorder("<"))
            full[tuple(map(slice, part.shape))] = part
            chunks[cell] = _compress(full.tobytes()) if self.compressed else full.tobytes()
        return chunks

    def decode(self, chunks: Mapping[Cell, bytes], shape: Sequence[int]) -> np.ndarray:
        """Return the data of one row from its chunks; ValueError when they are damaged."""
        dtype = np.dtype(self.dtype).newbyteorder("<")
        size = int(np.prod(self.chunk)) * dtype.itemsize
        out = np.empty(shape, self.dtype)
        for cell, chunk in chunks.items():
            try:
                raw = (
                    pa.decompress(chunk, size, codec="zstd", asbytes=True)
                    if self.compressed
                    else chunk
                )
            except (OSError, pa.ArrowException) as error:
                raise ValueError(str(error)) from None
            if len(raw) != size:
                raise ValueError(f"a chunk has {len(raw)} bytes, not {size}")
            region = out[self._region(cell)]
            full = np.frombuffer(raw, dtype).reshape(self.chunk)
            if self.dtype == "bool":
                full = full.view(np.uint8) != 0  # a damaged byte may be neither 0 nor 1
            region[...] = full[tuple(map(slice, region.shape))]
        return out

    def _region(self, cell: Cell) -> tuple[slice, ...]:
        return tuple(slice(k * c, (k + 1) * c) for k, c in zip(cell, self.chunk, strict=True))


def _compress(data: bytes) -> bytes:
    return pa.Codec("zstd", compression_level=3).compress(data, asbytes=True)


def data_arrays(kind: Kind, metadata: Mapping[str, Any]) -> dict[str, DataArray]:
    """Return the data arrays of a store by name, from its consolidated metadata."""
    return {name: DataArray.of(name, metadata[name]) for name in kind.sums if name in metadata}


# -- writing ----------------------------------------------------------------------------------


def write_rows(
    folder: Path, arrays: Mapping[str, DataArray], first: int, rows: Sequence[Data | Encoded]
) -> None:
    """Write rows `first`, `first` + 1, ... into their shard files.

    Rows before `first` in the same shard keep their bytes and offsets; what lies behind them (of a
    killed writer) is dropped. The rows count once an index lists them. No lock is needed by
    processes that write different shards.

    Args:
        folder: the store.
        arrays: its data arrays.
        first: number of the first row.
        rows: data by array name, or encoded chunks by array name; {} for a row without data.
    """
    files: dict[str, dict[int, bytes]] = {}
    of_file: dict[str, DataArray] = {}
    for number, data in enumerate(rows, first):
        for name, values in data.items():
            array = arrays[name]
            chunks = values if isinstance(values, dict) else array.encode(values)
            for cell, chunk in chunks.items():
                file = array.file(number, cell)
                of_file[file] = array
                files.setdefault(file, {})[number % array.rows] = chunk
    content = {}
    for file, chunks in files.items():
        array = of_file[file]
        shard = int(file.split("/")[2])
        kept = max(0, min(first - shard * array.rows, array.rows))
        old = b""
        if kept:
            # Absent where no row before these reaches this tile, or where they are lost.
            with suppress(FileNotFoundError):
                old = read_bytes(folder / file)
        content[file] = extended(old, array.rows, kept, chunks)
    write_files(folder, content)


def extended(old: bytes, rows: int, kept: int, chunks: Mapping[int, bytes]) -> bytes:
    """Return a shard file with `chunks` after the first `kept` rows of `old`.

    Args:
        old: the file as it is, b"" for none. A file that is cut keeps what it can.
        rows: rows per shard.
        kept: rows of `old` that count.
        chunks: position in the shard -> chunk.
    """
    table = np.full((rows, 2), EMPTY, "<u8")
    body = b""
    if len(old) >= table.nbytes:
        body = old[: -table.nbytes]
        table[:kept] = np.frombuffer(old[-table.nbytes :], "<u8").reshape(rows, 2)[:kept]
        there = [int(a) + int(n) for a, n in table[:kept] if a != EMPTY]
        body = body[: max(there, default=0)]
    parts, at = [body], len(body)
    for position in sorted(chunks):
        table[position] = at, len(chunks[position])
        parts.append(chunks[position])
        at += len(chunks[position])
    return b"".join([*parts, table.tobytes()])


# -- reading ----------------------------------------------------------------------------------


class RowReader:
    """Reads rows' data and compares them with their checksums.

    Args:
        folder: file descriptor of the store's folder.
        kind: kind of the store.
        arrays: its data arrays.
    """

    def __init__(self, folder: int, kind: Kind, arrays: Mapping[str, DataArray]):
        self.folder, self.kind, self.arrays = folder, kind, arrays

    def files(self, row: Row) -> list[str]:
        """Return the names of the files that a row lies in."""
        return [
            array.file(row["row"], cell)
            for array in self.arrays.values()
            for cell in array.cells(self.kind.shape(row) or array.shape)
        ]

    def lost(self, row: Row, known: dict[str, bool] | None = None) -> bool:
        """Whether a file of a row is missing. `known` remembers files from row to row."""
        known = {} if known is None else known
        for file in self.files(row):
            if file not in known:
                try:
                    os.stat(file, dir_fd=self.folder)
                    known[file] = True
                except (FileNotFoundError, NotADirectoryError):
                    known[file] = False
            if not known[file]:
                return True
        return False

    def read(self, row: Row, cache: dict[str, bytes] | None = None) -> Data | None:
        """Return the data of a row, or None when they are lost or damaged.

        Args:
            row: its index values.
            cache: whole files by name, for reading many rows of a shard; None reads the row alone.
        """
        data = {}
        try:
            for name, array in self.arrays.items():
                shape = self.kind.shape(row) or array.shape
                chunks = {c: self._chunk(array, row["row"], c, cache) for c in array.cells(shape)}
                data[name] = array.decode(chunks, shape)
        except (OSError, ValueError):
            return None
        return data if self.kind.matches(data, row) else None

    def read_many(self, rows: Sequence[Row]) -> Iterator[tuple[int, Data | None]]:
        """Yield (position in `rows`, data or None) shard by shard, each file read once."""
        if not rows:
            return
        step = next(iter(self.arrays.values())).rows
        cache: dict[str, bytes] = {}
        shard = None
        for k in sorted(range(len(rows)), key=lambda k: rows[k]["row"]):
            if rows[k]["row"] // step != shard:
                shard = rows[k]["row"] // step
                cache.clear()
            yield k, self.read(rows[k], cache)

    def read_fixed(
        self, name: str, numbers: Sequence[int], checksums: Sequence[int], part: int
    ) -> tuple[np.ndarray, list[int]]:
        """Read one part of many rows of an uncompressed array, each file once.

        Args:
            name: the array.
            numbers: row numbers.
            checksums: of the whole rows, in the same order.
            part: index along the first axis of a row (the view).

        Returns:
            (len(numbers), ...) values, and the positions of rows that are lost or damaged.
        """
        array = self.arrays[name]
        out = np.empty((len(numbers), *array.shape[1:]), array.dtype)
        size = int(np.prod(array.shape)) * out.itemsize
        bad, shard, file, table = [], None, b"", []
        for k in sorted(range(len(numbers)), key=numbers.__getitem__):
            if numbers[k] // array.rows != shard:
                shard = numbers[k] // array.rows
                try:
                    file = read_bytes(array.file(numbers[k], (0,) * len(array.shape)), self.folder)
                    table = list(ENTRY.iter_unpack(file[-array.rows * ENTRY.size :]))
                except (OSError, struct.error):
                    file, table = b"", []
            start, _ = table[numbers[k] % array.rows] if len(table) == array.rows else (0, 0)
            chunk = file[start : start + size]
            if len(chunk) == size and zlib.crc32(chunk) == checksums[k]:
                out[k] = np.frombuffer(chunk, "<f4").reshape(array.shape)[part]
            else:
                bad.append(k)
        return out, bad

    def raw(self, row: Row) -> Encoded:
        """Return the encoded chunks of a row by array name, unchecked."""
        return {
            name: {
                cell: self._chunk(array, row["row"], cell, None)
                for cell in array.cells(self.kind.shape(row) or array.shape)
            }
            for name, array in self.arrays.items()
        }

    def broken(self, rows: Sequence[Row], *, verify: bool) -> tuple[set[int], set[int]]:
        """Return the positions of good rows that are lost, and (if `verify`) those damaged."""
        good = [k for k, row in enumerate(rows) if row["status"] in GOOD]
        known: dict[str, bool] = {}
        lost = {k for k in good if self.lost(rows[k], known)}
        if not verify:
            return lost, set()
        there = [k for k in good if k not in lost]
        found = self.read_many([rows[k] for k in there])
        return lost, {there[j] for j, data in found if data is None}

    def _chunk(
        self, array: DataArray, row: int, cell: Cell, cache: dict[str, bytes] | None
    ) -> bytes:
        name, position = array.file(row, cell), row % array.rows
        back = (array.rows - position) * ENTRY.size
        if cache is not None:
            if name not in cache:
                cache[name] = read_bytes(name, self.folder)
            file = cache[name]
            start, size = _entry(file[len(file) - back :][: ENTRY.size], len(file) - back)
            return file[start : start + size]
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.folder)
        try:
            table = os.fstat(fd).st_size - back
            if table < 0:
                raise ValueError("the file is too short")
            start, size = _entry(os.pread(fd, ENTRY.size, table), table)
            return os.pread(fd, size, start)
        finally:
            os.close(fd)


def _entry(entry: bytes, end: int) -> tuple[int, int]:
    """Return offset and size of a chunk; ValueError when the entry cannot be right."""
    if end < 0 or len(entry) != ENTRY.size:
        raise ValueError("the file is too short")
    start, size = ENTRY.unpack(entry)
    if start + size > end:
        raise ValueError("no chunk of this row")
    return start, size
