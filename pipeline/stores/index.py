"""The row index of a store: one column an array, one checksum over all of them.

The columns are separate files. Rows are appended in place, since nobody reads past the length
that the root states; when rows change (a redone row, a new label), all columns are written to
other files first (`layout.moved`) and the root, replaced last, names those. So whatever reads
through the root sees one moment, also after a kill. A reader that two such changes overtake
compares the root's checksum over all rows and reads again.
"""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from zarr.core.sync import sync
from zarr.storage import LocalStore

from pipeline.errors import StoreError
from pipeline.stores.layout import (
    INDEX_CHUNK,
    ArraySpec,
    TrackedStore,
    array_of,
    read_root,
    write_metadata,
)

Columns = Mapping[str, tuple[str, Any]]
"""Index columns: name -> (dtype, value where a row has none)."""

COMMON: dict[str, tuple[str, Any]] = {
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
"""Columns of both stores."""

GOOD = ("ok", "empty", "full")
"""Statuses of rows that have data. The others: "failed" (see reason), "pending" (being redone)."""


PATIENCE = 3.0
"""Seconds for which a reader that a writer overtakes reads again before it speaks of damage."""


class Index:
    """The index in memory: a list a column, and each id's row.

    Args:
        columns: name -> (dtype, default).
        rows: name -> values, all of one length.
    """

    def __init__(self, columns: Columns, rows: Mapping[str, Any] | None = None):
        self.columns = dict(columns)
        self.rows = {n: list(rows[n]) if rows else [] for n in self.columns}
        self.position = {image_id: i for i, image_id in enumerate(self.rows["image_id"])}

    def __len__(self) -> int:
        return len(self.rows["image_id"])

    def get(self, i: int) -> dict[str, Any]:
        return {name: values[i] for name, values in self.rows.items()}

    def set(self, i: int, values: Mapping[str, Any]) -> None:
        """Change some columns of row i; i = len appends (other columns get their default)."""
        if i == len(self):
            for name, (_, default) in self.columns.items():
                self.rows[name].append(values.get(name, default))
            self.position[values["image_id"]] = i
            return
        for name, value in values.items():
            self.rows[name][i] = value

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the columns as arrays (text as object arrays of str)."""
        return {
            name: np.array(self.rows[name], dtype=object if dtype == "string" else dtype)
            for name, (dtype, _) in self.columns.items()
        }

    def frame(self) -> pd.DataFrame:
        """Return a table, one row an image, indexed by image_id."""
        return pd.DataFrame(self.arrays()).set_index("image_id")


def checksum(columns: Mapping[str, np.ndarray]) -> int:
    """CRC-32 over columns in name order; text and numbers both bit for bit."""
    crc = 0
    for name in sorted(columns):
        values = columns[name]
        if values.dtype.kind == "O":
            data = json.dumps(values.tolist()).encode("utf-8", "surrogatepass")
        else:
            data = np.ascontiguousarray(values).tobytes()
        crc = zlib.crc32(data, zlib.crc32(name.encode(), crc))
    return crc


def column_spec(name: str, dtype: str) -> ArraySpec:
    """Return the array of an index column."""
    return ArraySpec(name, ("image",), (0,), dtype, (INDEX_CHUNK,))


@dataclass
class Committed:
    """What a reader sees: root JSON and index of one moment."""

    root: dict[str, Any]
    index: Index

    @property
    def attrs(self) -> dict[str, Any]:
        return self.root["attributes"]


def load(path: Path, columns: Columns, *, patience: float = PATIENCE) -> Committed:
    """Read root and index of one and the same moment.

    Args:
        path: the store.
        columns: its index columns.
        patience: seconds to wait for a writer that is just replacing columns.

    Raises:
        StoreError: the index is lost or damaged.
    """
    end = time.monotonic() + patience
    while True:
        root = read_root(path)
        found = read_columns(path, root, columns)
        if found is not None:
            return Committed(root, found)
        if time.monotonic() > end:
            raise StoreError(
                "the row index is lost or damaged",
                path=path,
                remedy="restore it (dvc checkout), or run the stage again with --force",
            )
        time.sleep(0.05)


def read_columns(path: Path, root: dict, columns: Columns) -> Index | None:
    """Return the index that `root` commits, or None where the columns do not match it.

    A column that a store of an earlier version lacks has its default in every row.
    """
    metadata = root["consolidated_metadata"]["metadata"]
    if "image_id" not in metadata:
        return None
    there = {name: spec for name, spec in columns.items() if name in metadata}
    n = metadata["image_id"]["shape"][0]
    store = LocalStore(path, read_only=True)
    try:
        arrays = {
            name: array_of(store, name, metadata[name])[:n] if n else np.zeros(0) for name in there
        }
    except Exception:
        # Missing metadata, bytes that no codec takes: whatever it is, this index is not usable.
        return None
    if any(len(values) != n for values in arrays.values()):
        return None
    index = Index(there, {name: values.tolist() for name, values in arrays.items()})
    if checksum(index.arrays()) != root["attributes"].get("index_crc"):
        return None
    later = {name: [default] * n for name, (_, default) in columns.items() if name not in there}
    return Index(columns, index.rows | later) if later else index


def write_columns(
    store: TrackedStore, metadata: Mapping[str, dict], index: Index, start: int
) -> None:
    """Write all columns from row `start` on (rounded down to a whole chunk).

    Args:
        store: of the folder that is written.
        metadata: of the columns, with their new length.
    """
    start -= start % INDEX_CHUNK
    columns = index.arrays()

    async def write() -> None:
        writes = [
            array_of(store, name, metadata[name]).async_array.setitem(
                slice(start, len(index)), values[start:]
            )
            for name, values in columns.items()
        ]
        await asyncio.gather(*writes)

    if start < len(index):
        sync(write())
    for name in columns:
        write_metadata(store, name, metadata[name])
