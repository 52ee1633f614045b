"""Writing a store: plan what is missing, buffer rows, commit.

A commit writes shards first, then the index, then the root; see `layout`. Data go to their shards
whenever enough memory is used; the index, which costs more the more rows there are, is written
only every few seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from skimage.measure import label

from pipeline.errors import StageFailed, StoreError
from pipeline.io import ProcessLock, writing
from pipeline.store.folders import Folders
from pipeline.store.identity import canonical, identity_diff, identity_hash
from pipeline.store.index import Index, index_name, shown_columns, write_column
from pipeline.store.items import FeatureRow, MaskRow, WorkItem
from pipeline.store.layout import (
    FEATURES,
    GOOD,
    LAYOUT,
    MASKS,
    Data,
    Kind,
    Row,
    kind_of,
    make_root,
    read_root,
    to_json,
    write_files,
    write_root,
)
from pipeline.store.plan import Plan, make_plan
from pipeline.store.reader import load_commit, open_folder, read_text, text_crc
from pipeline.store.shards import TILE, DataArray, RowReader, data_arrays, write_rows

COMMIT_SECONDS = 5.0
COMMIT_BYTES = 64 << 20
TEXT_ARRAYS = ("view", "text_features", "class", "template")

Prepared = tuple[WorkItem, Row, Data]
"""A computed row: its item, its index values, its data by array name."""


@dataclass(frozen=True)
class ShardEntry:
    """Rows that were written into a shard and are not in the index yet.

    Args:
        first: number of the first row.
        rows: their index values, in order.
    """

    first: int
    rows: tuple[Row, ...]


def write_shard(path: str | os.PathLike, first: int, rows: Sequence[Prepared]) -> ShardEntry:
    """Write rows into a shard of their own; they count once the store's writer commits the entry.

    This is the part of the writer's work that other processes can do, without its lock: each
    writes the shard whose number it got from `StoreWriter.reserve`.

    Args:
        path: the folder that is written (`StoreWriter.root`).
        first: number of the shard's first row.
        rows: at most a shard of rows, made by `StoreWriter.prepare`.
    """
    path = Path(path)
    root = read_root(path)
    arrays = data_arrays(kind_of(path, root), root["consolidated_metadata"]["metadata"])
    with writing(path):
        write_rows(path, arrays, first, [data for _, _, data in rows])
    return ShardEntry(first, tuple(_index_row(item, values) for item, values, _ in rows))


class StoreWriter:
    """The one writer of a store; base of `MaskStoreWriter` and `FeatureStoreWriter`.

    Used as a context manager: it holds the store's lock, and on a clean exit it commits. After an
    interruption it commits too; after another error only what was committed before is kept.

    Args:
        path: the store.
        identity: everything that decides its content, JSON values.
        on_mismatch: what to do with a store of another identity: "refuse" (StoreError with the
            difference) or "rebuild" (a new store is built next to it, and replaces it when the run
            has ended well).
        attrs: more attributes for people who open the store (dataset, model, versions).
        commit_seconds: time between two commits.
        commit_bytes: bytes of data that are kept in memory.
    """

    kind: Kind

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
        self._folders = Folders(self.path)
        self._lock = ProcessLock(self.path.with_name(self.path.name + ".lock"))
        self._forget()
        self._manifest: dict[str, tuple[str, str]] | None = None
        self._replaced: frozenset[str] | None = frozenset()  # None = unknown which rows
        self._replaced_because = ""
        self._sources: set[str] = set()  # ids whose rows may be copied from
        self._twins: dict[str, str] | None = None
        self._last_commit = time.monotonic()
        self._commit_took = 0.0

    def _forget(self) -> None:
        self._root: dict[str, Any] | None = None
        self._index = Index(self.kind.columns)
        self._shown: dict[str, np.ndarray] | None = None  # columns on disk for plain readers
        self._next = 0  # number of the next row
        self._written = 0  # rows before this number are in their shards
        self._buffer: list[Data] = []  # data of rows from `_written` on
        self._bytes = 0
        self._rows: list[Row] = []  # index values of rows that no commit lists yet
        self._changed = False

    # -- what a kind of store defines ---------------------------------------------------------

    def encode_row(self, row: Any) -> tuple[Row, Data]:
        """Return a row's index values (checksums included) and its data by array name."""
        raise NotImplementedError

    def data_arrays(self, items: Sequence[WorkItem]) -> list[DataArray]:
        """Return the data arrays of a new store."""
        raise NotImplementedError

    def more_arrays(self, files: dict[str, bytes]) -> dict[str, dict]:
        """Add the files of arrays without rows to `files`; return their metadata by name."""
        return {}

    # -- opening and closing ------------------------------------------------------------------

    @property
    def root(self) -> Path:
        """The folder that is written: the store, or its replacement."""
        return self._folders.work

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

    def _open(self) -> None:
        self._folders.recover()
        self._folders.check_ours((*self.kind.columns, *self.kind.sums, *TEXT_ARRAYS))
        try:
            self._convert()
            if self._load(self.path):
                return
            problem = None
        except StoreError as error:
            problem = error
        if problem is None:
            self._folders.clear(self.path)
            return
        if self.on_mismatch == "refuse":
            raise problem
        self._note_replaced()
        self._folders.work = self._folders.rebuild
        try:
            if self._load(self.root):
                return
        except StoreError:
            pass  # an unfinished rebuild that cannot be used
        self._folders.clear(self.root)

    def _convert(self) -> None:
        """Convert a store of layout 1 first."""
        try:
            read_root(self.path, layout=1)
        except StoreError:
            return
        from pipeline.store.convert import convert_open

        convert_open(self.path, self._folders)

    def _load(self, folder: Path) -> bool:
        """Continue with the store in a folder; False when there is none.

        Raises:
            StoreError: it cannot be read, or has another identity.
        """
        self._forget()
        if not (folder / "zarr.json").exists():
            names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
            if any(not name.startswith((".", "index-")) for name in names):
                raise StoreError(
                    "the store's zarr.json is lost",
                    path=self.path,
                    remedy="restore it (dvc checkout), or pass --force to compute the store again",
                )
            return False
        fd = open_folder(folder)
        try:
            root, index = load_commit(folder, fd)
        finally:
            os.close(fd)
        if not root["consolidated_metadata"]["metadata"]:
            return False  # a killed writer got no further than the empty root
        stored = root["attributes"]["identity"]
        if stored != self.identity:
            lines = "".join(f"\n  {line}" for line in identity_diff(stored, self.identity))
            raise StoreError(
                f"the store was made with other choices:{lines}\n",
                path=self.path,
                remedy="set them back, or pass --force without --only and --limit to compute the "
                "whole store again",
            )
        self._root, self._index = root, index
        self._next = self._written = root["attributes"]["rows"]
        self._shown = shown_columns(self.kind, index, self._next)
        return True

    def _note_replaced(self) -> None:
        """Remember the rows of the store that is replaced, and which choices differ."""
        try:
            fd = open_folder(self.path)
            try:
                root, index = load_commit(self.path, fd)
            finally:
                os.close(fd)
        except StoreError:
            self._replaced, self._replaced_because = None, "the store could not be read"
            return
        lines = identity_diff(root["attributes"]["identity"], self.identity)
        choices = ", ".join(line.split(":", 1)[0] for line in lines)
        self._replaced = frozenset(index.position)
        self._replaced_because = f"the store was made with other choices: {choices}"

    def finish(self) -> None:
        """Commit; put a rebuilt store in its place; compact a store that is mostly superseded."""
        self.commit()
        if self._root is None:
            return
        with writing(self.path):
            if self.root == self._folders.rebuild:
                self._folders.replace(self.root)
            elif self._folders.rebuild.exists():
                self._folders.clear(self._folders.rebuild)
                self._folders.rebuild.rmdir()
            if 2 * len(self._index) <= self._next and len(self._index):
                self.compact()

    def compact(self) -> None:
        """Copy the rows that the index lists into a new store, which replaces this one.

        Nothing is decoded. A store with lost rows is left as it is.
        """
        reader = self._reader()
        rows = self._index.rows()
        try:
            if reader.broken(rows, verify=False)[0]:
                return
            new = self._folders.compact
            self._folders.clear(new)
            step = max(array.rows for array in reader.arrays.values())
            for first in range(0, len(rows), step):
                part = rows[first : first + step]
                chunks = [reader.raw(row) if row["status"] in GOOD else {} for row in part]
                write_rows(new, reader.arrays, first, chunks)
        except ValueError:
            return  # a damaged row; a later run computes it again and then compacts
        finally:
            os.close(reader.folder)
        for number, row in enumerate(rows):
            self._index.set({**row, "row": number})
        others = self._arrays().keys() - self.kind.sums.keys() - set(self.kind.shown)
        files = [f for name in sorted(others) for f in (self.root / name).rglob("*") if f.is_file()]
        write_files(new, {f.relative_to(self.root).as_posix(): f.read_bytes() for f in files})
        self._folders.work = new
        self._next = self._written = len(rows)
        self._shown = None
        self._commit_index()
        self._folders.replace(new)

    # -- planning -----------------------------------------------------------------------------

    def plan(
        self,
        items: Sequence[WorkItem],
        *,
        force: bool = False,
        verify: bool = False,
    ) -> Plan:
        """Sort items into those to compute, to copy and to reuse.

        Args:
            items: all items wanted.
            force: compute all.
            verify: compare every stored row with its checksum (else only look for its files).
        """
        if self._root is None:
            with writing(self.path):
                self._create(items)
        # An interrupted rebuild is continued, not begun again.
        force = force and self.root == self.path
        lost, damaged = (set(), set())
        if not force and len(self._index):
            reader = self._reader()
            try:
                lost, damaged = reader.broken(self._index.rows(), verify=verify)
            finally:
                os.close(reader.folder)
        replaced = {
            item.image_id: self._replaced_because
            for item in items
            if self._replaced is None or item.image_id in self._replaced
        }
        plan = make_plan(
            self._index,
            items,
            lost=lost,
            damaged=damaged,
            replaced=replaced,
            force=force,
        )
        self._twins = None
        self._sources = {item.image_id for item in plan.reused}
        self._sources |= {item.image_id for item, _ in plan.todo}
        return plan

    def _reader(self) -> RowReader:
        arrays = data_arrays(self.kind, self._arrays())
        return RowReader(open_folder(self.root), self.kind, arrays)

    # -- writing ------------------------------------------------------------------------------

    def write(self, items: Sequence[WorkItem], rows: Sequence[Any]) -> None:
        """Take computed rows, one per item; they are committed after some seconds.

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
            self.put_row(_index_row(item, values), data)
        waited = time.monotonic() - self._last_commit
        # On a slow disk, or with very many rows, commits become rarer instead of dominating.
        patience = max(self.commit_seconds, 10 * self._commit_took if self.commit_seconds else 0)
        if waited >= patience:
            self.commit()
        elif self._bytes >= self.commit_bytes:
            self.flush()

    def put_row(self, row: Row, data: Data) -> None:
        """Take a row whose index values are complete; it waits for the next commit."""
        self._rows.append({**row, "row": self._next})
        self._next += 1
        self._buffer.append(data)
        self._bytes += sum(a.nbytes for a in data.values())

    def write_failed(self, item: WorkItem, reason: str) -> None:
        """Record that an item has no data, and why."""
        text = " ".join(reason.encode("utf-8", "replace").decode().split())
        self.put([(item, {"status": "failed", "reason": text}, {})])

    def copy(self, item: WorkItem) -> bool:
        """Write `item` as a copy of a row with the same key that the plan computed or reused.

        Call it after all rows to be copied from were written.

        Returns:
            False when there is no such row, or it is not good.
        """
        if self._twins is None:
            self.commit()
            values = self._index.values
            columns = zip(values["key"], values["status"], values["image_id"], strict=True)
            self._twins = {  # no other rows: a forced run has not computed those yet
                key: name
                for key, status, name in columns
                if status in GOOD and name in self._sources
            }
        twin = self._twins.get(item.key)
        if twin is None:
            return False
        values, reader = self._index.get(self._index.position[twin]), self._reader()
        try:
            data = reader.read(values)
        finally:
            os.close(reader.folder)
        if data is None:
            return False
        self.put([(item, values, data)])
        return True

    def sync_manifest(self, manifest: pd.DataFrame) -> None:
        """Refresh label, split and in_manifest of all rows from the manifest; computes nothing.

        Rows that the manifest does not list any more stay, with in_manifest False.
        """
        if "image_id" in manifest.columns:
            manifest = manifest.set_index("image_id")
        columns = zip(manifest.index, manifest["label"], manifest["split"], strict=True)
        self._manifest = {str(k): (str(a), str(b)) for k, a, b in columns}
        values = self._index.values
        now = [
            (*self._manifest.get(image_id, (label, split)), image_id in self._manifest)
            for image_id, label, split in zip(
                values["image_id"], values["label"], values["split"], strict=True
            )
        ]
        for k, name in enumerate(("label", "split", "in_manifest")):
            column = [entry[k] for entry in now]
            if column != values[name]:
                values[name] = column
                self._changed = True

    def _synced(self, row: Row) -> Row:
        if self._manifest is None:
            return row
        listed = self._manifest.get(row["image_id"])
        label, split = listed or (row["label"], row["split"])
        return {**row, "label": label, "split": split, "in_manifest": listed is not None}

    def reserve(self) -> int:
        """Return the first row number of a shard for `write_shard`; nobody else writes it."""
        step = max(array.rows for array in data_arrays(self.kind, self._arrays()).values())
        self.flush()
        first = -(-self._next // step) * step
        self._next = self._written = first + step
        return first

    def commit(self, entries: Iterable[ShardEntry] = ()) -> None:
        """Make all rows so far permanent, and those that `write_shard` wrote.

        Raises:
            DiskError: full disk, read-only folder; what was committed before is kept.
        """
        for entry in entries:
            self._rows += [{**row, "row": entry.first + k} for k, row in enumerate(entry.rows)]
        if self._root is None or not (self._rows or self._changed):
            return
        begin = time.monotonic()
        with writing(self.path):
            self._write_rows()
            for row in self._rows:
                self._index.set(self._synced(row))
            self._commit_index()
            self._rows.clear()  # only now, so that a commit that failed can be tried again
        self._changed = False
        self._last_commit = time.monotonic()
        self._commit_took = self._last_commit - begin

    def flush(self) -> None:
        """Write the buffered rows into their shards. They count once a commit lists them."""
        with writing(self.path):
            self._write_rows()

    def _write_rows(self) -> None:
        if self._buffer:
            arrays = data_arrays(self.kind, self._arrays())
            for name, array in arrays.items():  # images may be larger than all before
                shapes = [data[name].shape for data in self._buffer if name in data]
                shape = np.max([array.shape, *shapes], axis=0).tolist()
                if shape != list(array.shape):
                    metadata = self._arrays()[name]
                    self._arrays()[name] = {**metadata, "shape": [metadata["shape"][0], *shape]}
            write_rows(self.root, arrays, self._written, self._buffer)
            self._buffer = []
            self._bytes = 0
        self._written = self._next

    def _arrays(self) -> dict[str, dict]:
        return self._root["consolidated_metadata"]["metadata"] if self._root else {}

    def _create(self, items: Sequence[WorkItem]) -> None:
        """Write an empty store: a folder with data but without a root is never one of ours."""
        self._root = make_root({}, {})
        self._commit_index(columns=())
        files: dict[str, bytes] = {}
        self._arrays().update({array.name: array.metadata(0) for array in self.data_arrays(items)})
        self._arrays().update(self.more_arrays(files))
        write_files(self.root, files)
        self._shown = None
        self._commit_index()

    def _attrs(self) -> dict[str, Any]:
        return {
            **self._root["attributes"],
            **self.extra_attrs,
            "store": self.kind.name,
            "layout": LAYOUT,
            "identity": self.identity,
            "identity_hash": self.identity_hash,
            "coordinates": " ".join(self.kind.shown),
        }

    def _commit_index(self, columns: Sequence[str] | None = None) -> None:
        """Write the index and the columns for plain readers (default: all), then the root."""
        index = self._index.to_bytes()
        name, crc = index_name(index)
        files = {name: index}
        arrays = dict(self._arrays())
        shown = shown_columns(self.kind, self._index, self._next)
        for column in self.kind.shown if columns is None else columns:
            arrays[column] = write_column(
                files,
                column,
                self.kind.columns[column][0],
                shown[column],
                old=None if self._shown is None else self._shown[column],
                metadata=arrays.get(column),
            )
        for column, metadata in arrays.items():
            if column in self.kind.sums:
                arrays[column] = {**metadata, "shape": [self._next, *metadata["shape"][1:]]}
            content = to_json(arrays[column])
            if arrays[column] != self._arrays().get(column) or self._shown is None:
                files[f"{column}/zarr.json"] = content
        write_files(self.root, files)
        attrs = {**self._attrs(), "rows": self._next, "index": name, "index_crc": crc}
        before = self._root["attributes"].get("index")
        root = make_root(attrs, arrays)
        write_root(self.root, root)
        self._root, self._shown = root, shown
        for old in self.root.glob("index-*.parquet"):  # readers may just be at the one before
            if old.name not in (name, before):
                old.unlink()


def _index_row(item: WorkItem, values: Row) -> Row:
    """Return the index values of an item's row."""
    return {
        **values,
        "image_id": item.image_id,
        "label": str(item.row.get("label", "")),
        "split": str(item.row.get("split", "")),
        "in_manifest": True,
        "sha256": str(item.row.get("sha256", "")),
        "key": item.key,
    }


