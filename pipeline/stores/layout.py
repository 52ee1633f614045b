"""How a store lies on disk: arrays, their chunks and shards, the root that commits them.

    masks.zarr/zarr.json        root: attributes + consolidated metadata, replaced last = commit
    masks.zarr/mask/c/...       data shards, each the work of many rows
    masks.zarr/<column>/c/0     index columns, one chunk for thousands of rows

A row exists when the root's array length covers it. Every file is written beside and renamed
over the old one, so a hard or symbolic link to an older file keeps the older bytes.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from pipeline.errors import StoreError
from pipeline.files import atomic_write

LAYOUT = 1
"""Version of this layout, in every root."""

INDEX_CHUNK = 16384
"""Rows a chunk of an index column: one file a column for any usual dataset."""


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


class DurableStore(LocalStore):
    """Zarr's local store, with every file flushed to disk before it is renamed into place.

    LocalStore writes beside and renames, but leaves the bytes in the system's cache: after a
    power cut the newer root could then point to shards that are not there.
    """

    async def _set(self, key: str, value: Buffer, exclusive: bool = False) -> None:
        if exclusive:
            await super()._set(key, value, exclusive)
            return
        self._check_writable()
        await asyncio.to_thread(_write_file, self.root / key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        self._check_writable()
        _write_file(self.root / key, value)


def _write_file(path: Path, value: Buffer) -> None:
    with atomic_write(path) as partial:
        partial.write_bytes(value.as_buffer_like())


def create_array(root: Path, spec: ArraySpec) -> zarr.Array:
    """Create one array, without touching the root."""
    fill = {} if spec.fill is None else {"fill_value": spec.fill}
    return zarr.create_array(
        DurableStore(root / spec.name),
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=spec.chunks,
        shards=spec.shards,
        compressors=ZstdCodec(level=3),
        dimension_names=spec.dims,
        zarr_format=3,
        overwrite=True,
        # An absent file must mean "lost", never "all zeros".
        config={"write_empty_chunks": True},
        **fill,
    )


def open_array(root: Path, name: str) -> zarr.Array:
    """Open one array for writing."""
    array = zarr.open_array(DurableStore(root / name), mode="r+")
    return array.with_config({"write_empty_chunks": True})


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
    for folder, _, names in os.walk(root):
        for name in names:
            if ".partial" in name:
                Path(folder, name).unlink(missing_ok=True)
