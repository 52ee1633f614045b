"""Reading a store: by image_id, every row compared with its checksum. Never writes."""

from __future__ import annotations

import fcntl
import os
import weakref
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.io import sha256_json
from pipeline.store import layout
from pipeline.store.layout import (
    FEATURES,
    GOOD,
    KINDS,
    MASKS,
    Data,
    DataArray,
    Kind,
    Row,
    checksum,
)

if TYPE_CHECKING:
    import xarray

OPEN_FILES = 64


class Shard:
    """An open shard file."""

    def __init__(self, name: str, folder: int, rows: int):
        self.fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
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
        return os.pread(self.fd, size, start)


class Snapshot:
    """One commit of a store: its attributes, its index and the data of its rows.

    Args:
        path: the store.
        folder: where it lies, if that is another place.

    Raises:
        StoreError: no store there, or its index is lost or damaged.
    """

    def __init__(self, path: str | PathLike, folder: Path | None = None):
        self.path = Path(path)
        if not (place := folder or self.path).is_dir():
            layout.read_root(place)  # raises the error that fits
        self._folder = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._folder)
        while not self._load():  # a writer committed twice in between
            pass
        self.arrays = layout.data_arrays(self.kind, self.metadata)

    def _load(self) -> bool:
        root = layout.read_root(self.path, self._folder)
        self.attrs, self.metadata = root["attributes"], root["consolidated_metadata"]["metadata"]
        self.kind = KINDS[self.attrs["store"]]
        try:
            data = layout.read_bytes(self.attrs["index"], self._folder)
            if zlib.crc32(data) == self.attrs["index_crc"]:
                self.frame = layout.table_from_bytes(self.kind, data)
                return True
        except (OSError, KeyError, pa.ArrowException):
            pass
        if layout.read_root(self.path, self._folder) == root:
            remedy = "restore it (dvc checkout), or run the stage again with --force"
            raise StoreError("the row index is lost or damaged", path=self.path, remedy=remedy)
        return False

    @cached_property
    def rows(self) -> dict[str, Row]:
        """What reading needs of each row, by image_id: row, status, reason, shape, checksums."""
        names = ["row", "status", "reason", *self.kind.sides, *self.kind.sums.values()]
        columns = [self.frame[name].tolist() for name in names]
        rows = (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
        return dict(zip(self.frame.index, rows, strict=True))

    def read_rows(
        self, rows: Iterable[Row], names: Sequence[str] = ()
    ) -> Iterator[Data | OSError | ValueError]:
        """Yield the data of each row by array name (default all), or the error of reading it."""
        shards: dict[str, Shard] = {}
        for row in rows:
            if len(shards) > OPEN_FILES:
                shards.clear()
            result: Data | OSError | ValueError
            try:
                result = {n: self._read(self.arrays[n], row, shards) for n in names or self.arrays}
            except (OSError, ValueError) as error:
                result = error
            yield result

    def _read(self, array: DataArray, row: Row, shards: dict[str, Shard]) -> np.ndarray:
        shape = tuple(row[side] for side in self.kind.sides) or array.shape
        chunks = {}
        for cell in array.cells(shape):
            name = array.file(row["row"], cell)
            if name not in shards:
                shards[name] = Shard(name, self._folder, array.rows)
            chunks[cell] = shards[name].chunk(row["row"] % array.rows)
        values = array.decode(chunks, shape)
        if checksum(values) != row[self.kind.sums[array.name]]:
            raise ValueError("other data than were written")
        return values

    def check(self) -> dict[str, str]:
        """Read all rows; return image_id -> "lost" or "damaged" of those that are not right."""
        good = {image_id: row for image_id, row in self.rows.items() if row["status"] in GOOD}
        found = zip(good, self.read_rows(good.values()), strict=True)
        return {image_id: fault(data) for image_id, data in found if isinstance(data, Exception)}

    def text(self) -> np.ndarray:
        """Return the text features, float32 (class, template, feature).

        Raises:
            StoreError: there are none, or they do not match their checksum.
        """
        remedy = "run the encode stage again; it encodes the prompts and no image"
        if self.attrs.get("text_crc") is None:
            raise StoreError("the store holds no text features", path=self.path, remedy=remedy)
        try:
            metadata = self.metadata["text_features"]
            separator = metadata["chunk_key_encoding"]["configuration"]["separator"]
            chunk = layout.read_bytes("text_features/" + separator.join("c000"), self._folder)
            size = 4 * int(np.prod(metadata["shape"]))
            raw = pa.decompress(chunk, size, codec="zstd", asbytes=True)
            text = np.frombuffer(raw, "<f4").astype(np.float32).reshape(metadata["shape"])
            crc = text_crc(text, self.attrs["classes"], self.attrs["templates"])
            if crc == self.attrs["text_crc"]:
                return text
        except (OSError, KeyError, ValueError, pa.ArrowException):
            pass
        raise StoreError("the text features are lost or damaged", path=self.path, remedy=remedy)


def fault(error: Exception) -> str:
    """Return whether an error of `Snapshot.read_rows` means "lost" or "damaged"."""
    return "lost" if isinstance(error, (FileNotFoundError, NotADirectoryError)) else "damaged"


def text_crc(features: np.ndarray, classes: Sequence[str], templates: Sequence[str]) -> int:
    """Return the CRC-32 of text features (little-endian float32) and their names."""
    names = repr((list(classes), list(templates))).encode("utf-8", "replace")
    return zlib.crc32(names, checksum(features))


class StoreReader(Snapshot):
    """Base of `MaskStore` and `FeatureStore`: the state of a store when it was opened.

    A mapping-like object: `len`, iteration over ids, `in`. What a writer commits later is seen by
    opening the store again. A store that is replaced stays readable for those who have it open.
    Safe in threads and in forked or spawned workers; pickles as its path.

    Args:
        path: the store's folder.
    """

    wanted: Kind

    def __init__(self, path: str | PathLike):
        super().__init__(path)
        if self.kind is not self.wanted:
            raise StoreError(
                f"is a store of {self.kind.name}, not of {self.wanted.name}",
                path=self.path,
                remedy=f"open it with open_{self.kind.name}",
            )
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._folder, fcntl.LOCK_SH | fcntl.LOCK_NB)  # see `writer.in_use`

    def __reduce__(self):
        return type(self), (self.path,)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decided the content."""
        return self.attrs["identity"]

    @property
    def digest(self) -> str:
        """SHA-256 of the identity and the checksums of all rows; labels and splits are not in it.

        Two stores with the same digest hold the same data, whatever the order of their rows.
        """
        table, names = self.frame, ("key", "status", *self.kind.sums.values())
        columns = [table.index.tolist(), *(table[name].tolist() for name in names)]
        rows = sorted(zip(*columns, strict=True))
        return sha256_json([self.attrs["identity_hash"], self.attrs.get("text_crc"), rows])

    def __len__(self) -> int:
        return len(self.frame)

    def __iter__(self) -> Iterator[str]:
        return iter(self.frame.index)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self.frame.index

    def table(self) -> pd.DataFrame:
        """Return the index, one line per image, indexed by image_id: label, split, in_manifest,
        status, reason, sha256, key, crc and the columns of this kind of store."""
        columns = self.frame.drop(columns="row").reset_index()
        return pd.DataFrame({n: columns[n].to_numpy() for n in columns}).set_index("image_id")

    def ids(self, split: str | None = None) -> np.ndarray:
        """Return the ids (object array of str) that the manifest lists, failed ones included, in
        the order of the store; with `split` only those of this split."""
        chosen = self.frame["in_manifest"]
        if split is not None:
            chosen = chosen & (self.frame["split"] == split)
        return self.frame.index[chosen].to_numpy(object)

    def read(self, image_id: str) -> Data:
        """Return the data of one image by array name.

        Raises:
            StoreError: unknown id, failed row, lost or damaged data.
        """
        return next(self._each([image_id]))

    def _each(self, ids: Sequence[str], names: Sequence[str] = ()) -> Iterator[Data]:
        """Yield the data of images in their order; errors as for `read`.

        The error of lost or damaged rows comes after the last row and names all of them.
        """
        for image_id in ids:
            row = self.rows.get(image_id)
            if row is None:
                message, remedy = f"no row for {image_id!r}", f"run: {self._command}"
                raise StoreError(message, path=self.path, remedy=remedy)
            if row["status"] not in GOOD:
                message = f"{image_id!r} has no data ({row['status']}: {row['reason']})"
                remedy = f"repair the image, then run: {self._command}"
                raise StoreError(message, path=self.path, remedy=remedy)
        faults = {}
        found = self.read_rows((self.rows[image_id] for image_id in ids), names)
        for image_id, data in zip(ids, found, strict=True):
            if isinstance(data, Exception):
                faults[image_id] = fault(data)
            else:
                yield data
        how = "lost" if "lost" in faults.values() else "damaged"
        ids = [image_id for image_id, found in faults.items() if found == how]
        if ids:
            more = f" and {len(ids) - 5} more" if ids[5:] else ""
            raise StoreError(
                f"{how} data of {', '.join(map(repr, ids[:5]))}{more}",
                path=self.path,
                remedy=f"{self._command} computes these rows again; pipeline verify lists all",
            )

    @property
    def _command(self) -> str:
        return f"pipeline {self.kind.stage} --dataset {self.path.absolute().parent.name}"


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

    def image_features(self, view: str, ids: Iterable[str] | None = None) -> np.ndarray:
        """Return float32 (n, d), not normalised, in the order of `ids` (default: all images of the
        manifest that have data).

        A view that does not exist for an image (oracle without ground truth) is a row of NaN.

        Raises:
            StoreError: unknown view or id, a failed row, lost or damaged data.
        """
        if view not in self.views:
            raise StoreError(
                f"no view {view!r}; the store has {', '.join(self.views)}",
                path=self.path,
                remedy="add it to encode.views in params.yaml and encode again",
            )
        v = self.views.index(view)
        wanted = self._good_ids() if ids is None else list(ids)
        out = np.empty((len(wanted), self.dim), np.float32)
        for k, data in enumerate(self._each(wanted, ["image_features"])):
            out[k] = data["image_features"][v]
        return out

    def _good_ids(self) -> list[str]:
        good = self.frame["in_manifest"] & self.frame["status"].isin(GOOD)
        return self.frame.index[good].tolist()

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
            X float32 (n, d), not normalised; y int64 (n,).

        Raises:
            StoreError: unknown view, split or id; a label that is not in `classes`; a failed row
                or missing view (missing="raise"); lost or damaged data.
        """
        if missing not in ("raise", "drop"):
            raise ValueError(f"missing: {missing!r} is not raise or drop")
        wanted = list(self.ids(split) if ids is None else ids)
        if ids is None and split is not None and not wanted:
            known = sorted(set(self.frame["split"]) - {""})
            raise StoreError(
                f"no images of split {split!r}",
                path=self.path,
                remedy=f"the store has {', '.join(known) or 'no published split'}; pass ids=, "
                "as `pipeline splits export` lists them",
            )
        if missing == "drop":
            good = set(self._good_ids())
            wanted = [image_id for image_id in wanted if image_id in good]
        X = self.image_features(view, wanted)
        gone = np.isnan(X).any(axis=1)
        if missing == "drop":
            X, wanted = X[~gone], [wanted[k] for k in np.flatnonzero(~gone)]
        elif gone.any():
            names = ", ".join(repr(wanted[k]) for k in np.flatnonzero(gone)[:5])
            raise StoreError(
                f"{int(gone.sum())} images have no view {view!r}: {names}",
                path=self.path,
                remedy='choose images with a ground-truth mask, or pass missing="drop"',
            )
        labels = self.frame["label"]
        if classes is None:
            classes = sorted(set(labels[self.frame["in_manifest"]]))
        y = pd.Index(list(classes)).get_indexer(labels[wanted])
        if (y < 0).any():
            unknown = sorted(set(labels[wanted]) - set(classes))
            raise StoreError(f"labels that are not in classes: {unknown}", path=self.path)
        return X, y.astype(np.int64)

    def to_pandas(self, view: str | None = None) -> pd.DataFrame:
        """Return features as a table: one line per image of the manifest that has data; label,
        split, then columns 0 ... d-1. Index image_id; without `view` all views, index
        (image_id, view)."""
        if view is None:
            parts = {name: self.to_pandas(name) for name in self.views}
            return pd.concat(parts, names=["view"]).swaplevel()
        ids = self._good_ids()
        index = pd.Index(ids, name="image_id")
        features = pd.DataFrame(self.image_features(view, ids), index=index)
        return pd.concat([self.frame.loc[ids, ["label", "split"]], features], axis=1)

    @property
    def text_features(self) -> xarray.DataArray:
        """float32 (class, template, feature): one embedding per class and template, not averaged.

        Raises:
            StoreError: there are none, or they are lost or damaged.
        """
        import xarray as xr

        coords = {"class": list(self.classes), "template": self.attrs["templates"]}
        dims = ("class", "template", "feature")
        return xr.DataArray(self.text(), dims=dims, coords=coords, name="text_features")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that have text features."""
        return tuple(self.attrs.get("classes", ()))

    def class_features(self, classes: Sequence[str] | None = None) -> np.ndarray:
        """Return T, float32 (C, d), in the order of `classes`.

        The embedding of every template is normalised, averaged over templates and normalised again
        (prompt ensembling, Radford et al. 2021, section 3.1.4).

        Raises:
            StoreError: a class, or the whole store, has no text features.
        """
        features = self.text()
        wanted = list(self.classes if classes is None else classes)
        lacking = [name for name in wanted if name not in self.classes]
        if lacking:
            raise StoreError(
                f"no text features for {lacking}",
                path=self.path,
                remedy="add these classes to data_manifests/prompts.yaml and encode again",
            )
        T = _unit(_unit(features).mean(axis=1))
        return T[[self.classes.index(name) for name in wanted]].astype(np.float32)


def _unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


open_masks, open_features = MaskStore, FeatureStore


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
        store = Snapshot(path)
    except StoreError as error:
        return VerifyReport(str(path), problems=[f"{error.message}; {error.remedy}"])
    problems, faults, frame = [], store.check(), store.frame
    if "text_crc" in store.attrs:
        try:
            store.text()
        except StoreError as error:
            problems.append(error.message)
    shown = layout.shown_columns(store.kind, frame, store.attrs["rows"])
    try:
        group = zarr.open_group(store.path, mode="r", use_consolidated=True)
        same = all(np.array_equal(group[name][...], shown[name]) for name in shown)
    except Exception:  # whatever a codec makes of damaged bytes
        same = False
    if not same and layout.read_root(store.path)["attributes"] == store.attrs:
        problems.append("the columns for xarray are lost or damaged; run the stage with --force")
    failed = frame[~frame["status"].isin(GOOD)]
    return VerifyReport(
        str(path),
        len(frame),
        lost=[i for i, how in faults.items() if how == "lost"],
        damaged=[i for i, how in faults.items() if how == "damaged"],
        failed=failed["reason"].to_dict(),
        problems=problems,
    )
