"""Reading a store: by image_id, every row compared with its checksum. Never writes."""

from __future__ import annotations

import os
import time
import weakref
import zlib
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.io import sha256_json
from pipeline.store.folders import Folders, keep_open
from pipeline.store.index import Index, index_name
from pipeline.store.layout import (
    FEATURES,
    GOOD,
    MASKS,
    Data,
    Kind,
    Row,
    kind_of,
    read_bytes,
    read_root,
)
from pipeline.store.shards import RowReader, data_arrays

if TYPE_CHECKING:
    import xarray


def open_masks(path: str | PathLike) -> MaskStore:
    """Open a mask store for reading.

        masks = open_masks("cache/brain/masks.zarr")
        masks["test/glioma/Te-gl_0010.jpg"]      # bool (h, w)
        masks.table()[["status", "area_fraction"]]

    Raises:
        StoreError: no store there, or its index is lost or damaged.
    """
    return MaskStore(path)


def open_features(path: str | PathLike) -> FeatureStore:
    """Open a feature store for reading.

        features = open_features("cache/brain/features.zarr")
        X, y = features.xy(view="masked", split="train")

    Raises:
        StoreError: no store there, or its index is lost or damaged.
    """
    return FeatureStore(path)


def load_commit(path: Path, folder: int) -> tuple[dict[str, Any], Index]:
    """Return root and index of the last commit.

    Args:
        path: the store, for messages.
        folder: file descriptor of its folder.

    Raises:
        StoreError: the index is lost or damaged.
    """
    while True:
        root = read_root(path, folder)
        try:
            data = read_bytes(root["attributes"]["index"], folder)
            if index_name(data)[1] == root["attributes"]["index_crc"]:
                return root, Index.from_bytes(data, kind_of(path, root).columns)
        except (OSError, KeyError, pa.ArrowException):
            pass
        if read_root(path, folder) == root:  # else a writer committed twice in between
            raise StoreError(
                "the row index is lost or damaged",
                path=path,
                remedy="restore it (dvc checkout), or run the stage again with --force",
            )


