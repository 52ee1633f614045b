"""How a store lies on disk: arrays, their chunks and shards, the root that commits them.

    masks.zarr/zarr.json        root: attributes + consolidated metadata, replaced last = commit
    masks.zarr/mask/c/...       data shards, each the work of many rows
    masks.zarr/<column>/c/0     index columns, one chunk for thousands of rows
    masks.zarr/<column>/c.0     their version before or after; the root says which one counts

A row exists when the root's array length covers it. Every file is written beside and renamed
over the old one, so a hard or symbolic link to an older file keeps the older bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore, MemoryStore, StorePath

from pipeline.errors import StoreError
from pipeline.io import atomic_write

LAYOUT = 1
"""Version of this layout, in every root."""

INDEX_CHUNK = 16384
"""Rows a chunk of an index column: one file a column for any usual dataset."""


MENDED = ".mended"
"""Folder inside a store in which the files of a damaged shard are made anew."""


@dataclass(frozen=True)
class ArraySpec:
    """An array of a store.

    Args:
        name: array and folder name.
        dims: names of its dimensions; the first of a row array is "image".
        shape: its full shape.
        dtype: a Zarr v3 data type that needs no extension (no warning when opened).
        chunks, shards: shapes; no shards = one file a chunk.
        fill: what unwritten places read as.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    fill: Any = None


class TrackedStore(LocalStore):
    """Zarr's local store, which writes beside and renames, and remembers which files it wrote.

    LocalStore leaves the bytes in the system's cache; a commit flushes them all at once before
    the root, so that not even a power cut leaves a root that points to nothing.
    """

    def __init__(self, root: Path, *, read_only: bool = False):
        super().__init__(root, read_only=read_only)
        self.written: set[Path] = set()

    async def _set(self, key: str, value: Buffer, exclusive: bool = False) -> None:
        await super()._set(key, value, exclusive)
        self.written.add(self.root / key)

    def set_sync(self, key: str, value: Buffer) -> None:
        super().set_sync(key, value)
        self.written.add(self.root / key)

    def flush(self) -> None:
        """Make all files written so far durable; together, since a disk takes many at once."""
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(_flush_file, self.written))
        self.written.clear()


def _flush_file(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return  # replaced or removed since
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def new_metadata(spec: ArraySpec) -> dict[str, Any]:
    """Return the Zarr v3 metadata of an array; nothing is written."""
    array = zarr.create_array(
        MemoryStore(),
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=spec.chunks,
        shards=spec.shards,
        compressors=ZstdCodec(level=3),
        dimension_names=spec.dims,
        zarr_format=3,
        **({} if spec.fill is None else {"fill_value": spec.fill}),
    )
    return json.loads(json.dumps(array.metadata.to_dict(), default=_plain))


def moved(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return an array's metadata with its chunks in other files: `c/0` becomes `c.0`, or back.

    So the next version of an array is written beside the one that the root commits, and stays
    unseen until the root, which is replaced last, names the other files.
    """
    separator = metadata["chunk_key_encoding"]["configuration"]["separator"]
    configuration = {"separator": {"/": ".", ".": "/"}[separator]}
    return {
        **metadata,
        "chunk_key_encoding": {"name": "default", "configuration": configuration},
    }


def array_of(store: LocalStore, name: str, metadata: Mapping[str, Any]) -> zarr.Array:
    """Return an array by its metadata, without reading or writing a file.

    Empty chunks are written too: an absent file must mean "lost", never "all zeros".
    """
    return zarr.Array(
        zarr.AsyncArray(
            metadata=dict(metadata),
            store_path=StorePath(store, name),
            config={"write_empty_chunks": True},
        )
    )


def write_metadata(store: TrackedStore, name: str, metadata: Mapping[str, Any]) -> None:
    """Replace an array's own zarr.json."""
    path = store.root / name / "zarr.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".zarr.{os.getpid()}.partial.json")
    partial.write_text(json.dumps(metadata, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)
    store.written.add(path)


def read_root(path: Path) -> dict[str, Any]:
    """Return the root's JSON.

    Raises:
        StoreError: no store, no store of ours, or a newer layout.
    """
    stage = {"masks": "segment", "features": "encode"}.get(path.name.split(".")[0], "segment")
    remedy = f"run: pipeline {stage} --dataset {path.absolute().parent.name}"
    try:
        root = json.loads((path / "zarr.json").read_bytes())
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
        layout = root["attributes"]["layout"]
        _ = root["consolidated_metadata"]["metadata"], root["attributes"]["identity"]
    except (KeyError, TypeError):
        raise StoreError(
            "a Zarr group, but none of this pipeline's stores", path=path, remedy=remedy
        ) from None
    if layout != LAYOUT:
        raise StoreError(
            f"layout {layout}, this version reads {LAYOUT}",
            path=path,
            remedy=f"delete the store and {remedy}",
        )
    return root


def make_root(attrs: Mapping[str, Any], arrays: Mapping[str, dict]) -> dict[str, Any]:
    """Return a root's JSON: group attributes and the metadata of all arrays in one place."""
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


def write_json(path: Path, value: Any) -> None:
    """Replace one JSON file, flushed to disk."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(value, default=_plain, ensure_ascii=False), encoding="utf-8")


def _plain(value: Any) -> Any:
    """Arrays' metadata holds enums and NumPy scalars; JSON takes neither."""
    return value.item() if isinstance(value, np.generic) else getattr(value, "value", str(value))


def remove_partials(root: Path) -> None:
    """Remove half-written files that a killed writer left."""
    shutil.rmtree(root / MENDED, ignore_errors=True)
    for folder, _, names in os.walk(root):
        for name in names:
            if ".partial" in name:
                Path(folder, name).unlink(missing_ok=True)
