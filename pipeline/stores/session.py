"""A store held open by its one writer: lock, identity, recovery after a kill, the index commit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pipeline.engine.items import WorkItem
from pipeline.errors import StageFailed, StoreError
from pipeline.io import ProcessLock, writing
from pipeline.stores import index as idx
from pipeline.stores import layout
from pipeline.stores.identity import canonical, identity_diff, identity_hash
from pipeline.stores.kinds import Kind
from pipeline.stores.swap import Workplace


class StoreSession:
    """Base of `StoreWriter`: everything but rows.

    Args:
        path: the store.
        identity: everything that decides its content, JSON values.
        on_mismatch: what to do with a store of another identity, "refuse" or "rebuild".
        attrs: more attributes of the root.
    """

    store_kind: Kind

    def __init__(
        self,
        path: str | os.PathLike,
        identity: Mapping[str, Any],
        *,
        on_mismatch: str = "refuse",
        attrs: Mapping[str, Any] | None = None,
    ):
        if on_mismatch not in ("refuse", "rebuild"):
            raise ValueError(f"on_mismatch: {on_mismatch!r} is not refuse or rebuild")
        self.path = Path(path)
        self.identity = canonical(identity)
        self.identity_hash = identity_hash(identity)
        self.on_mismatch = on_mismatch
        self.extra_attrs = dict(attrs or {})
        self._place = Workplace(self.path)
        self._lock = ProcessLock(self.path.with_name(self.path.name + ".lock"))
        self._index = idx.Index(self.store_kind.columns)
        self._root: dict[str, Any] | None = None
        self._more_arrays: dict[str, dict] = {}
        self._tracked: layout.TrackedStore | None = None
        self._replaced: frozenset[str] | None = frozenset()  # None = nobody knows which rows
        self._replaced_because = ""

    def commit(self) -> None:
        """Make all rows so far permanent."""
        raise NotImplementedError

    def data_specs(self, items: Sequence[WorkItem]) -> list[layout.ArraySpec]:
        """Return the data arrays of a new store."""
        raise NotImplementedError

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
            if kind is None:
                self.finish()
            elif issubclass(kind, (KeyboardInterrupt, StageFailed)):
                self.commit()
        finally:
            self._lock.release()

    def finish(self) -> None:
        """Commit, and put a store that was built beside an older one in its place."""
        self.commit()
        if self._root is not None:
            with writing(self.path):
                self._place.finish()

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
        self._note_replaced()
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
            remedy="set them back, or pass --force without --only and --limit to compute the whole "
            "store again",
        )

    def _note_replaced(self) -> None:
        """Remember the rows of the store that is being replaced, and what is different now."""
        try:
            old = idx.load(self.root, self.store_kind.columns, patience=0.0)
            lines = identity_diff(old.root["attributes"]["identity"], self.identity)
        except StoreError:
            self._replaced, self._replaced_because = None, "the store could not be read"
            return
        self._replaced = frozenset(old.index.position)
        choices = ", ".join(line.split(":", 1)[0] for line in lines)
        self._replaced_because = f"the store was made with other choices: {choices}"

    @property
    def _store(self) -> layout.TrackedStore:
        if self._tracked is None or self._tracked.root != self.root:
            self._tracked = layout.TrackedStore(self.root)
        return self._tracked

    def _stored_identity(self) -> dict[str, Any] | None:
        """Identity of the store in the folder that is worked in, None when there is none yet."""
        if (self.root / "zarr.json").exists():
            return layout.read_root(self.root)["attributes"]["identity"]
        if any((self.root / "image_id").glob("c*")):
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
        self._add_columns()

    def _add_columns(self) -> None:
        """Give a store of an earlier version the index columns that it lacks, as they were read."""
        there = self._arrays()
        specs = [idx.column_spec(n, dtype) for n, (dtype, _) in self.store_kind.columns.items()]
        later = {spec.name: layout.new_metadata(spec) for spec in specs if spec.name not in there}
        if later:
            there.update(later)
            with writing(self.path):
                self._commit_index()

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
        self._commit_index(0)

    def _commit_index(self, start: int | None = None) -> None:
        """Write the index, then the root that commits it.

        Args:
            start: the first row that is new, where all before it are unchanged; None = rows have
                changed, so that all columns go to other files.
        """
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
            if start is None and name in self._index.columns:
                metadata[name] = layout.moved(metadata[name])
        root = layout.make_root(attrs, metadata)
        # Arrays' own metadata go ahead of the root and never lag behind it, since readers of data
        # (`RowReader`) open arrays by it and must reach every row of the root. Being many files,
        # it could not be of one moment in either order; only the root is.
        idx.write_columns(self._store, metadata, self._index, start or 0)
        for name in metadata.keys() - self._index.columns.keys():
            layout.write_metadata(self._store, name, metadata[name])
        self._store.flush()
        layout.write_json(self.root / "zarr.json", root)
        self._root = root
