"""The index of a store: for every image the number of its row, its status and its checksum.

On disk it is one Parquet file that is never changed. For plain Zarr readers some of its columns
are also written as Zarr arrays, one value per row of the data arrays.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.layout import Columns, Kind, Row, array_metadata, codecs_of

COLUMN_ROWS = 16384
"""Rows per chunk of a column for plain readers: one file per column for most datasets."""


class Index:
    """The index in memory, one list per column.

    Args:
        columns: name -> (data type, default), without the row number.
        values: name -> values, all of the same length; a missing column has its default.
    """

    def __init__(self, columns: Columns, values: Mapping[str, list] | None = None):
        self.columns: Columns = {**columns, "row": ("int64", -1)}
        n = len(values["image_id"]) if values else 0
        self.values: dict[str, list] = {
            name: list(values[name]) if values and name in values else [default] * n
            for name, (_, default) in self.columns.items()
        }
        self.position = {image_id: i for i, image_id in enumerate(self.values["image_id"])}

    def __len__(self) -> int:
        return len(self.values["image_id"])

    def get(self, i: int) -> Row:
        """Return the values of entry i."""
        return {name: values[i] for name, values in self.values.items()}

    def rows(self) -> list[Row]:
        """Return all entries."""
        names = list(self.values)
        return [dict(zip(names, v, strict=True)) for v in zip(*self.values.values(), strict=True)]

    def set(self, row: Row) -> None:
        """Add the entry of an image, or replace it; its place in the order stays."""
        i = self.position.get(row["image_id"])
        if i is None:
            self.position[row["image_id"]] = len(self)
            for name, (_, default) in self.columns.items():
                self.values[name].append(row.get(name, default))
        else:
            for name, (_, default) in self.columns.items():
                self.values[name][i] = row.get(name, default)

    def frame(self) -> pd.DataFrame:
        """Return a table indexed by image_id, without the row numbers."""
        columns = {
            name: np.array(self.values[name], dtype=object if dtype == "string" else dtype)
            for name, (dtype, _) in self.columns.items()
            if name != "row"
        }
        return pd.DataFrame(columns).set_index("image_id")

    def to_bytes(self) -> bytes:
        """Return the index as a Parquet file."""
        types = {name: pa.type_for_alias(dtype) for name, (dtype, _) in self.columns.items()}
        table = pa.table({name: pa.array(self.values[name], types[name]) for name in types})
        file = io.BytesIO()
        pq.write_table(table, file, compression="zstd")
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, columns: Columns) -> Index:
        """Read a Parquet file written by `to_bytes`, possibly by a version with fewer columns."""
        # pyarrow starts no thread here: a short script that ends just then would be aborted
        # (apache/arrow#34314). `read_table`, and any reader of a Python file, start some.
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        values = {
            name: table[name].to_numpy(zero_copy_only=False).tolist() for name in table.column_names
        }
        return cls(columns, values)


def index_name(data: bytes) -> tuple[str, int]:
    """Return the name of an index file and the checksum of its bytes."""
    crc = zlib.crc32(data)
    return f"index-{crc:08x}.parquet", crc


def shown_columns(kind: Kind, index: Index, rows: int) -> dict[str, np.ndarray]:
    """Return the columns that plain readers see, one value per row of the data arrays.

    Rows that the index does not list have status "superseded", image_id "" and in_manifest False.
    """
    at = np.array(index.values["row"], dtype=np.int64)
    columns = {}
    for name in kind.shown:
        dtype, default = kind.columns[name]
        fill = {"status": "superseded", "in_manifest": False}.get(name, default)
        columns[name] = np.full(rows, fill, object if dtype == "string" else dtype)
        columns[name][at] = index.values[name]
    return columns


def write_column(
    files: dict[str, bytes],
    name: str,
    dtype: str,
    values: np.ndarray,
    *,
    dims: tuple[str, ...] = ("image",),
    chunks: tuple[int, ...] | None = None,
    old: np.ndarray | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Add an array's chunks to the files to be written; return its Zarr metadata.

    Args:
        files: name within the store -> content; the new files are added.
        name: of the array.
        dtype: Zarr data type.
        values: the array.
        dims: names of its dimensions.
        chunks: chunk shape; by default `COLUMN_ROWS` rows.
        old: the values on disk, None when unknown. Where `values` extends them, only the chunks
            from the first new value on are written.
        metadata: Zarr metadata of the array on disk. Where its values change, the new chunks get
            the other of two names, so that a reader of the present commit is not disturbed.
    """
    chunks = chunks or (COLUMN_ROWS,)
    separator, first = "/", 0
    if metadata is not None:
        separator = metadata["chunk_key_encoding"]["configuration"]["separator"]
        if old is not None and len(old) <= len(values) and (old == values[: len(old)]).all():
            first = len(old) // chunks[0]
            if len(old) == len(values):
                return dict(metadata)
        else:
            separator = "." if separator == "/" else "/"
    for k in range(first, -(-len(values) // chunks[0])):
        part = values[k * chunks[0] : (k + 1) * chunks[0]]
        key = separator.join(map(str, ("c", k, *[0] * (len(dims) - 1))))
        files[f"{name}/{key}"] = _encode(part, dtype, chunks)
    return array_metadata(values.shape, dtype, dims, chunks, codecs_of(dtype), separator)


def _encode(values: np.ndarray, dtype: str, chunks: tuple[int, ...]) -> bytes:
    """Return one chunk, padded to its full shape."""
    if dtype == "string":
        texts = [str(v).encode() for v in values]
        texts += [b""] * (chunks[0] - len(texts))
        raw = b"".join(
            [struct.pack("<I", len(texts)), *(struct.pack("<I", len(t)) + t for t in texts)]
        )
    else:
        full = np.zeros(chunks, np.dtype(dtype).newbyteorder("<"))
        full[tuple(map(slice, values.shape))] = values
        raw = full.tobytes()
    return pa.Codec("zstd", compression_level=3).compress(raw, asbytes=True)
