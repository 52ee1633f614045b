"""Reading a store: lazy, by image_id, every row checked against its checksum. Never writes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from zarr.errors import ArrayNotFoundError

from pipeline.errors import StoreError
from pipeline.stores import index as idx
from pipeline.stores.kinds import Data, Kind, Row, RowReader, kind_of
from pipeline.stores.layout import read_root


class StoreReader:
    """Base of `MaskStore` and `FeatureStore`.

    Safe in threads and in forked or spawned workers: it keeps no open file, and pickles as its
    path.

    Args:
        path: the store's folder.
    """

    store_kind: Kind

    def __init__(self, path: str | PathLike):
        self.path = Path(path)
        self._check_kind()
        self._load()

    def _check_kind(self) -> None:
        """Look at the root first: to a reader of masks an index of features is a damaged one."""
        try:
            root = read_root(self.path)
        except StoreError:
            return  # `_load` says what is wrong
        found = kind_of(self.path, root)
        if found is not self.store_kind:
            raise StoreError(
                f"is a store of {found.name}, not of {self.store_kind.name}",
                path=self.path,
                remedy=f"open it with open_{found.name}",
            )

    def _load(self) -> None:
        self._adopt(idx.load(self.path, self.store_kind.columns))

    def _adopt(self, committed: idx.Committed) -> None:
        self._committed = committed
        metadata = self._committed.root["consolidated_metadata"]["metadata"]
        try:
            self._rows = RowReader(self.path, self.store_kind, metadata)
        except (ArrayNotFoundError, OSError, ValueError) as error:
            raise StoreError(
                f"the metadata of an array is lost or damaged: {error}",
                path=self.path,
                remedy=f"run: {self._command}",
            ) from None
        self._text: Any = None
        self._trusted: dict[int, Any] = {}

    def _reload(self) -> bool:
        """Read the index again and return whether it changed.

        Raises:
            StoreError: another store stands in this one's place; its rows are not mixed in.
        """
        before = self._committed
        now = idx.load(self.path, self.store_kind.columns)
        if now.attrs["identity_hash"] != before.attrs["identity_hash"]:
            raise StoreError(
                "the store was replaced by one made with other choices while it was read",
                path=self.path,
                remedy="open it again",
            )
        self._adopt(now)
        return now.root != before.root

    def __reduce__(self):
        return type(self), (self.path,)

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the store: identity, model, checkpoint sha256, versions, prompts."""
        return dict(self._committed.attrs)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decided the content."""
        return self._committed.attrs["identity"]

    @property
    def identity_hash(self) -> str:
        """SHA-256 of the identity."""
        return self._committed.attrs["identity_hash"]

    def __len__(self) -> int:
        return len(self._committed.index)

    def __iter__(self) -> Iterator[str]:
        return iter(self._committed.index.rows["image_id"])

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._committed.index.position

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {len(self)} rows)"

    def table(self) -> pd.DataFrame:
        """Return the index, one row an image, indexed by image_id: label, split, in_manifest,
        status, reason, sha256, key, crc and the columns of this kind of store."""
        return self._committed.index.frame()

    def ids(self, split: str | None = None) -> np.ndarray:
        """Return the ids (object array of str) that the manifest lists, failed ones included, in
        the store's order; of one split when given."""
        rows = self._committed.index.rows
        chosen = [
            image_id
            for image_id, here, part in zip(
                rows["image_id"], rows["in_manifest"], rows["split"], strict=True
            )
            if here and split in (None, part)
        ]
        return np.array(chosen, dtype=object)

    def dataset(self):
        """Return the whole store as a lazy xarray.Dataset.

        That the rows' files are there is checked here, once; their bytes are not. A plain
        `xarray.open_zarr` cannot even check that: Zarr reads a lost shard as fill values, an
        empty mask or NaN. Rows whose `status` is "failed" or "pending" hold nothing of use.

        Raises:
            StoreError: lost data of rows that the index lists as good.
        """
        import xarray as xr

        self._load()  # as the dataset: of this moment, not of the one when this store was opened
        lost = self._lost()
        if lost:
            raise self._broken(lost, "lost")
        return xr.open_zarr(self.path, consolidated=True)

    def row(self, image_id: str) -> Row:
        """Return the index values of one image."""
        return self._committed.index.get(self._at(image_id))

    def read(self, image_id: str) -> Data:
        """Return the checked data of one row, by array name.

        Raises:
            StoreError: unknown id, failed or pending row, lost or damaged bytes.
        """
        end = time.monotonic() + idx.PATIENCE
        while True:
            i, row = self._checked(image_id)
            data = self._rows.checked(i, row)
            if data is not None:
                return data
            # A writer may have redone the row since this store was opened.
            if not self._reload() or time.monotonic() > end:
                raise self._broken([image_id], "lost" if self._rows.lost(i, row) else "damaged")

    def _at(self, image_id: str) -> int:
        i = self._committed.index.position.get(image_id)
        if i is None:
            raise StoreError(
                f"no row for {image_id!r}",
                path=self.path,
                remedy=f"run: {self._command}",
            )
        return i

    def _checked(self, image_id: str) -> tuple[int, Row]:
        i = self._at(image_id)
        row = self._committed.index.get(i)
        if row["status"] not in idx.GOOD:
            first = "mend the image, then " if row["status"] == "failed" else ""
            raise StoreError(
                f"{image_id!r} has no data ({row['status']}: {row['reason']})",
                path=self.path,
                remedy=f"{first}run: {self._command}",
            )
        return i, row

    def _lost(self) -> list[str]:
        """Ids of the good rows whose files are missing."""
        ids = self._committed.index.rows["image_id"]
        return [ids[i] for i in self._rows.lost_rows(self._committed.index)]

    def _broken(self, ids: list[str], how: str) -> StoreError:
        names = ", ".join(map(repr, ids[:5])) + (f" and {len(ids) - 5} more" if ids[5:] else "")
        return StoreError(
            f"{how} data of {names}",
            path=self.path,
            remedy=f"{self._command} computes these rows again; pipeline verify lists all",
        )

    @property
    def _command(self) -> str:
        dataset = self._committed.attrs.get("dataset") or self.path.absolute().parent.name
        return f"pipeline {self.store_kind.stage} --dataset {dataset}"