def open_folder(path: Path) -> int:
    """Open a store's folder; it stays readable when another store takes its place.

    Raises:
        StoreError: no store there.
    """
    for _ in range(20):
        try:
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            # Between the two renames of a replacement there is no store for an instant.
            if not Folders(path).replaced():
                break
            time.sleep(0.01)
    read_root(path)  # raises the error that fits
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class StoreReader:
    """Base of `MaskStore` and `FeatureStore`: the state of a store when it was opened.

    A mapping-like object: `len`, iteration over ids, `in`. What a writer commits later is seen by
    opening the store again. Safe in threads and in forked or spawned workers; pickles as its path.

    Args:
        path: the store's folder.
    """

    kind: Kind

    def __init__(self, path: str | PathLike):
        self.path = Path(path)
        self._folder = open_folder(self.path)
        weakref.finalize(self, os.close, self._folder)
        keep_open(self._folder)
        found = kind_of(self.path, read_root(self.path, self._folder))
        if found is not self.kind:
            raise StoreError(
                f"is a store of {found.name}, not of {self.kind.name}",
                path=self.path,
                remedy=f"open it with open_{found.name}",
            )
        self._root, self._index = load_commit(self.path, self._folder)
        arrays = data_arrays(self.kind, self._root["consolidated_metadata"]["metadata"])
        self._rows = RowReader(self._folder, self.kind, arrays)

    def __reduce__(self):
        return type(self), (self.path,)

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the store: identity, model, checkpoint sha256, versions, prompts."""
        return dict(self._root["attributes"])

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decided the content."""
        return self._root["attributes"]["identity"]

    @property
    def identity_hash(self) -> str:
        """SHA-256 of the identity."""
        return self._root["attributes"]["identity_hash"]

    @property
    def digest(self) -> str:
        """SHA-256 of the identity and the checksums of all rows; labels and splits are not in it.

        Two stores with the same digest hold the same data, whatever the order of their rows.
        """
        values = self._index.values
        columns = [values[name] for name in ("image_id", "key", "status", *self.kind.sums.values())]
        rows = sorted(zip(*columns, strict=True))
        return sha256_json([self.identity_hash, self.attrs.get("text_crc"), rows])

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index.values["image_id"])

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._index.position

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {len(self)} rows)"

    def table(self) -> pd.DataFrame:
        """Return the index, one line per image, indexed by image_id: label, split, in_manifest,
        status, reason, sha256, key, crc and the columns of this kind of store."""
        return self._index.frame()

    def ids(self, split: str | None = None) -> np.ndarray:
        """Return the ids (object array of str) that the manifest lists, failed ones included, in
        the order of the store; with `split` only those of this split."""
        values = self._index.values
        columns = zip(values["image_id"], values["in_manifest"], values["split"], strict=True)
        chosen = [i for i, listed, part in columns if listed and split in (None, part)]
        return np.array(chosen, dtype=object)

    def dataset(self) -> xarray.Dataset:
        """Return the store as a lazy xarray.Dataset, one row per image in the order of the store.

        Unlike `xarray.open_zarr(path)` it leaves out superseded rows and has all columns of the
        index as coordinates. That the files exist is checked here, once; the bytes are not.

        Raises:
            StoreError: data of good rows are lost, or the store was replaced since it was opened.
        """
        import xarray as xr

        lost, _ = self._rows.broken(rows := self._index.rows(), verify=False)
        if lost:
            raise self._broken([rows[k]["image_id"] for k in sorted(lost)], "lost")
        there = os.stat(self.path)
        if not os.path.samestat(there, os.fstat(self._folder)):
            raise StoreError(
                "the store was replaced since it was opened", path=self.path, remedy="open it again"
            )
        plain = xr.open_zarr(self.path, consolidated=True)
        at = np.array(self._index.values["row"], dtype=np.int64)
        if len(at) != plain.sizes["image"] or (at != np.arange(len(at))).any():
            plain = plain.isel(image=at)
        columns = self.table().reset_index()
        return plain.assign_coords({c: ("image", columns[c].to_numpy()) for c in columns})

    def row(self, image_id: str) -> Row:
        """Return the index values of one image."""
        return self._index.get(self._at(image_id))

    def read(self, image_id: str) -> Data:
        """Return the data of one image by array name.

        Raises:
            StoreError: unknown id, failed row, lost or damaged data.
        """
        row = self._index.get(self._good(image_id))
        data = self._rows.read(row)
        if data is None:
            raise self._broken([image_id], "lost" if self._rows.lost(row) else "damaged")
        return data

    def _at(self, image_id: str) -> int:
        i = self._index.position.get(image_id)
        if i is None:
            raise StoreError(
                f"no row for {image_id!r}", path=self.path, remedy=f"run: {self._command}"
            )
        return i

    def _good(self, image_id: str) -> int:
        """Return the entry of an image; an error where it has no data."""
        i = self._at(image_id)
        if self._index.values["status"][i] not in GOOD:
            row = self._index.get(i)
            raise StoreError(
                f"{image_id!r} has no data ({row['status']}: {row['reason']})",
                path=self.path,
                remedy=f"repair the image, then run: {self._command}",
            )
        return i

    def _broken(self, ids: list[str], how: str) -> StoreError:
        names = ", ".join(map(repr, ids[:5])) + (f" and {len(ids) - 5} more" if ids[5:] else "")
        return StoreError(
            f"{how} data of {names}",
            path=self.path,
            remedy=f"{self._command} computes these rows again; pipeline verify lists all",
        )

    @property
    def _command(self) -> str:
        dataset = self._root["attributes"].get("dataset") or self.path.absolute().parent.name
        return f"pipeline {self.kind.stage} --dataset {dataset}"


class MaskStore(StoreReader):
    """Masks m = SAM2(x) by image_id. Made by `open_masks`."""

    kind = MASKS

    def __getitem__(self, image_id: str) -> np.ndarray:
        """Return the mask, bool (height, width) of the upright image, as SAM2 gave it.

        Raises:
            StoreError: no such row, a row that failed (with its reason), lost or damaged data. A
                lost mask is never returned as an empty one.
        """
        return self.read(image_id)["mask"]


