"""Writing a store: plan what is missing, buffer rows, commit them so that a kill loses no more
than what was not committed.

A commit writes data shards first, the index columns second, the root last. Rows being redone
are marked "pending" in a commit of their own before their bytes are touched, so that a reader
never takes new bytes for an old row.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pandas as pd

from pipeline.engine.items import WorkItem
from pipeline.errors import StageFailed, StoreError
from pipeline.stores import index as idx
from pipeline.stores import layout
from pipeline.stores.disk import writing
from pipeline.stores.identity import canonical, identity_diff, identity_hash
from pipeline.stores.kinds import Data, Kind, Row, RowReader
from pipeline.stores.lock import StoreLock
from pipeline.stores.place import place_rows
from pipeline.stores.plan import Plan, make_plan
from pipeline.stores.swap import Workplace

COMMIT_SECONDS = 5.0
COMMIT_BYTES = 64 << 20

Prepared = tuple[WorkItem, Row, Data]
"""A row as it waits for its commit: whose, index values, data by array name."""


class StoreWriter:
    """Base of both writers; see `MaskStoreWriter` and `FeatureStoreWriter`."""

    store_kind: Kind

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
        if on_mismatch not in ("refuse", "rebuild"):
            raise ValueError(f"on_mismatch: {on_mismatch!r} is not refuse or rebuild")
        self.path = Path(path)
        self.identity = canonical(identity)
        self.identity_hash = identity_hash(identity)
        self.on_mismatch = on_mismatch
        self.extra_attrs = dict(attrs or {})
        self.commit_seconds = commit_seconds
        self.commit_bytes = commit_bytes
        self._place = Workplace(self.path)
        self._lock = StoreLock(self.path.with_name(self.path.name + ".lock"))
        self._index = idx.Index(self.store_kind.columns)
        self._root: dict[str, Any] | None = None
        self._buffer: dict[str, tuple[Row, Data]] = {}
        self._bytes = 0
        self._changed = False
        self._manifest: dict[str, tuple[str, str]] | None = None
        self._more_arrays: dict[str, dict] = {}
        self._twins: dict[str, str] | None = None
        self._tracked: layout.TrackedStore | None = None
        self._last_commit = time.monotonic()
        self._commit_took = 0.0

    # -- what a kind of store defines ---------------------------------------------------------

    def data_specs(self, items: Sequence[WorkItem]) -> list[layout.ArraySpec]:
        """Return the data arrays of a new store."""
        raise NotImplementedError

    def encode_row(self, row: Any) -> tuple[Row, Data]:
        """Return a row's index values (crc included) and its data by array name."""
        raise NotImplementedError

    # -- opening and closing ------------------------------------------------------------------

    @property
    def root(self) -> Path:
        """The folder that is written: the store, or its replacement being built beside it."""
        return self._place.work

    def __enter__(self) -> Self:
        self._lock.acquire()
        try:
            with writing(self.path):
                self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None or issubclass(kind, (KeyboardInterrupt, StageFailed)):
                self.commit()
            if kind is None and self._root is not None:
                with writing(self.path):
                    self._place.finish()
        finally:
            self._lock.release()

    def _open(self) -> None:
        self._place.recover()
        try:
            wanted = self._stored_identity() in (None, self.identity)
            if wanted:
                self._load()
                return
            problem = self._mismatch()
        except StoreError as error:
            problem = error
        if self.on_mismatch == "refuse":
            raise problem
        self._place.build_beside()
        try:
            if self._stored_identity() == self.identity:
                self._load()
                return
        except StoreError:
            pass  # a half-built store that cannot be read is worth nothing
        self._place.clear()

    def _mismatch(self) -> StoreError:
        stored = layout.read_root(self.root)["attributes"]["identity"]
        lines = "".join(f"\n  {line}" for line in identity_diff(stored, self.identity))
        return StoreError(
            f"the store was made with other choices:{lines}\n",
            path=self.path,
            remedy="set them back, or pass --force to compute the whole store again",
        )

    @property
    def _store(self) -> layout.TrackedStore:
        if self._tracked is None or self._tracked.root != self.root:
            self._tracked = layout.TrackedStore(self.root)
        return self._tracked

    def _stored_identity(self) -> dict[str, Any] | None:
        """Identity of the store in the folder that is worked in, None when there is none yet."""
        if (self.root / "zarr.json").exists():
            return layout.read_root(self.root)["attributes"]["identity"]
        if (self.root / "image_id" / "c").exists():
            raise StoreError(
                "the store's zarr.json is lost",
                path=self.path,
                remedy="restore it (dvc checkout), or pass --force to compute the store again",
            )
        return None

    def _load(self) -> None:
        if not (self.root / "zarr.json").exists():
            self._place.clear()
            return
        layout.remove_partials(self.root)
        committed = idx.load(self.root, self.store_kind.columns, patience=0.0)
        self._root, self._index = committed.root, committed.index
        # Metadata of single arrays may be ahead of the root after a kill: bring it back.
        for name, metadata in self._arrays().items():
            layout.write_metadata(self._store, name, metadata)
        if (self.root / idx.JOURNAL).exists():
            idx.write_columns(self._store, self._arrays(), self._index, 0)
            self._store.flush()
            layout.write_json(self.root / "zarr.json", self._root)
            (self.root / idx.JOURNAL).unlink()

    def _arrays(self) -> dict[str, dict]:
        return self._root["consolidated_metadata"]["metadata"] if self._root else {}

    def _create(self, items: Sequence[WorkItem]) -> None:
        specs = [
            idx.column_spec(name, dtype) for name, (dtype, _) in self.store_kind.columns.items()
        ]
        metadata = {
            spec.name: layout.new_metadata(spec) for spec in [*specs, *self.data_specs(items)]
        }
        self._root = layout.make_root({}, {**metadata, **self._more_arrays})
        self._commit_index(journal=False)

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
        return make_plan(
            self._index,
            items,
            lost=lost,
            damaged=damaged,
            force=force,
            retry_failed=retry_failed,
        )

    def _check(self, *, verify: bool) -> tuple[set[int], set[int]]:
        """Return the rows whose file is missing, and (when asked for) those that are damaged."""
        reader, index = self._reader(), self._index
        rows = [i for i, status in enumerate(index.rows["status"]) if status in idx.GOOD]
        lost = {i for i in rows if reader.lost(i, index.get(i))}
        damaged = set(reader.damaged(index)) - lost if verify else set()
        if damaged:
            self._mend(reader, damaged)
        return lost, damaged

    def _mend(self, reader: RowReader, damaged: set[int]) -> None:
        """Replace the files of damaged rows by files of the good rows alone, since Zarr has to
        read a shard that it adds to. A kill in here leaves rows that are lost and known to be."""
        step, status = reader.shard_rows, self._index.rows["status"]
        for shard in {i // step for i in damaged}:
            rows = range(shard * step, min((shard + 1) * step, len(self._index)))
            good = [i for i in rows if i not in damaged and status[i] in idx.GOOD]
            kept = {i: reader.read(i, self._index.get(i)) for i in good}
            with writing(self.path):
                for i in rows:
                    for file in reader.files(i, self._index.get(i)):
                        file.unlink(missing_ok=True)
                place_rows(self._store, self.store_kind, self._arrays(), kept)

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
        # On a slow disk, or with very many rows, commits grow rarer instead of taking over.
        patience = max(self.commit_seconds, 10 * self._commit_took if self.commit_seconds else 0)
        if self._bytes >= self.commit_bytes or waited >= patience:
            self.commit()

    def write_failed(self, item: WorkItem, reason: str) -> None:
        """Record that an item has no data, and why."""
        values = {name: default for name, (_, default) in self.store_kind.columns.items()}
        self.put([(item, {**values, "status": "failed", "reason": _clean(reason)}, {})])

    def copy(self, item: WorkItem) -> bool:
        """Write `item` as a copy of a good row of the same key; False when there is none.

        To be called after all rows to be copied from were written.
        """
        if self._twins is None:
            self.commit()
            rows = self._index.rows
            columns = zip(rows["key"], rows["status"], rows["image_id"], strict=True)
            self._twins = {key: name for key, status, name in columns if status in idx.GOOD}
        twin = self._twins.get(item.key)
        if twin is None or twin == item.image_id:
            return False
        i = self._index.position[twin]
        values, reader = self._index.get(i), self._reader()
        if reader.lost(i, values) or not reader.good(i, values):
            return False
        self.put([(item, values, reader.read(i, values))])
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
            StoreError: full disk, read-only folder; what was committed before stays.
        """
        if self._root is None or not (self._buffer or self._changed):
            return
        begin = time.monotonic()
        with writing(self.path):
            committed = len(self._index)
            redo = [
                i
                for image_id in self._buffer
                if (i := self._index.position.get(image_id)) is not None
                and self._index.rows["status"][i] in idx.GOOD
            ]
            if redo:
                for i in redo:
                    self._index.set(i, {"status": "pending", "reason": "interrupted while redone"})
                self._commit_index(journal=True)
            placed, end = {}, committed
            for image_id in self._buffer:
                placed[image_id] = self._index.position.get(image_id, end)
                end += placed[image_id] == end
            place_rows(
                self._store,
                self.store_kind,
                self._arrays(),
                {placed[name]: data for name, (_, data) in self._buffer.items()},
            )
            changed = self._changed or any(i < committed for i in placed.values())
            for image_id, i in placed.items():
                self._index.set(i, self._buffer[image_id][0])
            self._commit_index(journal=changed, start=0 if changed else committed)
        self._buffer.clear()
        self._bytes, self._changed = 0, False
        self._last_commit = time.monotonic()
        self._commit_took = self._last_commit - begin

    def _commit_index(self, *, journal: bool, start: int = 0) -> None:
        old = self._root["attributes"].get("index_crc")
        attrs = {
            **self._root["attributes"],
            **self.extra_attrs,
            "store": self.store_kind.name,
            "layout": layout.LAYOUT,
            "identity": self.identity,
            "identity_hash": self.identity_hash,
            "index_crc": idx.checksum(self._index.arrays()),
            "coordinates": " ".join(self.store_kind.columns),
        }
        metadata = dict(self._arrays())
        for name in metadata:
            shape = list(metadata[name]["shape"])
            if metadata[name]["dimension_names"][0] == "image":
                shape[0] = len(self._index)
            metadata[name] = {**metadata[name], "shape": shape}
        root = layout.make_root(attrs, metadata)
        if journal:
            idx.write_journal(self.root, root, self._index, old)
        idx.write_columns(self._store, metadata, self._index, start)
        for name in metadata.keys() - self._index.columns.keys():
            layout.write_metadata(self._store, name, metadata[name])
        self._store.flush()
        layout.write_json(self.root / "zarr.json", root)
        self._root = root
        if journal:
            (self.root / idx.JOURNAL).unlink()


def _clean(text: str) -> str:
    """One line of valid UTF-8: an error message may hold anything that a file name can."""
    return " ".join(text.encode("utf-8", "replace").decode().split())
