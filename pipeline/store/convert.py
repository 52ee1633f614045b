"""Convert a store of layout 1, which kept every index column as a Zarr array."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StoreError
from pipeline.io import ProcessLock, writing
from pipeline.store.folders import Folders
from pipeline.store.layout import GOOD, kind_of, read_root
from pipeline.store.shards import SHARD_ROWS
from pipeline.store.writer import FeatureStoreWriter, MaskStoreWriter, StoreWriter, WorkItem


def convert_store(path: str | PathLike) -> int:
    """Convert a store of layout 1 to the present layout; its rows keep their keys and checksums.

    The new store is made next to the old one and replaces it when complete. Rows that are lost or
    damaged are left out, so that the next run of the stage computes them.

    Returns:
        The number of rows converted.

    Raises:
        StoreError: not a store of layout 1, or its index is damaged.
    """
    path = Path(path)
    with ProcessLock(path.with_name(path.name + ".lock")):
        folders = Folders(path)
        folders.recover()
        return convert_open(path, folders)


def convert_open(path: Path, folders: Folders) -> int:
    """`convert_store` for a caller who holds the lock."""
    import zarr

    root = read_root(path, layout=1)
    attrs = root["attributes"]
    kind = kind_of(path, root)
    with writing(path):
        folders.clear(folders.compact)
    try:
        old = zarr.open_group(path, mode="r", use_consolidated=True)
        columns = {name: old[name][...].tolist() for name in kind.columns if name in old}
    except Exception as error:  # whatever a codec makes of damaged bytes
        raise StoreError(
            f"the row index is lost or damaged: {error}",
            path=path,
            remedy="restore it (dvc checkout), or run the stage again with --force",
        ) from None
    writer = _writer(folders, attrs)
    items = [
        WorkItem("", "", path, 0, {"height": h, "width": w})
        for h, w in zip(columns.get("height", []), columns.get("width", []), strict=True)
    ]
    writer._create(items)
    arrays = {name: old[name] for name in kind.sums if name in old}
    n, done = len(columns["image_id"]), 0
    for low in range(0, n, SHARD_ROWS):
        high = min(low + SHARD_ROWS, n)
        blocks: dict[str, Any] = {}
        if kind.name == "features":
            blocks = {name: _read(array, slice(low, high)) for name, array in arrays.items()}
        for i in range(low, high):
            row = {name: default for name, (_, default) in kind.columns.items()}
            row |= {name: values[i] for name, values in columns.items()}
            data = {}
            if row["status"] in GOOD:
                for name, array in arrays.items():
                    block = blocks.get(name)
                    region = (i, *map(slice, kind.shape(row) or ()))
                    data[name] = _read(array, region) if block is None else block[i - low]
                if any(v is None for v in data.values()) or not kind.matches(data, row):
                    continue
            elif row["status"] != "failed":
                continue  # interrupted while it was computed again
            writer.put_row(row, data)
            done += 1
        writer.flush()
    if attrs.get("text_crc") is not None:
        _convert_text(writer, old, attrs)
    writer.commit()
    with writing(path):
        folders.replace(folders.compact)
    return done


def _read(array: Any, region: Any) -> np.ndarray | None:
    try:
        return np.asarray(array[region])
    except Exception:  # whatever a codec makes of damaged bytes
        return None


def _writer(folders: Folders, attrs: dict[str, Any]) -> StoreWriter:
    """Return a writer of the new store; the lock is held already."""
    identity = dict(attrs["identity"])
    if attrs["store"] == "masks":
        writer: StoreWriter = MaskStoreWriter(folders.compact, identity)
    else:
        own = {name: identity[name] for name in ("views", "dim", "tokens")}
        writer = FeatureStoreWriter(folders.compact, identity, **own)
    derived = ("index_crc", "text_crc", "text_identity", "prompts")
    writer.extra_attrs |= {k: v for k, v in attrs.items() if k not in derived}
    return writer


def _convert_text(writer: FeatureStoreWriter, old: Any, attrs: dict[str, Any]) -> None:
    values = [_read(old[name], ...) for name in ("text_features", "class", "template")]
    if any(v is None for v in values):
        return  # the next run encodes the prompts again
    features, classes, templates = values
    identity, prompts = attrs["text_identity"], attrs["prompts"]
    names = {"classes": classes.tolist(), "templates": templates.tolist()}
    writer.set_text(features, **names, identity=identity, prompts=prompts)
