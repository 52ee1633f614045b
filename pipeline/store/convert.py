"""Convert a store of layout 1, which kept every index column as a Zarr array."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StoreError
from pipeline.store.items import WorkItem
from pipeline.store.layout import GOOD, KINDS, Kind, Row, checksum, read_root
from pipeline.store.writer import FeatureStoreWriter, MaskStoreWriter


def convert_store(path: str | PathLike) -> int:
    """Convert a store of layout 1 to the present layout; its rows keep their keys and checksums.

    The new store is made next to the old one and replaces it when complete. Rows that are lost or
    damaged are left out, so that the next run of the stage computes them.

    Returns:
        The number of rows converted.

    Raises:
        StoreError: not a store of layout 1, or its index is damaged.
    """
    import zarr

    attrs = read_root(Path(path), layout=1)["attributes"]
    kind, identity = KINDS[attrs["store"]], dict(attrs["identity"])
    own = {name: identity[name] for name in ("views", "dim", "tokens") if kind.name == "features"}
    new = MaskStoreWriter if kind.name == "masks" else FeatureStoreWriter
    with new(path, identity, on_mismatch="rebuild", **own) as writer:
        derived = ("index_crc", "text_crc", "text_identity", "prompts")
        writer.extra_attrs |= {k: v for k, v in attrs.items() if k not in derived}
        old = zarr.open_group(path, mode="r", use_consolidated=True)
        try:
            columns = {name: old[name][...].tolist() for name in kind.columns if name in old}
            rows = [dict(zip(columns, v, strict=True)) for v in zip(*columns.values(), strict=True)]
        except Exception as error:  # whatever a codec makes of damaged bytes
            raise StoreError(
                f"the row index is lost or damaged: {error}",
                path=path,
                remedy="restore it (dvc checkout), or run the stage again with --force",
            ) from None
        if writer._last is None:
            writer._create([WorkItem("", "", Path(path), 0, row) for row in rows])
        done = set(writer._last.frame.index)  # of a conversion that was interrupted
        for i, row in enumerate(rows):
            data = {}
            if row["status"] in GOOD:
                region = (i, *(slice(row[side]) for side in kind.sides))
                data = {name: _read(old[name], region) for name in kind.sums if name in old}
            if row["image_id"] not in done and _intact(kind, row, data):
                writer.put([(row, data)])
                done.add(row["image_id"])
        text = [_read(old[n], ...) for n in ("text_features", "class", "template") if n in old]
        if attrs.get("text_crc") is not None and not any(values is None for values in text):
            writer.set_text(
                text[0],
                classes=text[1].tolist(),
                templates=text[2].tolist(),
                identity=attrs["text_identity"],
                prompts=attrs["prompts"],
            )
    return len(done)


def _read(array: Any, region: Any) -> np.ndarray | None:
    try:
        return np.asarray(array[region])
    except Exception:  # whatever a codec makes of damaged bytes
        return None


def _intact(kind: Kind, row: Row, data: dict[str, np.ndarray | None]) -> bool:
    if not data:
        return row["status"] == "failed"  # else it was interrupted while it was computed again
    return all(v is not None and checksum(v) == row[kind.sums[n]] for n, v in data.items())
