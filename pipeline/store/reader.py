"""Reading a store: by image_id, every row compared with its checksum. Never writes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
import weakref
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import remote
from pipeline.errors import StoreError
from pipeline.store import layout
from pipeline.store.layout import (
    CANDIDATES,
    EMBEDDINGS,
    FEATURES,
    GOOD,
    MASKS,
    Data,
    DataArray,
    Kind,
    checksum,
)

if TYPE_CHECKING:
    import xarray


class Shard:
    """An open shard file."""

    def __init__(self, number: int, name: str, dir_fd: int, rows: int):
        self.number = number
        self.fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
        weakref.finalize(self, os.close, self.fd)
        self.end = os.fstat(self.fd).st_size - rows * layout.ENTRY.size
        if self.end < 0:
            raise ValueError("the file is too short")
        self.table = os.pread(self.fd, rows * layout.ENTRY.size, self.end)

    def chunk(self, position: int) -> bytes:
        """Return the chunk of a row; ValueError where the table has none."""
        start, size = layout.ENTRY.unpack_from(self.table, position * layout.ENTRY.size)
        if start + size > self.end:
            raise ValueError("no chunk of this row")
        return self._read(start, size)

    def _read(self, start: int, size: int) -> bytes:
        return os.pread(self.fd, size, start)


class RemoteShard(Shard):
    """A shard at a URL: one request for its table, one for each `BLOCK` bytes that are read in
    order. It may be replaced by a longer one meanwhile, whose rows lie where they did."""

    BLOCK = 1 << 20

    def __init__(self, number: int, path: Path, rows: int):
        self.number, self.path, self.end = number, path, 1 << 40
        self.table = remote.read(path, -rows * layout.ENTRY.size)
        if len(self.table) < rows * layout.ENTRY.size:
            raise ValueError("the file is too short")
        self._at, self._block = 0, b""

    def _read(self, start: int, size: int) -> bytes:
        if start < self._at or start + size > self._at + len(self._block):
            self._at = start
            self._block = remote.read(self.path, start, start + max(size, self.BLOCK))
        return self._block[start - self._at :][:size]


def open_folder(path: Path, *, lock: bool) -> layout.Folder | None:
    """Return a file descriptor of a store's folder, of a URL its path; None if there is no folder.

    With `lock` a store that is replaced meanwhile is not deleted before the descriptor is closed
    (see `writer.in_use`).
    """
    if remote.is_url(path):
        return path
    for _ in range(100):
        try:
            dir_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            if not lock:
                return dir_fd
            with suppress(OSError):  # a file system without locks
                fcntl.flock(dir_fd, fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(dir_fd), os.stat(path)):
                return dir_fd
            os.close(dir_fd)  # replaced before it was locked
        except (FileNotFoundError, NotADirectoryError):
            if not layout.rebuild_of(path).exists():
                return None
            time.sleep(0.01)  # between the two renames that replace it
    return None


def _open_again(kind: type[StoreReader], path: Path, identity_hash: str) -> StoreReader:
    store = kind(path)
    if store.attrs["identity_hash"] != identity_hash:
        message = "was replaced by a store of other choices since it was opened"
        raise store._error(message, "start again, so that all workers read the same store")
    return store


class StoreReader:
    """One commit of a store: its attributes, its index and the data of its rows.

    The base of `MaskStore`, `FeatureStore` and the others is a mapping-like object: `len`,
    iteration over ids, `in`. Ids come sorted, wherever none are given: in which order, and in how
    many runs, the rows were written makes no difference. What a writer commits later is seen by
    opening the store again. A store that is replaced stays readable to the end for those who have
    it open. Safe in threads and in forked or spawned workers; pickles as its path, and is opened
    there only if it is not replaced by one of another identity.

    Args:
        path: the store's folder, or its URL, such as s3://bucket/stores/brain/masks.zarr.
        folder: where it lies, if that is another place (for its writer).

    Raises:
        StoreError: no store there, one of the other kind, or its index is lost or damaged.
        RemoteError: a URL cannot be read; so do all methods that read data.
    """

    wanted: Kind | None = None
    """The kind of a subclass."""

    def __init__(self, path: str | PathLike, folder: Path | None = None):
        self.path = remote.as_path(path)
        if (found := open_folder(folder or self.path, lock=folder is None)) is None:
            layout.read_root(folder or self.path)  # raises the error that fits
        self._folder = found
        if isinstance(found, int):
            weakref.finalize(self, os.close, found)
        root: dict[str, Any] = {}
        # A second time where a writer committed twice in between, which removes an index.
        while root != (root := layout.read_root(self.path, self._folder)):
            self.attrs = root["attributes"]
            self.metadata = root["consolidated_metadata"]["metadata"]
            self.kind = layout.kind_of(root)
            if self.wanted is not None and self.wanted.name != self.kind.name:
                message = f"is a store of {self.kind.name}, not of {self.wanted.name}"
                raise self._error(message, f"open it with open_{self.kind.name}")
            self.arrays = layout.data_arrays(self.kind, self.metadata)
            with suppress(OSError, KeyError, pa.ArrowException):
                self._index = layout.read_bytes(self.attrs["index"], self._folder)
                if zlib.crc32(self._index) == self.attrs["index_crc"]:
                    self._order, self._columns, self._values = None, {}, {}
                    if not _rises(self.column("image_id")):  # of an early version
                        self._order = pc.sort_indices(self._columns.pop("image_id"))
                    return
        remedy = "restore it (dvc checkout), or run the stage again with --force"
        raise self._error("the row index is lost or damaged", remedy)

    def _error(self, message: str, remedy: str) -> StoreError:
        return StoreError(message, path=self.path, remedy=remedy)

    def __reduce__(self):
        return _open_again, (type(self), self.path, self.attrs["identity_hash"])

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column of the index, sorted by image_id. It is decoded when it is first asked
        for: most of the index is text that reading a row does not need."""
        if name not in self._columns:
            values = layout.read_column(self.kind, self._index, name)
            self._columns[name] = values if self._order is None else values.take(self._order)
        return self._columns[name]

    def values(self, name: str) -> np.ndarray:
        """Return a column of the index that is no text as a NumPy array."""
        if name not in self._values:
            self._values[name] = layout.numbers(self.column(name))
        return self._values[name]

    @property
    def index(self) -> pa.Table:
        """The index, a line per image, sorted by image_id."""
        return pa.table({name: self.column(name) for name in self.kind.columns})

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The index by image_id, text as objects."""
        frame = self.index.to_pandas(use_threads=False).astype(
            {name: object for name, (dtype, _) in self.kind.columns.items() if dtype == "string"}
        )
        return frame.set_index(frame.pop("image_id"))

    @cached_property
    def good(self) -> np.ndarray:
        """Whether each line of the index is of a row that has data, bool."""
        return layout.numbers(pc.is_in(self.column("status"), value_set=pa.array(GOOD)))

    def positions(self, ids: Sequence[str]) -> np.ndarray:
        """Return the lines of some ids in the index, int64; -1 where there is none."""
        column, n = self.column("image_id"), len(self)
        if len(ids) > 100:  # with a hash table of all
            found = pc.index_in(pa.array(ids, pa.string()), value_set=column)
            return found.fill_null(-1).to_numpy().astype(np.int64)
        at = [bisect_left(range(n), name, key=lambda k: column[k].as_py()) for name in ids]
        there = (k < n and column[k].as_py() == name for k, name in zip(at, ids, strict=True))
        return np.where(np.fromiter(there, bool, len(at)), np.array(at, np.int64), -1)

    def read_rows(
        self, lines: np.ndarray, names: Iterable[str] = ()
    ) -> Iterator[tuple[int, Data | str]]:
        """Yield (position in `lines`, data by array name, or "lost" or "damaged") of some lines of
        the index, in the order of the shards, each of which is opened once; `names`: of the arrays,
        default all."""
        arrays = [self.arrays[name] for name in names] or list(self.arrays.values())
        shards: dict[tuple[str, layout.Cell], Shard] = {}
        for k in np.argsort(self.values("row")[lines], kind="stable").tolist():
            result: Data | str
            try:
                result = {array.name: self._read(array, lines[k], shards) for array in arrays}
            except (FileNotFoundError, NotADirectoryError):
                result = "lost"
            except (OSError, ValueError, pa.ArrowException):
                result = "damaged"
            yield k, result

    def _read(self, array: DataArray, line: int, shards: dict) -> np.ndarray:
        shape = tuple(int(self.values(side)[line]) for side in self.kind.sides) or array.shape
        number, position = divmod(int(self.values("row")[line]), array.rows)
        chunks = {}
        for cell in array.cells(shape):
            shard = shards.get((array.name, cell))
            if shard is None or shard.number != number:
                name, folder = array.file(number, cell), self._folder
                if isinstance(folder, int):
                    shard = Shard(number, name, folder, array.rows)
                else:
                    shard = RemoteShard(number, folder / name, array.rows)
                shards[array.name, cell] = shard
            chunks[cell] = shard.chunk(position)
        values = array.decode(chunks, shape)
        if checksum(values) != self.values(self.kind.sums[array.name])[line]:
            raise ValueError("other data than were written")
        return values

    def check(self) -> dict[str, str]:
        """Read all rows; return image_id -> "lost" or "damaged" of those that are not right."""
        lines, ids = np.flatnonzero(self.good), self.column("image_id")
        found = self.read_rows(lines)
        return {ids[lines[k]].as_py(): fault for k, fault in found if isinstance(fault, str)}

    def text(self) -> np.ndarray:
        """Return the text features, float32 (class, template, feature).

        Raises:
            StoreError: there are none, or they do not match their checksum.
        """
        message, remedy = "the store holds no text features", "its encoder has no texts"
        if self.identity.get("texts", True):
            remedy = "run the encode stage again; it encodes the prompts and no image"
        if self.attrs.get("text_crc") is not None:
            message = "the text features are lost or damaged"
            with suppress(OSError, KeyError, ValueError, pa.ArrowException):
                metadata = self.metadata["text_features"]
                name = "text_features/" + layout.separator_of(metadata).join("c000")
                data = layout.read_bytes(name, self._folder)
                size = 4 * int(np.prod(metadata["shape"]))
                raw = pa.decompress(data, size, codec="zstd", asbytes=True)
                text = np.frombuffer(raw, "<f4").astype(np.float32).reshape(metadata["shape"])
                crc = text_crc(text, self.attrs["classes"], self.attrs["templates"])
                if crc == self.attrs["text_crc"]:
                    return text
        raise self._error(message, remedy)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decided the content."""
        return self.attrs["identity"]

    @property
    def digest(self) -> str:
        """SHA-256 of the identity and the checksums of all rows; labels and splits are not in it.

        Two stores with the same digest hold the same data, whatever the order of their rows.
        """
        names = ("image_id", "key", "status", *self.kind.sums.values())
        how = {"separators": (",", ":"), "ensure_ascii": False}
        of = [self.attrs["identity_hash"], self.attrs.get("text_crc")]
        digest = hashlib.sha256(f"{json.dumps(of, **how)[:-1]},[".encode())
        for at in range(0, len(self), 10_000):  # sha256_json([*of, rows]), of all rows at once
            lists = [self.column(name)[at : at + 10_000].to_pylist() for name in names]
            rows = json.dumps(list(zip(*lists, strict=True)), **how)[1:-1]
            digest.update(f"{',' if at else ''}{rows}".encode())
        digest.update(b"]]")
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.column("image_id"))

    def __iter__(self) -> Iterator[str]:
        return iter(self.column("image_id").to_pylist())

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and self.positions([image_id])[0] >= 0

    def table(self) -> pd.DataFrame:
        """Return the index, one line per image, by image_id, sorted: label, split, in_manifest,
        status, reason, sha256, key, crc and the columns of this kind of store."""
        return self.index.drop_columns("row").to_pandas(use_threads=False).set_index("image_id")

    def ids(self, split: str | None = None) -> np.ndarray:
        """Return the ids (object array of str) that the manifest lists, failed ones included,
        sorted; with `split` only those of this split."""
        chosen = self.values("in_manifest")
        if split is not None:
            chosen = chosen & layout.numbers(pc.equal(self.column("split"), split))
        return layout.numbers(self.column("image_id"))[chosen]

    def _good_ids(self) -> list[str]:
        return layout.numbers(self.column("image_id"))[
            self.values("in_manifest") & self.good
        ].tolist()

    def read(self, image_id: str) -> Data:
        """Return the data of one image by array name.

        Raises:
            StoreError: unknown id, failed row, lost or damaged data.
        """
        return next(self._each([image_id]))[1]

    def _each(self, ids: Sequence[str], names: Iterable[str] = ()) -> Iterator[tuple[int, Data]]:
        """Yield (position in `ids`, data) in the order of the shards; errors as for `read`.

        The error of lost or damaged rows comes after the last row and names all of them.
        """
        command = f"pipeline {self.kind.stage} --dataset {self.path.absolute().parent.name}"
        lines = self.positions(ids)
        for k in np.flatnonzero((lines < 0) | ~self.good[lines])[:1] if len(lines) else ():
            if lines[k] < 0:
                raise self._error(f"no row for {ids[k]!r}", f"run: {command}")
            status, reason = (self.column(n)[lines[k]].as_py() for n in ("status", "reason"))
            message = f"{ids[k]!r} has no data ({status}: {reason})"
            raise self._error(message, f"repair the image, then run: {command}")
        faults: dict[str, list[int]] = {"lost": [], "damaged": []}
        for k, data in self.read_rows(lines, names):
            if isinstance(data, str):
                faults[data].append(k)
            else:
                yield k, data
        for how, found in faults.items():
            if found:
                remedy = f"{command} computes these rows again; pipeline verify lists all"
                raise self._error(f"{how} data of {_named(ids[k] for k in sorted(found))}", remedy)


