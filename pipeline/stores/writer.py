"""Writing a store: plan what is missing, buffer rows, commit them so that a kill loses no more
than what was not committed.

A commit writes data shards first, the index columns second, the root last. Rows being redone
are marked "pending" in a commit of their own before their bytes are touched, so that a reader
never takes new bytes for an old row.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from pipeline.engine.items import WorkItem
from pipeline.errors import StageFailed, StoreError
from pipeline.stores import index as idx
from pipeline.stores import layout
from pipeline.stores.identity import canonical, identity_diff, identity_hash
from pipeline.stores.kinds import Kind, RowReader
from pipeline.stores.lock import StoreLock
from pipeline.stores.swap import Workplace

COMMIT_SECONDS = 5.0
COMMIT_BYTES = 64 << 20
SLAB_BYTES = 32 << 20


@dataclass
class Plan:
    """What a run has to do.

    Args:
        todo: (item, reason) to compute; reason "" = a new row.
        copies: (item, reason) whose key another item of `todo`, or a stored row, has.
        reused: items whose row is there and good.
        failed: items that failed before and are not retried, with the stored reason.
    """

    todo: list[tuple[WorkItem, str]] = field(default_factory=list)
    copies: list[tuple[WorkItem, str]] = field(default_factory=list)
    reused: list[WorkItem] = field(default_factory=list)
    failed: list[tuple[WorkItem, str]] = field(default_factory=list)


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
        self._buffer: dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]] = {}
        self._bytes = 0
        self._changed = False
        self._manifest: dict[str, tuple[str, str]] | None = None
        self._more_arrays: dict[str, dict] = {}
        self._tracked: layout.TrackedStore | None = None
        self._last_commit = time.monotonic()
        self._commit_took = 0.0

    # -- what a kind of store defines ---------------------------------------------------------

    def data_specs(self, items: Sequence[WorkItem]) -> list[layout.ArraySpec]:
        """Return the data arrays of a new store."""
        raise NotImplementedError

    def encode_row(self, row: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
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
            with self._disk():
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
                with self._disk():
                    self._place.finish()
        finally:
            self._lock.release()

    def _open(self) -> None:
        self._place.recover()
        stored = self._stored_identity(self.path)
        if stored is not None and stored != self.identity:
            if self.on_mismatch == "refuse":
                lines = "".join(f"\n  {line}" for line in identity_diff(stored, self.identity))
                raise StoreError(
                    f"the store was made with other choices:{lines}",
                    path=self.path,
                    remedy="set them back, or pass --force to compute the whole store again",
                )
            self._place.build_beside()
            if self._stored_identity(self.root) not in (None, self.identity):
                self._place.clear()
        if self._stored_identity(self.root) is None:
            self._place.clear()
            return
        layout.remove_partials(self.root)
        self._load()

    @property
    def _store(self) -> layout.TrackedStore:
        if self._tracked is None or self._tracked.root != self.root:
            self._tracked = layout.TrackedStore(self.root)
        return self._tracked

    @staticmethod
    def _stored_identity(path: Path) -> dict[str, Any] | None:
        if not (path / "zarr.json").exists():
            return None
        return layout.read_root(path)["attributes"]["identity"]

    def _load(self) -> None:
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
            with self._disk():
                self._create(items)
        plan = Plan()
        leaders: set[str] = set()
        lost, damaged = (set(), set()) if force else self._check(verify=verify)
        needed: list[tuple[WorkItem, str]] = []
        for item in items:
            i = self._index.position.get(item.image_id)
            if i is None:
                needed.append((item, ""))
                continue
            row = self._index.get(i)
            if force:
                reason = "forced"
            elif row["status"] == "pending":
                reason = row["reason"]
            elif row["key"] != item.key:
                changed = row["sha256"] != str(item.row.get("sha256", ""))
                reason = "image bytes changed" if changed else "prompt, mask or frame changed"
            elif row["status"] == "failed":
                reason = "failed before" if retry_failed else None
                if reason is None:
                    plan.failed.append((item, row["reason"]))
                    continue
            elif i in lost:
                reason = "lost from the store"
            elif i in damaged:
                reason = "damaged in the store"
            else:
                plan.reused.append(item)
                leaders.add(item.key)
                continue
            needed.append((item, reason))
        for item, reason in needed:
            (plan.copies if item.key in leaders else plan.todo).append((item, reason))
            leaders.add(item.key)
        return plan

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
        step = reader.shard_rows
        for shard in {i // step for i in damaged}:
            rows = range(shard * step, min((shard + 1) * step, len(self._index)))
            good = [
                i for i in rows if i not in damaged and self._index.rows["status"][i] in idx.GOOD
            ]
            kept = {i: reader.read(i, self._index.get(i)) for i in good}
            for i in rows:
                for file in reader.files(i, self._index.get(i)):
                    file.unlink(missing_ok=True)
            with self._disk():
                self._place_rows(kept)

    def _reader(self) -> RowReader:
        return RowReader(self.root, self.store_kind, self._arrays())

    # -- writing ------------------------------------------------------------------------------

    def write(self, items: Sequence[WorkItem], rows: Sequence[Any]) -> None:
        """Take computed rows, one an item; they are committed when enough time or bytes passed."""
        for item, row in zip(items, rows, strict=True):
            if row.image_id != item.image_id:
                raise ValueError(f"row of {row.image_id!r} given for {item.image_id!r}")
            self._put(item, *self.encode_row(row))
        waited = time.monotonic() - self._last_commit
        # On a slow disk, or with very many rows, commits grow rarer instead of taking over.
        patience = max(self.commit_seconds, 10 * self._commit_took if self.commit_seconds else 0)
        if self._bytes >= self.commit_bytes or waited >= patience:
            self.commit()

    def write_failed(self, item: WorkItem, reason: str) -> None:
        """Record that an item has no data, and why."""
        values = {name: default for name, (_, default) in self.store_kind.columns.items()}
        self._put(item, {**values, "status": "failed", "reason": _clean(reason)}, {})

    def copy(self, item: WorkItem) -> bool:
        """Write `item` as a copy of a good row of the same key; False when there is none."""
        self.commit()
        for i, key in enumerate(self._index.rows["key"]):
            good = self._index.rows["status"][i] in idx.GOOD
            if key == item.key and good and self._index.rows["image_id"][i] != item.image_id:
                values = self._index.get(i)
                data = self._reader().read(i, values)
                if self.store_kind.crc(data) == values["crc"]:
                    self._put(item, values, data)
                    return True
        return False

    def _put(self, item: WorkItem, values: dict[str, Any], data: dict[str, np.ndarray]) -> None:
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
        with self._disk():
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
            self._place_rows({placed[name]: data for name, (_, data) in self._buffer.items()})
            changed = self._changed or any(i < committed for i in placed.values())
            for image_id, i in placed.items():
                self._index.set(i, self._buffer[image_id][0])
            self._commit_index(journal=changed, start=0 if changed else committed)
        self._buffer.clear()
        self._bytes, self._changed = 0, False
        self._last_commit = time.monotonic()
        self._commit_took = self._last_commit - begin

    def _place_rows(self, rows: Mapping[int, dict[str, np.ndarray]]) -> None:
        """Write data at row numbers; a row without data becomes the array's fill value."""
        if not rows:
            return
        for name in [n for n in self.store_kind.arrays if n in self._arrays()]:
            metadata = self._arrays()[name]
            old = metadata["shape"]
            shapes = [data[name].shape for data in rows.values() if name in data]
            shape = np.max([old[1:], *shapes], axis=0).tolist()
            metadata = {**metadata, "shape": [max(old[0], max(rows) + 1), *shape]}
            self._arrays()[name] = metadata
            array = layout.array_of(self._store, name, metadata)
            longest = max(1, SLAB_BYTES // max(1, int(np.prod(shape)) * array.dtype.itemsize))
            for start, stop in runs(rows, longest):
                slab = np.full((stop - start, *shape), array.fill_value, array.dtype)
                for i in range(start, stop):
                    if name in rows[i]:
                        data = rows[i][name]
                        slab[(i - start, *(slice(n) for n in data.shape))] = data
                array[start:stop] = slab

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

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Turn what a disk refuses into an error with a remedy."""
        try:
            yield
        except OSError as error:
            remedies = {
                errno.ENOSPC: "free some space and run again; it goes on from here",
                errno.EDQUOT: "free some of your quota and run again; it goes on from here",
                errno.EFBIG: "raise the file size limit (ulimit -f) and run again",
                errno.EROFS: "the cache folder must be writable",
                errno.EACCES: "the cache folder must be writable; check its owner and mode",
                errno.EPERM: "the cache folder must be writable; check its owner and mode",
            }
            raise StoreError(
                f"cannot write: {error.strerror or error}",
                path=self.path,
                remedy=remedies.get(error.errno, "check the disk and run again"),
            ) from error


def _clean(text: str) -> str:
    """One line of valid UTF-8: an error message may hold anything that a file name can."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def runs(numbers: Iterable[int], longest: int) -> Iterator[tuple[int, int]]:
    """Cut sorted numbers into runs (first, past the last) of at most `longest`."""
    start = previous = None
    for n in sorted(numbers):
        if start is None:
            start = n
        elif n != previous + 1 or n - start >= longest:
            yield start, previous + 1
            start = n
        previous = n
    if start is not None:
        yield start, previous + 1
