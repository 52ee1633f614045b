"""What the store of a stage holds, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from benchmarks.cheap_stage import store_path
from pipeline import remote
from pipeline.store import FeatureStore, MaskStore, open_features, open_masks, verify_store


class StoreStage:
    """A stage whose result is the store `self.store`."""

    store: Path
    url = ""

    def content(self) -> dict[str, tuple]:
        """Return everything a reader gets."""
        return store_content(self.store)

    def faults(self) -> list[str]:
        """Return what is wrong with a store that was left in the middle of its work."""
        return faults_of(self.store) if remote.exists(self.store / "zarr.json") else []

    def clear(self) -> None:
        remote.remove_folder(self.store)


def content(kind: str, folder: Path) -> dict[str, tuple]:
    """Return everything a reader gets of the store of a cheap stage."""
    return store_content(store_path(folder, kind))


def store_content(path: Path) -> dict[str, tuple]:
    """Return everything a reader gets of a store: id -> bytes and index values."""
    store = opened(path)
    table = store.table()
    rows = {}
    for image_id in store:
        data = store.read(image_id)
        arrays = tuple((n, a.dtype.str, a.shape, a.tobytes()) for n, a in sorted(data.items()))
        rows[image_id] = (arrays, table.loc[image_id].to_json())
    if isinstance(store, FeatureStore):
        names = store.classes, store.attrs["templates"]
        rows["text"] = (store.text_features.values.tobytes(), *names)
    return rows


def faults_of(path: Path) -> list[str]:
    """Return what is wrong with a store that was left in the middle of its work."""
    report = verify_store(path)  # compares the columns that xarray sees with the index, too
    seen = xr.open_zarr(str(path)).load()
    if (seen.status == "superseded").sum() != seen.sizes["image"] - len(opened(path)):
        return [report.summary(), "a plain reader sees other rows than the index lists"]
    return [] if report.ok else [report.summary()]


def opened(path: Path) -> MaskStore | FeatureStore:
    """Open a store of either kind."""
    return open_masks(path) if path.name == "masks.zarr" else open_features(path)