def _rises(ids: pa.ChunkedArray) -> bool:
    return pc.all(pc.less(ids[:-1], ids[1:])).as_py() is not False


def text_crc(features: np.ndarray, classes: Sequence[str], templates: Sequence[str]) -> int:
    """Return the CRC-32 of text features (little-endian float32) and their names."""
    names = repr((list(classes), list(templates))).encode("utf-8", "replace")
    return zlib.crc32(names, checksum(features))


def _named(ids: Iterable[str]) -> str:
    names = list(map(repr, ids))
    more = f" and {len(names) - 5} more" if names[5:] else ""
    return ", ".join(names[:5]) + more


class MaskStore(StoreReader):
    """Masks m = SAM2(x) by image_id; `open_masks` is another name of this class.

    masks = open_masks("cache/brain/masks.zarr")
    masks["test/glioma/Te-gl_0010.jpg"]      # bool (h, w)
    masks.table()[["status", "area_fraction"]]
    """

    wanted = MASKS

    def __getitem__(self, image_id: str) -> np.ndarray:
        """Return the mask, bool (height, width) of the upright image, as SAM2 gave it.

        Raises:
            StoreError: no such row, a row that failed (with its reason), lost or damaged data. A
                lost mask is never returned as an empty one.
        """
        return self.read(image_id)["mask"]


