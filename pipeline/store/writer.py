"""Writing a store: plan what is missing, collect rows, commit.

A commit writes shards first, then the index, then the root; see `layout`. A store is created, or
computed again as a whole, in the hidden folder `.<name>.rebuild`, which is renamed when it is
complete and continued after an interruption. A replaced store is deleted at once, or, while a
reader has it open, by a later writer.

At a URL there are no folders to rename: a store is created in its place, root last, and one of
another identity is refused.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from skimage.measure import label

from pipeline import remote
from pipeline.errors import StageFailed, StoreError
from pipeline.io import ProcessLock, fsync_path, sha256_json, writing
from pipeline.store import layout
from pipeline.store.items import (
    CandidateRow,
    EmbeddingRow,
    FeatureRow,
    MaskRow,
    Plan,
    WorkItem,
    canonical,
    identity_diff,
)
from pipeline.store.layout import (
    CANDIDATES,
    EMBEDDINGS,
    FEATURES,
    KINDS,
    MASKS,
    POOLED_FEATURES,
    Data,
    DataArray,
    Kind,
    Row,
    checksum,
)
from pipeline.store.lock import RemoteLock
from pipeline.store.reader import StoreReader, text_crc

COMMIT_SECONDS = 5.0
REMOTE_COMMIT_SECONDS = 30.0  # at a URL each writes about 20 objects
COMMIT_BYTES = 256 << 20
FAILED = "failed before"

Prepared = tuple[Row, Data]  # a computed row: its index values, its data by array name


class WrittenShard(NamedTuple):
    """Rows that another process wrote for `StoreWriter.adopt`: the folder with their files, and
    what the index lists of each."""

    folder: Path
    rows: list[Row]


class StoreWriter:
    """The one writer of a store; base of `MaskStoreWriter` and `FeatureStoreWriter`.

    Used as a context manager: it holds the store's lock, and on a clean exit it commits. After an
    interruption it commits too; after another error only what was committed before is kept.

    Its copies in other processes, to which it is pickled without lock and index, can `prepare`
    rows and `write_shard`. A shard has no place in the store before `adopt` gives it one: whatever
    a worker that was thought dead still writes, nobody reads.

    Args:
        path: the store, or its URL.
        identity: everything that decides its content, JSON values.
        on_mismatch: "refuse" a store of another identity (StoreError with the difference);
            "rebuild" it: a new store is built next to it and replaces it when the run has ended
            well; or "force", which rebuilds a store of the same identity too.
        attrs: more attributes for people who open the store (dataset, model, versions).
        commit_seconds: time between two commits; default 5, at a URL 30.
    """

    kind: Kind
    encode_row: Callable[[Any], tuple[Row, Data]]  # ValueError where a row is not usable
    new_arrays: Callable[[Sequence[WorkItem], dict[str, bytes]], dict[str, dict]]  # their metadata

    def __init__(
        self,
        path: str | os.PathLike,
        identity: Mapping[str, Any],
        *,
        on_mismatch: str = "refuse",
        attrs: Mapping[str, Any] | None = None,
        commit_seconds: float | None = None,
    ):
        self.path = self.root = remote.as_path(path)
        self.is_remote = remote.is_url(path)
        self.identity = canonical(identity)
        self.identity_hash = sha256_json(self.identity)
        self.on_mismatch = on_mismatch
        self.extra_attrs = dict(attrs or {})
        if commit_seconds is None:
            commit_seconds = REMOTE_COMMIT_SECONDS if self.is_remote else COMMIT_SECONDS
        self.commit_seconds = commit_seconds
        self._rebuild = layout.rebuild_of(self.path)
        lock = RemoteLock if self.is_remote else ProcessLock
        self._lock = lock(self.path.with_name(self.path.name + ".lock"))
        self._last: StoreReader | None = None  # the last commit
        self._pending: list[Prepared] = []  # rows from `_next` on
        self._adopted: list[Row] = []  # rows before `_next`, whose shards are in their places
        self._next = self._bytes = 0
        self._manifest: pa.Table | None = None
        self._before = ""  # at a URL: the index before the last commit's
        self._replaced = ""  # why the store is rebuilt
        self._sources: dict[str, str] = {}  # key -> image_id of the row that copies are made of
        self._last_commit, self._commit_took = time.monotonic(), 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

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

    def _clean(self) -> None:
        """Complete a replacement that a kill interrupted between its two renames; remove what is
        left of earlier runs."""
        replaced = list(self.path.parent.glob(f".{glob.escape(self.path.name)}.replaced*"))
        if replaced and not self.path.exists() and self._rebuild.exists():
            os.rename(self._rebuild, self.path)
        for folder in (self.path, self._rebuild):
            for partial in folder.glob(f"{layout.PARTIAL}*"):
                shutil.rmtree(partial, ignore_errors=True)
        for old in replaced:
            if not in_use(old):
                shutil.rmtree(old, ignore_errors=True)

    def _open(self) -> None:
        if self.is_remote:
            return self._open_remote()
        self._clean()
        names = sorted(os.listdir(self.path)) if self.path.exists() else []
        if names and "zarr.json" not in names:
            message = f"a folder without zarr.json: {', '.join(names[:3])}"
            remedy = "restore the store (dvc checkout), or move the folder away"
            raise StoreError(message, path=self.path, remedy=remedy)
        try:
            self._load(self.path)
            if self._last is None or self.on_mismatch != "force":
                return
            self._replaced = "forced"
        except StoreError as error:
            if self.on_mismatch == "refuse":
                raise
            self._replaced = error.message
        self.root, self._last, self._next = self._rebuild, None, 0
        with suppress(StoreError):  # an unfinished rebuild that cannot be used
            self._load(self.root)

    def _open_remote(self) -> None:
        files = remote.files_in(self.root)
        if self.root / "zarr.json" not in files:
            return  # there is none, or it was being created
        try:
            self._load(self.root)
        except StoreError as error:
            error.remedy = f"set them back, or delete the store ({self._delete}) and run again"
            raise
        if self.on_mismatch == "force":
            message = "a store at a URL is not computed again beside the one that is read"
            raise StoreError(message, path=self.path, remedy=f"delete it first: {self._delete}")
        for file in files:  # left by a kill
            old = file.name.startswith("index-") and file.name != self._last.attrs["index"]
            if old or layout.PARTIAL in str(file):
                remote.remove(file)

    @property
    def _delete(self) -> str:
        return f"aws s3 rm --recursive {self.path}"

    def _load(self, folder: Path) -> None:
        """Continue with the store in a folder, if there is one; StoreError where that cannot be."""
        if not self.is_remote and (not folder.exists() or not os.listdir(folder)):
            return
        last = StoreReader(self.path, folder)
        if last.attrs["identity"] != self.identity:
            differences = "; ".join(identity_diff(last.attrs["identity"], self.identity))
            message = f"the store was made with other choices: {differences}"
            remedy = "set them back, or compute all again: --force without --only and --limit"
            raise StoreError(message, path=self.path, remedy=remedy)
        self._last, self._next = last, last.attrs["rows"]

    def finish(self) -> None:
        """Commit, and put a rebuilt store in its place."""
        self.commit()
        if self.is_remote:
            return
        with writing(self.path):
            if self.root == self.path or self._last is None:
                shutil.rmtree(self._rebuild, ignore_errors=True)
                return
            # Renamed onto an empty folder, so that the name is free.
            prefix = f".{self.path.name}.replaced"
            os.rename(self.path, tempfile.mkdtemp(prefix=prefix, dir=self.path.parent))
            self._move()
            self._clean()

    def _move(self) -> None:
        os.rename(self._rebuild, self.path)
        fsync_path(self.path.parent)
        self.root = self.path

    def plan(self, items: Sequence[WorkItem], *, force: bool = False) -> Plan:
        """Sort items into those to compute, to copy and to reuse; reads every stored row.

        Args:
            items: all items wanted.
            force: compute all; an interrupted rebuild is continued all the same.
        """
        if self._last is None:
            with writing(self.path):
                self._create(items)
        force = force and self.root == self.path
        faults = {} if force else self._last.check()
        keys, sums, states = map(self._last.column, ("key", "sha256", "status"))
        lines = self._last.positions([item.image_id for item in items]).tolist()
        plan, needed, self._sources = Plan(), [], {}
        for item, line in zip(items, lines, strict=True):
            if line < 0:
                reason = self._replaced
            elif force:
                reason = "forced"
            elif keys[line].as_py() != item.key:
                changed = sums[line].as_py() != str(item.row.get("sha256", ""))
                reason = "image bytes changed" if changed else "prompt, mask or frame changed"
            elif states[line].as_py() == "failed":
                reason = FAILED
            elif item.image_id in faults:
                reason = f"{faults[item.image_id]} in the store"
            else:
                plan.reused.append(item)
                self._sources[item.key] = item.image_id
                continue
            needed.append((item, reason))
        needed.sort(key=lambda pair: pair[1] == FAILED)  # last, so that a limit gets past them
        for item, reason in needed:
            (plan.copies if item.key in self._sources else plan.todo).append((item, reason))
            self._sources.setdefault(item.key, item.image_id)
        return plan

    def _create(self, items: Sequence[WorkItem]) -> None:
        """Make an empty store, elsewhere, so that there is none without its root."""
        place = self.root
        if not self.is_remote:
            self.root = self._rebuild
            shutil.rmtree(self.root, ignore_errors=True)
        files: dict[str, bytes] = {}
        arrays = self.new_arrays(items, files)
        self._commit(layout.make_index(self.kind, {"image_id": []}), 0, files, arrays)
        if place == self.path and not self.is_remote:
            self._move()

    def write(self, items: Sequence[WorkItem], rows: Sequence[Any]) -> None:
        """Take computed rows, one per item; they are committed after some seconds. ValueError: a
        row is not what this store holds (shape, dtype, a feature not finite)."""
        self.put([self.prepare(item, row) for item, row in zip(items, rows, strict=True)])

    def prepare(self, item: WorkItem, row: Any) -> Prepared:
        """Check one computed row and return it as `put` takes it; ValueError as in `write`."""
        if row.image_id != item.image_id:
            raise ValueError(f"row of {row.image_id!r} given for {item.image_id!r}")
        values, data = self.encode_row(row)
        common = {"status": row.status, "reason": row.reason}
        sums = {self.kind.sums[name]: checksum(array) for name, array in data.items()}
        return common | values | sums | _item_values(item), data

    def put(self, rows: Sequence[Prepared]) -> None:
        """Take prepared rows."""
        self._pending += rows
        self._bytes += sum(array.nbytes for _, data in rows for array in data.values())
        self._commit_in_time()

    def _commit_in_time(self) -> None:
        waited = time.monotonic() - self._last_commit
        # On a slow disk, or with very many rows, commits become rarer instead of dominating.
        patience = max(self.commit_seconds, 10 * self._commit_took if self.commit_seconds else 0)
        if waited >= patience or self._bytes >= COMMIT_BYTES:
            self.commit()

    def failed(self, item: WorkItem, reason: str) -> Prepared:
        """Return the row of an item that has no data, and why."""
        return {"status": "failed", "reason": reason} | _item_values(item), {}

    def write_failed(self, item: WorkItem, reason: str) -> None:
        """Record that an item has no data, and why."""
        self.put([self.failed(item, reason)])

    def copy(self, item: WorkItem) -> bool:
        """Write `item` as a copy of the row with its key that was computed or reused; False where
        that is not good. Call it after all rows of `Plan.todo` were written."""
        source = self._sources.get(item.key)
        if self._adopted or any(row["image_id"] == source for row, _ in self._pending):
            self.commit()
        try:
            data = self._last.read(source)
        except StoreError:  # not computed, failed, lost or damaged
            return False
        (values,) = self._last.index.take(self._last.positions([source])).to_pylist()
        self.put([(values | _item_values(item), data)])
        return True

    def sync_manifest(self, manifest: pd.DataFrame) -> None:
        """Refresh label, split and in_manifest of all rows from the manifest; computes nothing.

        Rows that the manifest does not list any more stay, with in_manifest False.
        """
        columns = manifest[["image_id", "label", "split"]].astype(str)
        schema = pa.schema(dict.fromkeys(columns, pa.string()))
        self._manifest = pa.Table.from_pandas(columns, schema, preserve_index=False)

    def expected(self, items: Sequence[WorkItem]) -> int:
        """Return how many rows the store may get: of all images of the manifest, if it is known."""
        return max(len(items), len(self._manifest or ()))

    @property
    def shard_rows(self) -> int:
        """Largest number of rows that `adopt` takes: of the longest shards of the arrays, but few
        enough that a lost worker has not computed for hours."""
        return min(layout.SHARD_ROWS, max(array.rows for array in self._last.arrays.values()))

    def staging(self) -> Path:
        """Return a new folder for `write_shard`; what is left in it, the next writer removes."""
        with writing(self.path):
            return remote.new_folder(self.root, layout.PARTIAL)

    def write_shard(self, rows: Iterable[Prepared], staging: Path) -> WrittenShard:
        """Write at most `shard_rows` prepared rows into a folder of their own below `staging`.

        Needs no lock: this is the part of the writer's work that other processes do. Of each row
        no more than the bytes to be written is kept in memory.
        """
        root, listed = layout.read_root(self.root), []
        arrays = layout.data_arrays(self.kind, root["consolidated_metadata"]["metadata"])

        def data() -> Iterator[Data]:
            for row, arrays_of_row in rows:
                listed.append({**row, "row": len(listed)})
                yield arrays_of_row

        with writing(self.path):
            folder = remote.new_folder(staging)
            layout.write_rows(folder, arrays, 0, data())
        return WrittenShard(folder, listed)

    def adopt(self, shard: WrittenShard) -> None:
        """Put a shard of `write_shard` in its place, the next that is free, or at the end of a
        longer one; its rows are committed after some seconds.

        Raises:
            DiskError: its files cannot be moved.
        """
        if self._pending:
            self.commit()
        step, arrays, folders, joined = self.shard_rows, self._last.arrays, set(), {}
        first = -(-self._next // step) * step
        with writing(self.path):
            for file in remote.files_in(shard.folder):
                name, _, number, *cell = file.relative_to(shard.folder).parts
                array = arrays[name]
                place, kept = divmod(first, array.rows)
                name = array.file(place + int(number), tuple(cell))
                final = self.root / name
                if array.rows > step:  # which holds several
                    chunks = layout.chunks_of(layout.read_bytes(file), array.rows)
                    chunks = {kept + k: chunk for k, chunk in chunks.items()}
                    old = layout.read_if_there(final) if kept else b""
                    joined[name] = layout.extended(old, array.rows, kept, chunks)
                elif self.is_remote:
                    remote.move(file, final)
                else:
                    final.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(file, final)
                    folders.add(final.parent)
            for folder in folders:
                fsync_path(folder)
            if joined:
                layout.write_files(self.root, joined)
        self._adopted += [{**row, "row": first + row["row"]} for row in shard.rows]
        self._next = first + len(shard.rows)
        self._commit_in_time()

    def commit(self) -> None:
        """Make all rows so far permanent.

        Raises:
            DiskError: full disk, read-only folder; what was committed before is kept.
        """
        if self._last is None:
            return
        begin, index = time.monotonic(), self._last.index.select(list(self.kind.columns))
        pending = [{**row, "row": self._next + k} for k, (row, _) in enumerate(self._pending)]
        rows = {row["image_id"]: row for row in self._adopted + pending}  # the last of each image
        if rows:
            index = self._with_rows(index, list(rows.values()))
        synced = self._synced(index)
        if not rows and synced.equals(index):
            return
        index = synced
        with writing(self.path):
            data = [data for _, data in self._pending]
            layout.write_rows(self.root, self._last.arrays, self._next, data)
            self._commit(index, self._next + len(data))
        self._next += len(data)
        # Only now, so that a commit that failed can be tried again.
        self._pending, self._adopted, self._bytes = [], [], 0
        self._last_commit = time.monotonic()
        self._commit_took = self._last_commit - begin

    def _with_rows(self, index: pa.Table, rows: Sequence[Row]) -> pa.Table:
        """Return an index with rows in the place of those of the same images."""
        columns = {
            name: [row.get(name, default) for row in rows]
            for name, (_, default) in self.kind.columns.items()
        }
        new = layout.make_index(self.kind, columns)
        old = pc.is_in(index["image_id"], value_set=new["image_id"])
        return layout.in_order(pa.concat_tables([index.filter(pc.invert(old)), new]))

    def _synced(self, index: pa.Table) -> pa.Table:
        """Return an index with label, split and in_manifest of the manifest, if it is known."""
        if (manifest := self._manifest) is None:
            return index
        at = pc.index_in(index["image_id"], value_set=manifest["image_id"])
        known = {n: pc.coalesce(manifest[n].take(at), index[n]) for n in ("label", "split")}
        for name, values in {**known, "in_manifest": at.is_valid()}.items():
            index = index.set_column(index.column_names.index(name), name, values)
        return index.combine_chunks()

    def _commit(
        self,
        index: pa.Table,
        rows: int,
        files: dict[str, bytes] | None = None,
        arrays: Mapping[str, dict] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        """Write an index of shards with this number of rows and the columns for plain readers,
        then the root. What else belongs to the commit: files, metadata of arrays, attributes."""
        files, last, kind = dict(files or {}), self._last, self.kind
        metadata = {**(last.metadata if last is not None else {}), **(arrays or {})}
        for name, array in layout.data_arrays(kind, metadata).items():
            largest = [pc.max(index[side]).as_py() for side in kind.sides] if len(index) else ()
            shape = np.max([array.shape, largest or array.shape], axis=0).tolist()
            metadata[name] = {**metadata[name], "shape": [rows, *shape]}
            files[f"{name}/zarr.json"] = layout.to_json(metadata[name])
        for name, values in layout.shown_columns(kind, index, rows):
            dtype, old = kind.columns[name][0], metadata.get(name)
            metadata[name] = layout.write_array(files, name, dtype, ("image",), values, old)
        data = layout.index_to_bytes(index)
        crc = zlib.crc32(data)
        name = f"index-{crc:08x}.parquet"
        layout.write_files(self.root, {**files, name: data})
        attributes = {
            **(last.attrs if last is not None else {}),
            **self.extra_attrs,
            "store": kind.name,
            "layout": layout.LAYOUT,
            "identity": self.identity,
            "identity_hash": self.identity_hash,
            "coordinates": " ".join(kind.shown),
            **(attrs or {}),
            "rows": rows,
            "index": name,
            "index_crc": crc,
        }
        consolidated = {"kind": "inline", "must_understand": False, "metadata": metadata}
        root = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        root = layout.to_json({**root, "consolidated_metadata": consolidated})
        if self.is_remote:
            self._lock.check()
        layout.write_files(self.root, {"zarr.json": root})
        self._last = StoreReader(self.path, self.root)
        kept = {name, *([] if last is None else [last.attrs["index"]])}
        if self.is_remote:
            if self._before not in ("", *kept):
                remote.remove(self.root / self._before)
            self._before = "" if last is None else last.attrs["index"]
            return
        for old in self.root.glob("index-*.parquet"):  # readers may just be at the one before
            if old.name not in kept:
                old.unlink()


def in_use(folder: Path) -> bool:
    """Return whether a `StoreReader` has a store open: it holds a shared lock on the folder."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _item_values(item: WorkItem) -> Row:
    """Return the index values that an item decides."""
    given = {name: str(item.row.get(name, "")) for name in ("label", "split", "sha256")}
    return {**given, "image_id": item.image_id, "in_manifest": True, "key": item.key}


