"""Writing a store: plan what is missing, buffer rows, commit them so that a kill loses no more
than what was not committed.

A commit writes data shards first, the index columns second, the root last. Data go to their shards
as often as memory asks for it, the index, whose cost grows with all rows, as seldom as time allows.
Rows being redone are marked "pending" in a commit of their own before their bytes are touched, so
that a reader never takes new bytes for an old row.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.engine.items import WorkItem
from pipeline.io import writing
from pipeline.stores import index as idx
from pipeline.stores.kinds import Data, Row, RowReader
from pipeline.stores.layout import MENDED, TrackedStore
from pipeline.stores.place import place_rows
from pipeline.stores.plan import Plan, make_plan
from pipeline.stores.session import StoreSession

COMMIT_SECONDS = 5.0
COMMIT_BYTES = 64 << 20

Prepared = tuple[WorkItem, Row, Data]
"""A row as it waits for its commit: whose, index values, data by array name."""


class StoreWriter(StoreSession):
    """Base of both writers; see `MaskStoreWriter` and `FeatureStoreWriter`."""

    def __init__(
        self,
        path: str | os.PathLike,
        identity: Mapping[str, Any],
        *,
        on_mismatch: str = "refuse",
        attrs: Mapping[str, Any] | None = None,
        commit_seconds: float = COMMIT_SECONDS,
        commit_bytes: int = COMMIT_BYTES,
    ):
        super().__init__(path, identity, on_mismatch=on_mismatch, attrs=attrs)
        self.commit_seconds = commit_seconds
        self.commit_bytes = commit_bytes
        self._buffer: dict[str, tuple[Row, Data]] = {}
        self._bytes = 0
        self._placed: dict[int, Row] = {}  # in their shards, not yet in the index
        self._new: dict[str, int] = {}  # row numbers of those that the index does not know
        self._changed = False
        self._manifest: dict[str, tuple[str, str]] | None = None
        self._sources: set[str] = set()  # ids that the plan copies from
        self._twins: dict[str, str] | None = None
        self._last_commit = time.monotonic()
        self._commit_took = 0.0

    def encode_row(self, row: Any) -> tuple[Row, Data]:
        """Return a row's index values (crc included) and its data by array name."""
        raise NotImplementedError

    # -- planning -----------------------------------------------------------------------------

    def plan(
        self,
        items: Sequence[WorkItem],
        *,
        force: bool = False,
        verify: bool = False,
        retry_failed: bool = True,
    ) -> Plan:
        """Sort items into those to compute, to copy and to reuse.

        Args:
            items: all items wanted.
            force: compute all.
            verify: check the bytes of every stored row (else only that its files exist).
            retry_failed: compute failed rows again.
        """
        if self._root is None:
            with writing(self.path):
                self._create(items)
        # What a rebuild that was interrupted did is of this very run: go on, do not force again.
        force = force and self.root == self.path
        lost, damaged = (set(), set()) if force else self._check(verify=verify)
        plan = make_plan(
            self._index,
            items,
            lost=lost,
            damaged=damaged,
            replaced={
                item.image_id: self._replaced_because
                for item in items
                if self._replaced is None or item.image_id in self._replaced
            },
            force=force,
            retry_failed=retry_failed,
        )
        self._twins = None
        self._sources = {item.image_id for item in plan.reused}
        self._sources |= {item.image_id for item, _ in plan.todo}
        return plan

    def _check(self, *, verify: bool) -> tuple[set[int], set[int]]:
        """Return the rows whose file is missing, and (when asked for) those that are damaged."""
        reader, index = self._reader(), self._index
        lost = set(reader.lost_rows(index))
        damaged = set(reader.damaged(index)) - lost if verify else set()
        if damaged:
            self._mend(reader, damaged)
        return lost, damaged

    def _mend(self, reader: RowReader, damaged: set[int]) -> None:
        """Replace the files of damaged rows by files of the good rows alone, since Zarr has to
        read a shard that it adds to. The new ones are made beside the old, so that no good row is
        lost for a moment to a reader, or for good to a kill or a full disk."""
        step, status = reader.shard_rows, self._index.rows["status"]
        beside = self.root / MENDED
        for shard in {i // step for i in damaged}:
            rows = range(shard * step, min((shard + 1) * step, len(self._index)))
            good = [i for i in rows if i not in damaged and status[i] in idx.GOOD]
            kept = {i: reader.read(i, self._index.get(i)) for i in good}
            files = {file for i in rows for file in reader.files(i, self._index.get(i))}
            with writing(self.path):
                store = TrackedStore(beside)
                place_rows(store, self.store_kind, dict(self._arrays()), kept)
                store.flush()
                for file in files:
                    mended = beside / file.relative_to(self.root)
                    if mended.exists():
                        os.replace(mended, file)
                    else:
                        file.unlink(missing_ok=True)  # it holds no good row
                shutil.rmtree(beside, ignore_errors=True)

    def _reader(self) -> RowReader:
        return RowReader(self.root, self.store_kind, self._arrays())

    # -- writing ------------------------------------------------------------------------------

    def write(self, items: Sequence[WorkItem], rows: Sequence[Any]) -> None:
        """Take computed rows, one an item; they are committed when enough time or bytes passed.

        Raises:
            ValueError: a row is not what this store holds (shape, dtype, a feature not finite).
        """
        self.put([self.prepare(item, row) for item, row in zip(items, rows, strict=True)])

    def prepare(self, item: WorkItem, row: Any) -> Prepared:
        """Check one computed row and return it as `put` takes it; ValueError as in `write`."""
        if row.image_id != item.image_id:
            raise ValueError(f"row of {row.image_id!r} given for {item.image_id!r}")
        return item, *self.encode_row(row)

    def put(self, rows: Sequence[Prepared]) -> None:
        """Take prepared rows."""
        for item, values, data in rows:
            self._buffer_row(item, values, data)
        waited = time.monotonic() - self._last_commit
        # On a slow disk, or with very many rows, commits grow rarer instead of taking over; data
        # do not wait for them in memory.
        patience = max(self.commit_seconds, 10 * self._commit_took if self.commit_seconds else 0)
        if waited >= patience:
            self.commit()
        elif self._bytes >= self.commit_bytes:
            with writing(self.path):
                self._place_rows()

    def write_failed(self, item: WorkItem, reason: str) -> None:
        """Record that an item has no data, and why."""
        values = {name: default for name, (_, default) in self.store_kind.columns.items()}
        self.put([(item, {**values, "status": "failed", "reason": _clean(reason)}, {})])

    def copy(self, item: WorkItem) -> bool:
        """Write `item` as a copy of a row of the same key that the plan computed or reused; False
        when there is no such row, or it is not good.

        To be called after all rows to be copied from were written.
        """
        if self._twins is None:
            self.commit()
            rows = self._index.rows
            columns = zip(rows["key"], rows["status"], rows["image_id"], strict=True)
            self._twins = {  # no other row: what is forced has old data until it is redone
                key: name
                for key, status, name in columns
                if status in idx.GOOD and name in self._sources
            }
        twin = self._twins.get(item.key)
        if twin is None:
            return False
        i = self._index.position[twin]
        values, reader = self._index.get(i), self._reader()
        data = reader.checked(i, values)
        if data is None:
            return False
        self.put([(item, values, data)])
        return True

    def _buffer_row(self, item: WorkItem, values: Row, data: Data) -> None:
        label, split = str(item.row.get("label", "")), str(item.row.get("split", ""))
        if self._manifest is not None:
            label, split = self._manifest.get(item.image_id, (label, split))
        self._buffer[item.image_id] = (
            values
            | {
                "image_id": item.image_id,
                "label": label,
                "split": split,
                "in_manifest": self._manifest is None or item.image_id in self._manifest,
                "sha256": str(item.row.get("sha256", "")),
                "key": item.key,
            },
            data,
        )
        self._bytes += sum(a.nbytes for a in data.values())

    def sync_manifest(self, manifest: pd.DataFrame) -> None:
        """Refresh label, split and in_manifest of all rows from the manifest; computes nothing.

        Rows that the manifest does not list any more stay, with in_manifest False.
        """
        if "image_id" in manifest.columns:
            manifest = manifest.set_index("image_id")
        self._manifest = {
            str(k): (str(a), str(b))
            for k, a, b in zip(manifest.index, manifest["label"], manifest["split"], strict=True)
        }
        rows = self._index.rows
        for i, image_id in enumerate(rows["image_id"]):
            old = (rows["label"][i], rows["split"][i], rows["in_manifest"][i])
            label, split = self._manifest.get(image_id, old[:2])
            new = (label, split, image_id in self._manifest)
            if new != old:
                rows["label"][i], rows["split"][i], rows["in_manifest"][i] = new
                self._changed = True

    def commit(self) -> None:
        """Make all rows so far permanent.

        Raises:
            DiskError: full disk, read-only folder; what was committed before stays.
        """
        if self._root is None or not (self._buffer or self._placed or self._changed):
            return
        begin = time.monotonic()
        with writing(self.path):
            self._place_rows()
            committed = len(self._index)
            changed = self._changed or any(i < committed for i in self._placed)
            for i in sorted(self._placed):
                self._index.set(i, self._placed[i])
            self._commit_index(None if changed else committed)
        self._placed.clear()
        self._new.clear()
        self._changed = False
        self._last_commit = time.monotonic()
        self._commit_took = self._last_commit - begin

    def _place_rows(self) -> None:
        """Put the buffered rows' data into their shards. They count once `commit` lists them."""
        rows: dict[int, tuple[Row, Data]] = {}
        for image_id, row in self._buffer.items():
            i = self._index.position.get(image_id)
            if i is None:
                i = self._new.setdefault(image_id, len(self._index) + len(self._new))
            rows[i] = row
        known = len(self._index)
        redo = [i for i in rows if i < known and self._index.rows["status"][i] in idx.GOOD]
        if redo:
            for i in redo:
                self._index.set(i, {"status": "pending", "reason": "interrupted while redone"})
            self._commit_index()
        data = {i: data for i, (_, data) in rows.items()}
        place_rows(self._store, self.store_kind, self._arrays(), data)
        self._placed |= {i: values for i, (values, _) in rows.items()}
        self._buffer.clear()
        self._bytes = 0


def _clean(text: str) -> str:
    """One line of valid UTF-8: an error message may hold anything that a file name can."""
    return " ".join(text.encode("utf-8", "replace").decode().split())