class CandidateStore(StoreReader):
    """The masks that SAM2 proposed for each image, best first; `open_candidates` is another name.

    found = open_candidates("cache/brain/candidates.zarr")
    found["test/glioma/Te-gl_0010.jpg"]      # bool (k, h, w)
    found.ranking().loc["test/glioma/Te-gl_0010.jpg"]
    """

    wanted = CANDIDATES

    def __getitem__(self, image_id: str) -> np.ndarray:
        """Return the candidates of an image, bool (k, height, width); errors as of `MaskStore`."""
        return self.read(image_id)["candidate"]

    def figures(self, image_id: str) -> np.ndarray:
        """Return score, predicted IoU and stability of the candidates, float32 (k, 3)."""
        figures = json.loads(self.frame.at[image_id, "ranking"])
        return np.array(figures, np.float32).reshape(-1, 3)

    def ranking(self, ids: Iterable[str] | None = None) -> pd.DataFrame:
        """Return a line per candidate, by image_id and rank (0 is the best): score, predicted_iou,
        stability, area (pixels). Errors as of `MaskStore`."""
        names, parts = ["score", "predicted_iou", "stability"], {}
        wanted = self._good_ids() if ids is None else list(ids)
        for k, data in self._each(wanted):
            parts[wanted[k]] = pd.DataFrame(self.figures(wanted[k]), columns=names).assign(
                area=data["candidate"].sum(axis=(1, 2))
            )
        return (
            pd.concat(parts, names=["image_id", "rank"]).sort_index() if parts else pd.DataFrame()
        )