class MaskStoreWriter(StoreWriter):
    """The writer of a mask store; parameters as for `StoreWriter`."""

    kind = MASKS
    dims: tuple[str, ...] = ("image", "y", "x")
    most: int | None = None

    def new_arrays(self, items: Sequence[WorkItem], files: dict[str, bytes]) -> dict[str, dict]:
        """One chunk per mask up to 1024 px a side, tiles above.

        Chunks are rounded up to 256 px: the padding compresses to nothing, and somewhat larger
        images can be added later without a second chunk.
        """
        sides = [
            max([int(item.row.get(name) or 0) for item in items], default=0) or layout.TILE
            for name in ("height", "width")
        ]
        tile = [min(layout.TILE, -(-n // 256) * 256) for n in sides]
        (name,) = self.kind.sums
        chunk = tile if self.most is None else [self.most, *tile]
        array = DataArray.new(name, self.dims, chunk, "bool", self.expected(items))
        return {name: array.metadata(0)}

    def encode_row(self, row: MaskRow) -> tuple[Row, Data]:
        """Return index values and data of a mask row."""
        mask, components = np.asarray(row.mask), row.components
        if mask.ndim != 2 or mask.dtype != bool or not mask.size:
            raise ValueError(f"a mask is bool (h, w), not {mask.dtype} {mask.shape}")
        if components < 0:
            components = int(label(mask, connectivity=2, return_num=True)[1])
        area = int(np.count_nonzero(mask))
        return {
            "height": mask.shape[0],
            "width": mask.shape[1],
            "area": area,
            "area_fraction": area / mask.size,
            "predicted_iou": float(row.predicted_iou),
            "stability": float(row.stability),
            "components": components,
            "prompt": row.prompt,
        }, {"mask": mask}


class CandidateStoreWriter(MaskStoreWriter):
    """The writer of a store of candidate masks; `most`: of an image, which lie in one chunk, or
    tile. Else as `StoreWriter`."""

    kind = CANDIDATES
    dims = ("image", "rank", "y", "x")

    def __init__(self, *args: Any, most: int, **options: Any):
        super().__init__(*args, **options)
        self.most = most

    def encode_row(self, row: CandidateRow) -> tuple[Row, Data]:
        """Return index values and data of a row of candidates."""
        masks = np.unpackbits(row.packed, axis=2, count=row.width).astype(bool)
        if len(masks) > self.most or np.shape(row.figures) != (len(masks), 3):
            raise ValueError(f"{len(masks)} masks with figures {np.shape(row.figures)}")
        count, height, width = masks.shape
        ranking = json.dumps(np.asarray(row.figures, np.float32).tolist())
        sides = {"count": count, "height": height, "width": width}
        return {**sides, "ranking": ranking}, {"candidate": masks}


class EmbeddingStoreWriter(StoreWriter):
    """The writer of a store of embeddings; `example` returns the maps of any image as in
    `EmbeddingRow`, and is called for a new store: shapes, types and memory order are those of all.
    Else as `StoreWriter`."""

    kind = EMBEDDINGS

    def __init__(self, *args: Any, example: Callable[[], list[np.ndarray]], **options: Any):
        super().__init__(*args, **options)
        self.example = example

    def new_arrays(self, items: Sequence[WorkItem], files: dict[str, bytes]) -> dict[str, dict]:
        """One chunk per image: the bytes of its maps, one after another, as `levels` says."""
        maps = self.example()
        orders = [np.argsort([-step for step in one.strides], kind="stable") for one in maps]
        self.extra_attrs["levels"] = [
            {
                "shape": [one.shape[k] for k in order],  # in the order of memory
                "axes": np.argsort(order).tolist(),  # c, h and w among these
                "dtype": str(one.dtype),
            }
            for one, order in zip(maps, orders, strict=True)
        ]
        size = sum(one.nbytes for one in maps)
        array = DataArray.new(
            "embedding", ("image", "byte"), (size,), "uint8", self.expected(items)
        )
        return {"embedding": array.metadata(0)}

    def encode_row(self, row: EmbeddingRow) -> tuple[Row, Data]:
        """Return the data of the maps of an image."""
        levels, parts = self._last.attrs["levels"], []
        for one, level in zip(row.maps, levels, strict=True):
            part = np.ascontiguousarray(one.transpose(np.argsort(level["axes"])))
            if [*part.shape, part.dtype] != [*level["shape"], level["dtype"]]:
                raise ValueError(f"a map {one.dtype} {one.shape}, not {level}")
            parts.append(part.reshape(-1).view(np.uint8))
        return {}, {"embedding": np.concatenate(parts)}


class FeatureStoreWriter(StoreWriter):
    """The writer of a feature store.

    Args:
        path, identity: as for `StoreWriter`; views, `dim` and `tokens` are added to the identity.
        views: names of the views; those that are not pooled in the order of `FeatureRow.features`.
        dim: length d of a feature.
        pooled: those of the views whose features are of another length, in the order of
            `FeatureRow.pooled`; pooled_dim: that length.
        tokens: tokens per view where patch tokens are kept, 0 = not kept.
        options: as for `StoreWriter`.
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
        pooled: Sequence[str] = (),
        pooled_dim: int = 0,
        **options: Any,
    ):
        own = {"views": list(views), "dim": int(dim), "tokens": int(tokens)}
        own |= {"pooled_dim": int(pooled_dim)} if pooled else {}
        super().__init__(path, {**identity, **own}, **options)
        self.extra_attrs["views"] = list(views)
        self.names = {"view": [name for name in views if name not in pooled]}
        self.shapes = {"image_features": (len(self.names["view"]), dim)}
        if tokens:
            self.shapes["tokens"] = (len(self.names["view"]), tokens, dim)
        if pooled:
            self.kind = POOLED_FEATURES
            self.names["pooled_view"] = list(pooled)
            self.extra_attrs["pooled_views"] = list(pooled)
            self.shapes["pooled_features"] = (len(pooled), pooled_dim)

    def new_arrays(self, items: Sequence[WorkItem], files: dict[str, bytes]) -> dict[str, dict]:
        """One chunk per image with all its views, not compressed; and the names of the views."""
        found = {
            of: layout.write_array(files, of, "string", (of,), np.array(names, dtype=object))
            for of, names in self.names.items()
        }
        for name, shape in self.shapes.items():
            dims = ("image", "view", *(("token",) if name == "tokens" else ()), "feature")
            if name == "pooled_features":
                dims = ("image", "pooled_view", "pooled_feature")
            array = DataArray.new(name, dims, shape, "float32", self.expected(items))
            found[name] = array.metadata(0)
        return found

    def encode_row(self, row: FeatureRow) -> tuple[Row, Data]:
        """Return index values and data of a feature row."""
        given = {"image_features": row.features, "tokens": row.tokens}
        given["pooled_features"] = row.pooled
        data = {name: np.asarray(given[name], dtype=np.float32) for name in self.shapes}
        for name, values in data.items():
            if values.shape != (shape := self.shapes[name]):
                raise ValueError(f"{row.image_id!r}: {name} {values.shape}, not {shape}")
        features = data["image_features"]
        absent = np.isnan(features).all(axis=1)
        pooled = data.get("pooled_features", features[:0])
        if not (np.isfinite(features[~absent]).all() and np.isfinite(pooled).all()):
            raise ValueError(f"{row.image_id!r}: a feature is not finite")
        return {"mask_status": row.mask_status, "mask_crc": row.mask_crc}, data

    @property
    def text_identity(self) -> dict[str, Any] | None:
        """Identity of the stored text features; None when there are none, or damaged ones."""
        try:
            self._last.text()
        except (AttributeError, StoreError):
            return None
        return self._last.attrs["text_identity"]

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

        Args:
            features: float32 (class, template, feature), not averaged.
            classes: class names = the manifest's labels.
            templates: templates with "{}" for the class's words.
            identity: everything that decides these features, JSON values.
            prompts: class -> full prompts, for people who read the store's attributes.
        """
        features = np.asarray(features, dtype=np.float32)
        if features.shape[:2] != (len(set(classes)), len(templates)) or features.ndim != 3:
            raise ValueError(f"text features {features.shape}, not (class, template, feature)")
        if not np.isfinite(features).all():
            raise ValueError("text features must be finite")
        with writing(self.path):
            if self._last is None:
                self._create([])
            self.commit()
            files: dict[str, bytes] = {}
            names = {"class": list(classes), "template": list(templates)}
            arrays = {name: ("string", (name,), np.array(v, object)) for name, v in names.items()}
            arrays["text_features"] = "float32", (*names, "feature"), features
            metadata = {
                name: layout.write_array(files, name, *array, self._last.metadata.get(name))
                for name, array in arrays.items()
            }
            attrs = {
                "text_identity": canonical(identity),
                "text_crc": text_crc(features, classes, templates),
                "classes": list(classes),
                "templates": list(templates),
                "prompts": {k: list(v) for k, v in (prompts or {}).items()},
            }
            index = self._last.index.select(list(self.kind.columns))
            self._commit(index, self._next, files, metadata, attrs)


def convert_store(path: str | os.PathLike) -> int:
    """Convert a store of layout 1, which kept every index column as a Zarr array, to the present
    layout; its rows keep their keys and checksums.

    The new store is made next to the old one and replaces it when complete. Rows that are lost or
    damaged are left out, so that the next run of the stage computes them; so are text features,
    which it encodes in seconds.

    Returns:
        The number of rows converted.

    Raises:
        StoreError: not a store of layout 1, or its index is damaged.
    """
    import zarr

    attrs = layout.read_root(Path(path), layout=1)["attributes"]
    kind, identity = KINDS[attrs["store"]], dict(attrs["identity"])
    own = {name: identity[name] for name in ("views", "dim", "tokens") if kind.name == "features"}
    new = MaskStoreWriter if kind.name == "masks" else FeatureStoreWriter
    with new(path, identity, on_mismatch="rebuild", **own) as writer:
        derived = ("index_crc", "text_crc", "text_identity", "prompts", "classes", "templates")
        writer.extra_attrs |= {k: v for k, v in attrs.items() if k not in derived}
        old = zarr.open_group(path, mode="r", use_consolidated=True)
        columns = {name: _read(old, name) for name in kind.columns if name in old}
        if any(values is None for values in columns.values()):
            remedy = "restore it (dvc checkout), or run the stage again with --force"
            raise StoreError("the row index is lost or damaged", path=path, remedy=remedy)
        lists = [values.tolist() for values in columns.values()]
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]
        writer.plan([WorkItem("", "", Path(path), 0, row) for row in rows])
        count = 0
        for i, row in enumerate(rows):
            data = {}
            if row["status"] in layout.GOOD:
                region = (i, *(slice(row[side]) for side in kind.sides))
                data = {name: _read(old, name, region) for name in kind.sums if name in old}
            sums = [v is not None and checksum(v) == row[kind.sums[n]] for n, v in data.items()]
            # A row of another status that has not failed was being computed again.
            if all(sums) if sums else row["status"] == "failed":
                writer.put([(row, data)])
                count += 1
    return count


def _read(group: Any, name: str, region: Any = ...) -> np.ndarray | None:
    try:
        return np.asarray(group[name][region])
    except Exception:  # whatever a codec makes of damaged bytes
        return None