class MaskStoreWriter(StoreWriter):
    """The writer of a mask store; parameters as for `StoreWriter`.

    with MaskStoreWriter(path, mapper.identity) as writer:
        writer.sync_manifest(manifest)
        run_stage("segment", items, mapper, writer, ...)
    """

    kind = MASKS

    def data_arrays(self, items: Sequence[WorkItem]) -> list[DataArray]:
        """One chunk per mask up to 1024 px a side, tiles above.

        Chunks are rounded up to 256 px: the padding compresses to nothing, and somewhat larger
        images can be added later without a second chunk.
        """
        sides = [
            max([int(item.row.get(name) or 0) for item in items], default=0) or TILE
            for name in ("height", "width")
        ]
        chunk = [min(TILE, -(-n // 256) * 256) for n in sides]
        new = DataArray.new("mask", ("image", "y", "x"), chunk, "bool", compressed=True)
        return [DataArray(**{**vars(new), "shape": (1, 1)})]

    def encode_row(self, row: MaskRow) -> tuple[Row, Data]:
        """Return index values and data of a mask row."""
        mask = np.asarray(row.mask)
        if mask.ndim != 2 or mask.dtype != bool or not mask.size:
            raise ValueError(f"a mask is bool (h, w), not {mask.dtype} {mask.shape}")
        area = int(np.count_nonzero(mask))
        components = row.components
        if components < 0:
            components = int(label(mask, connectivity=2, return_num=True)[1])
        data = {"mask": mask}
        return {
            "status": row.status,
            "reason": row.reason,
            **MASKS.checksums(data),
            "height": mask.shape[0],
            "width": mask.shape[1],
            "area": area,
            "area_fraction": area / mask.size,
            "predicted_iou": float(row.predicted_iou),
            "stability": float(row.stability),
            "components": components,
            "prompt": row.prompt,
        }, data


class FeatureStoreWriter(StoreWriter):
    """The writer of a feature store.

        with FeatureStoreWriter(path, mapper.identity, views=("whole", "masked"), dim=1280) as w:
            w.sync_manifest(manifest)
            if w.text_identity != text_identity:
                w.set_text(T, classes=..., templates=..., identity=text_identity)
            run_stage("encode", items, mapper, w, ...)

    Args:
        path: e.g. cache/brain/features.zarr.
        identity: the mapper's `identity`, without the text side. Views, `dim` and `tokens` are
            added to it.
        views: names of the views, in the order of `FeatureRow.features`.
        dim: length d of a feature.
        tokens: tokens per view where patch tokens are kept, 0 = not kept.
        on_mismatch, attrs, timing: as for `StoreWriter`.
    """

    kind = FEATURES

    def __init__(
        self,
        path: str | os.PathLike,
        identity: Mapping[str, Any],
        *,
        views: Sequence[str],
        dim: int,
        tokens: int = 0,
        on_mismatch: str = "refuse",
        attrs: Mapping[str, Any] | None = None,
        **timing: float,
    ):
        self.views, self.dim, self.tokens = tuple(views), int(dim), int(tokens)
        super().__init__(
            path,
            {**identity, "views": list(self.views), "dim": self.dim, "tokens": self.tokens},
            on_mismatch=on_mismatch,
            attrs={**(attrs or {}), "views": list(self.views)},
            **timing,
        )

    def data_arrays(self, items: Sequence[WorkItem]) -> list[DataArray]:
        """One chunk per image with all its views, not compressed."""
        views, dim = len(self.views), self.dim
        dims = ("image", "view", "feature")
        found = [DataArray.new("image_features", dims, (views, dim), "float32", compressed=False)]
        if self.tokens:
            dims, shape = ("image", "view", "token", "feature"), (views, self.tokens, dim)
            found.append(DataArray.new("tokens", dims, shape, "float32", compressed=False))
        return found

    def more_arrays(self, files: dict[str, bytes]) -> dict[str, dict]:
        """The names of the views."""
        n = len(self.views)
        views = np.array(self.views, dtype=object)
        return {"view": write_column(files, "view", "string", views, dims=("view",), chunks=(n,))}

    def encode_row(self, row: FeatureRow) -> tuple[Row, Data]:
        """Return index values and data of a feature row."""
        data = {"image_features": np.asarray(row.features, dtype=np.float32)}
        wanted = {"image_features": (len(self.views), self.dim)}
        if self.tokens:
            if row.tokens is None:
                raise ValueError(f"{row.image_id!r}: the store keeps tokens, the row has none")
            data["tokens"] = np.asarray(row.tokens, dtype=np.float32)
            wanted["tokens"] = (len(self.views), self.tokens, self.dim)
        for name, shape in wanted.items():
            if data[name].shape != shape:
                raise ValueError(f"{row.image_id!r}: {name} {data[name].shape}, not {shape}")
        features = data["image_features"]
        absent = np.isnan(features).all(axis=1)
        if not np.isfinite(features[~absent]).all():
            raise ValueError(f"{row.image_id!r}: a feature is not finite")
        return {
            "status": row.status,
            "reason": row.reason,
            **FEATURES.checksums(data),
            "mask_status": row.mask_status,
            "mask_crc": row.mask_crc,
        }, data

    @property
    def text_identity(self) -> dict[str, Any] | None:
        """Identity of the stored text features; None when there are none, or damaged ones."""
        return None if self._text() is None else self._root["attributes"]["text_identity"]

    def set_text(
        self,
        features: np.ndarray,
        *,
        classes: Sequence[str],
        templates: Sequence[str],
        identity: Mapping[str, Any],
        prompts: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Replace the text features; images are not touched.

        Text features have an identity and a checksum of their own, so that a changed template or
        class list replaces these few kilobytes and no image is encoded again.

        Args:
            features: float32 (class, template, feature), not averaged.
            classes: class names = the manifest's labels.
            templates: templates with "{}" for the class's words.
            identity: everything that decides these features, JSON values.
            prompts: class -> full prompts, for people who read the store's attributes.
        """
        features = np.asarray(features, dtype=np.float32)
        if features.ndim != 3 or features.shape[:2] != (len(classes), len(templates)):
            raise ValueError(
                f"text features have shape {features.shape}, not (class, template, feature) = "
                f"({len(classes)}, {len(templates)}, d)"
            )
        if len(set(classes)) != len(classes):
            raise ValueError("class names must differ")
        if not np.isfinite(features).all():
            raise ValueError("text features must be finite")
        with writing(self.path):
            if self._root is None:
                self._create([])
            self.commit()
            texts = {"class": classes, "template": templates}
            files: dict[str, bytes] = {}
            names = {name: (np.array(list(v), dtype=object), (name,)) for name, v in texts.items()}
            dims = ("class", "template", "feature")
            for name, (values, axes) in {**names, "text_features": (features, dims)}.items():
                dtype = "float32" if values is features else "string"
                old, shape = self._arrays().get(name), values.shape
                self._arrays()[name] = write_column(
                    files, name, dtype, values, dims=axes, chunks=shape, metadata=old
                )
                files[f"{name}/zarr.json"] = to_json(self._arrays()[name])
            write_files(self.root, files)
            self._root["attributes"] |= {
                "text_identity": canonical(identity),
                "text_crc": text_crc(features, classes, templates),
                "classes": list(classes),
                "templates": list(templates),
                "prompts": {k: list(v) for k, v in (prompts or {}).items()},
            }
            self._commit_index()

    def _text(self) -> np.ndarray | None:
        if self._root is None:
            return None
        fd = open_folder(self.root)
        try:
            return read_text(self.path, fd, self._root)
        except StoreError:
            return None
        finally:
            os.close(fd)