class EmbeddingStore(StoreReader):
    """SAM2's embeddings of whole images, in the memory order that the encoder left them in: what a
    decoder makes of them is then the same to the bit."""

    wanted = EMBEDDINGS

    def __getitem__(self, image_id: str) -> list[np.ndarray]:
        """Return the maps of an image as in `EmbeddingRow`; errors as of `MaskStore`."""
        data, maps = self.read(image_id)["embedding"], []
        for level in self.attrs["levels"]:
            n = int(np.prod(level["shape"])) * np.dtype(level["dtype"]).itemsize
            maps.append(data[:n].view(level["dtype"]).reshape(level["shape"]))
            maps[-1], data = maps[-1].transpose(level["axes"]), data[n:]
        return maps


class FeatureStore(StoreReader):
    """Features I = E_v(x * m) by image_id and view, and T = E_t(t) by class and template.

        features = open_features("cache/brain/features.zarr")
        X, y = features.xy(view="masked", split="train")

    `open_features` is another name of this class. Labels and splits are those of the manifest at
    the last `pipeline encode`, which takes over changes there without encoding anything.
    """

    wanted = FEATURES

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views, e.g. ("whole", "masked")."""
        return tuple(self.attrs["views"])

    @property
    def dim(self) -> int:
        """Length d of a feature."""
        return self.arrays["image_features"].shape[1]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that have text features."""
        return tuple(self.attrs.get("classes", ()))

    def image_features(
        self,
        view: str,
        ids: Iterable[str] | None = None,
        *,
        empty: Callable[..., np.ndarray] = np.empty,
    ) -> np.ndarray:
        """Return float32 (n, d), not normalised, in the order of `ids` (default: all images of the
        manifest that have data, sorted). Features of pooled views are of another length. `empty`
        makes the array of a shape and type, in a file say.

        A view that does not exist for an image (oracle without ground truth) is a row of NaN.

        Raises:
            StoreError: unknown view or id, a failed row, lost or damaged data.
        """
        if view not in self.views:
            remedy = "add it to encode.views in params.yaml and encode again"
            raise self._error(f"no view {view!r}; the store has {', '.join(self.views)}", remedy)
        wanted = self._good_ids() if ids is None else list(ids)
        pooled = self.attrs.get("pooled_views", ())
        name = "pooled_features" if view in pooled else "image_features"
        of = [one for one in self.views if (one in pooled) == (view in pooled)]
        out = empty((len(wanted), self.arrays[name].shape[1]), np.float32)
        for k, data in self._each(wanted, [name]):
            out[k] = data[name][of.index(view)]
        return out

    def xy(
        self,
        view: str = "masked",
        split: str | None = None,
        *,
        ids: Iterable[str] | None = None,
        classes: Sequence[str] | None = None,
        missing: str = "raise",
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return features and labels for a classifier, joined by image_id and class name.

        Args:
            view: the view.
            split: "train", "test", ...; None = all images of the manifest.
            ids: these images in this order, instead of a split.
            classes: class names that y indexes; default: all labels of the manifest, sorted.
            missing: "raise", or "drop" images that failed or lack this view.

        Returns:
            X float32 (n, d), not normalised; y int64 (n,). Without `ids` the rows are those of
            `ids(split)`, sorted by image_id: the same whenever the store holds the same images.

        Raises:
            StoreError: unknown view, split or id; a label that is not in `classes`; a failed row
                or missing view (missing="raise"); lost or damaged data.
        """
        if missing not in ("raise", "drop"):
            raise ValueError(f"missing: {missing!r} is not raise or drop")
        wanted = list(self.ids(split) if ids is None else ids)
        if ids is None and split is not None and not wanted:
            known = {*self.column("split").unique().to_pylist()} - {""}
            known = ", ".join(sorted(known)) or "no published split"
            remedy = f"the store has {known}; pass ids=, as `pipeline splits export` lists them"
            raise self._error(f"no images of split {split!r}", remedy)
        if missing == "drop":
            good = set(self._good_ids())
            wanted = [image_id for image_id in wanted if image_id in good]
        X = self.image_features(view, wanted)
        gone = np.isnan(X).any(axis=1)
        if missing == "drop":
            X, wanted = X[~gone], [wanted[k] for k in np.flatnonzero(~gone)]
        elif gone.any():
            lacking = _named(wanted[k] for k in np.flatnonzero(gone))
            remedy = 'choose images with a ground-truth mask, or pass missing="drop"'
            raise self._error(f"no view {view!r} of {lacking}", remedy)
        labels = layout.numbers(self.column("label"))
        if classes is None:
            classes = sorted(set(labels[self.values("in_manifest")]))
        labels = labels[self.positions(wanted)]
        y = pd.Index(list(classes)).get_indexer(labels)
        if (y < 0).any():
            unknown = sorted(set(labels) - set(classes))
            raise self._error(f"labels that are not in classes: {unknown}", "name all classes")
        return X, y.astype(np.int64)

    def to_pandas(self, view: str | None = None) -> pd.DataFrame:
        """Return features as a table: one line per image of the manifest that has data; label,
        split, then columns 0 ... d-1. Index image_id; without `view` all views, index
        (image_id, view)."""
        if view is None:
            parts = {name: self.to_pandas(name) for name in self.views}
            return pd.concat(parts, names=["view"]).swaplevel()
        table = self.frame.loc[self._good_ids(), ["label", "split"]]
        return table.join(pd.DataFrame(self.image_features(view, table.index), table.index))

    @property
    def has_text(self) -> bool:
        """Whether the encoder of this store has texts; they may still be lost."""
        return self.identity.get("texts", True)

    @property
    def text_features(self) -> xarray.DataArray:
        """float32 (class, template, feature): one embedding per class and template, not averaged.

        Raises:
            StoreError: there are none, or they are lost or damaged.
        """
        import xarray as xr

        coords = {"class": list(self.classes), "template": self.attrs.get("templates")}
        dims = ("class", "template", "feature")
        return xr.DataArray(self.text(), dims=dims, coords=coords, name="text_features")

    def class_features(self, classes: Sequence[str] | None = None) -> np.ndarray:
        """Return T, float32 (C, d), in the order of `classes`; (C, 0) if the encoder has no texts.

        The embedding of every template is normalised, averaged over templates and normalised again
        (prompt ensembling, Radford et al. 2021, section 3.1.4).

        Raises:
            StoreError: a class, or the whole store, has no text features.
        """
        if not self.has_text and classes is not None:
            return np.zeros((len(classes), 0), np.float32)
        T = _unit(_unit(self.text()).mean(axis=1))
        wanted = list(self.classes if classes is None else classes)
        if lacking := [name for name in wanted if name not in self.classes]:
            remedy = "add these classes to data_manifests/prompts.yaml and encode again"
            raise self._error(f"no text features for {lacking}", remedy)
        return T[[self.classes.index(name) for name in wanted]].astype(np.float32)


def _unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


open_masks, open_candidates, open_features = MaskStore, CandidateStore, FeatureStore


@dataclass(frozen=True)
class VerifyReport:
    """What `verify_store` found.

    Args:
        path, rows: the store, and how many rows its index has.
        lost, damaged: ids whose shard file is missing, whose data do not match their checksum.
        failed: image_id -> reason; recorded by the stage, not a fault of the store.
        problems: what is wrong with the store as a whole, e.g. a damaged index.
    """

    path: str
    rows: int = 0
    lost: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is lost or damaged; failed images do not count."""
        return not (self.lost or self.damaged or self.problems)

    def summary(self) -> str:
        """Return the report as text: one line, and one per problem or row."""
        counts = f"{len(self.lost)} lost, {len(self.damaged)} damaged, {len(self.failed)} failed"
        lines = [f"{'ok' if self.ok else 'NOT OK'}: {self.rows} rows, {counts}", *self.problems]
        for how in ("lost", "damaged"):
            lines += [f"{how}, computed again by the next run: {i}" for i in getattr(self, how)]
        return "\n  ".join(lines)


def verify_store(path: str | PathLike) -> VerifyReport:
    """Read every row of a store and compare it with its checksum; writes nothing.

    Text features and the columns for plain readers are checked too. A missing store gives a report
    with a problem, not an exception.
    """
    import zarr

    try:
        store = StoreReader(path)
    except StoreError as error:
        return VerifyReport(str(path), problems=[error.with_remedy])
    report = VerifyReport(str(path), len(store))
    for image_id, how in store.check().items():
        getattr(report, how).append(image_id)
    failed = store.frame[~store.frame["status"].isin(GOOD)]
    report.failed.update(failed["reason"].to_dict())
    if "text_crc" in store.attrs:
        try:
            store.text()
        except StoreError as error:
            report.problems.append(error.message)
    shown = dict(layout.shown_columns(store.kind, store.index, store.attrs["rows"]))
    try:
        group = zarr.open_group(str(store.path), mode="r", use_consolidated=True)
        same = all(np.array_equal(group[name][...], shown[name]) for name in shown)
    except Exception:  # whatever a codec makes of damaged bytes
        same = False
    if not same and layout.read_root(store.path)["attributes"] == store.attrs:
        text = "the columns for xarray are lost or damaged; run the stage with --force"
        report.problems.append(text)
    return report