class FeatureStore(StoreReader):
    """Features I = E_v(x * m) by image_id and view, and T = E_t(t) by class and template.

    Made by `open_features`. Labels and splits are those of the manifest at the last
    `pipeline encode`, which takes over changes there without encoding anything.
    """

    kind = FEATURES

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views, e.g. ("whole", "masked")."""
        return tuple(self._root["attributes"]["views"])

    @property
    def dim(self) -> int:
        """Length d of a feature."""
        return self._rows.arrays["image_features"].shape[1]

    def image_features(self, view: str, ids: Iterable[str] | None = None) -> np.ndarray:
        """Return float32 (n, d), not normalised, in the order of `ids` (default: all images of the
        manifest that have data).

        A view that does not exist for an image (oracle without ground truth) is a row of NaN.

        Raises:
            StoreError: unknown view or id, a failed row, lost or damaged data.
        """
        v = self._view(view)
        wanted = list(self._good_ids() if ids is None else ids)
        at = [self._good(image_id) for image_id in wanted]
        numbers, checksums = ([self._index.values[c][i] for i in at] for c in ("row", "crc"))
        out, bad = self._rows.read_fixed("image_features", numbers, checksums, v)
        if bad:
            rows = [self._index.get(i) for i in at]
            lost, _ = self._rows.broken(rows, verify=False)
            how = "lost" if lost else "damaged"
            raise self._broken([wanted[k] for k in sorted(lost) or sorted(bad)], how)
        return out

    def tokens(self, view: str, ids: Iterable[str]) -> np.ndarray:
        """Return patch-token features, float32 (n, token, d).

        Raises:
            StoreError: the store keeps no tokens, or lacks the view or an image.
        """
        if "tokens" not in self._rows.arrays:
            raise StoreError(
                "the store keeps no patch tokens",
                path=self.path,
                remedy="set encode.tokens to true and encode again",
            )
        v = self._view(view)
        return np.stack([self.read(image_id)["tokens"][v] for image_id in ids])

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
        if ids is None:
            wanted = list(self.ids(split))
            if not wanted and split is not None:
                known = sorted(set(self._index.values["split"]) - {""})
                raise StoreError(
                    f"no images of split {split!r}",
                    path=self.path,
                    remedy=f"the store has {', '.join(known) or 'no published split'}; pass ids=, "
                    "as `pipeline splits export` lists them",
                )
        else:
            wanted = list(ids)
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
        labels = self.labels(wanted)
        names = list(classes) if classes is not None else self.labels_present()
        number = {name: k for k, name in enumerate(names)}
        unknown = sorted(set(labels) - set(number))
        if unknown:
            raise StoreError(f"labels that are not in classes: {unknown}", path=self.path)
        return X, np.array([number[label] for label in labels], dtype=np.int64)

    def ids(self, split: str | None = None, *, view: str | None = None) -> np.ndarray:
        """Return ids of the manifest's images in the order of the store; with `view` only those
        that have this view."""
        wanted = super().ids(split)
        if view is None:
            return wanted
        good = set(self._good_ids())
        wanted = np.array([i for i in wanted if i in good], dtype=object)
        return wanted[~np.isnan(self.image_features(view, wanted)).any(axis=1)]

    def labels(self, ids: Iterable[str] | None = None) -> np.ndarray:
        """Return the labels (object array of str) of `ids`, default all of the manifest."""
        labels = self._index.values["label"]
        wanted = super().ids() if ids is None else ids
        return np.array([labels[self._at(i)] for i in wanted], dtype=object)

    def labels_present(self) -> list[str]:
        """Return the sorted labels of the manifest's images."""
        values = self._index.values
        pairs = zip(values["label"], values["in_manifest"], strict=True)
        return sorted({label for label, listed in pairs if listed})

    def to_pandas(self, view: str | None = None) -> pd.DataFrame:
        """Return features as a table: one line per image of the manifest that has data; label,
        split, then columns 0 ... d-1. Index image_id; without `view` all views, index
        (image_id, view)."""
        ids = self._good_ids()
        parts = []
        for name in [view] if view else self.views:
            part = pd.DataFrame(
                self.image_features(name, ids), index=pd.Index(ids, name="image_id")
            )
            part.insert(0, "label", self.labels(ids))
            part.insert(1, "split", [self.row(i)["split"] for i in ids])
            if view is None:
                part.insert(0, "view", name)
                part = part.set_index("view", append=True)
            parts.append(part)
        return pd.concat(parts)

    @property
    def text_features(self) -> xarray.DataArray:
        """float32 (class, template, feature): one embedding per class and template, not averaged.

        Raises:
            StoreError: there are none, or they are lost or damaged.
        """
        import xarray as xr

        return xr.DataArray(
            read_text(self.path, self._folder, self._root),
            dims=("class", "template", "feature"),
            coords={"class": list(self.classes), "template": list(self.templates)},
            name="text_features",
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that have text features."""
        return tuple(self._root["attributes"].get("classes", ()))

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompt templates."""
        return tuple(self._root["attributes"].get("templates", ()))

    def class_features(self, classes: Sequence[str] | None = None) -> np.ndarray:
        """Return T, float32 (C, d), in the order of `classes`.

        The embedding of every template is normalised, averaged over templates and normalised again
        (prompt ensembling, Radford et al. 2021, section 3.1.4).

        Raises:
            StoreError: a class, or the whole store, has no text features.
        """
        features = read_text(self.path, self._folder, self._root)
        number = {name: k for k, name in enumerate(self.classes)}
        wanted = list(self.classes if classes is None else classes)
        lacking = [name for name in wanted if name not in number]
        if lacking:
            raise StoreError(
                f"no text features for {lacking}",
                path=self.path,
                remedy="add these classes to data_manifests/prompts.yaml and encode again",
            )
        T = _unit(_unit(features).mean(axis=1))
        return T[[number[name] for name in wanted]].astype(np.float32)

    def _view(self, view: str) -> int:
        if view not in self.views:
            raise StoreError(
                f"no view {view!r}; the store has {', '.join(self.views)}",
                path=self.path,
                remedy="add it to encode.views in params.yaml and encode again",
            )
        return self.views.index(view)

    def _good_ids(self) -> np.ndarray:
        values = self._index.values
        columns = zip(values["image_id"], values["in_manifest"], values["status"], strict=True)
        return np.array([i for i, listed, s in columns if listed and s in GOOD], dtype=object)


def _unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def text_crc(features: np.ndarray, classes: Sequence[str], templates: Sequence[str]) -> int:
    """Return the CRC-32 of text features (little-endian float32) and their names."""
    crc = zlib.crc32(np.ascontiguousarray(features, dtype="<f4"))
    return zlib.crc32(repr((list(classes), list(templates))).encode("utf-8", "replace"), crc)


def read_text(path: Path, folder: int, root: dict[str, Any]) -> np.ndarray:
    """Return the text features, float32 (class, template, feature).

    Args:
        path: the store, for messages.
        folder: file descriptor of its folder.
        root: content of its zarr.json.

    Raises:
        StoreError: there are none, or they do not match their checksum.
    """
    attrs = root["attributes"]
    remedy = "run the encode stage again; it encodes the prompts and no image"
    if attrs.get("text_crc") is None:
        raise StoreError("the store holds no text features", path=path, remedy=remedy)
    try:
        metadata = root["consolidated_metadata"]["metadata"]["text_features"]
        separator = metadata["chunk_key_encoding"]["configuration"]["separator"]
        chunk = read_bytes("text_features/" + separator.join("c000"), folder)
        size = 4 * int(np.prod(metadata["shape"]))
        raw = pa.decompress(chunk, size, codec="zstd", asbytes=True)
        features = np.frombuffer(raw, "<f4").astype(np.float32).reshape(metadata["shape"])
        intact = text_crc(features, attrs["classes"], attrs["templates"]) == attrs["text_crc"]
    except (OSError, KeyError, ValueError, pa.ArrowException):
        intact = False
    if not intact:
        raise StoreError("the text features are lost or damaged", path=path, remedy=remedy)
    return features
