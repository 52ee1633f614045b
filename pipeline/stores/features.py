"""The feature store: I = E_v(x * m) for every view, T = E_t(t) for every class and template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike

import numpy as np
import pandas as pd

from pipeline.errors import StoreError
from pipeline.stores import index as idx
from pipeline.stores.kinds import FEATURES, Data
from pipeline.stores.text_reader import TextReader


class FeatureStore(TextReader):
    """Features by image_id and view, checked on read. Made by `open_features`.

    Labels and splits are the manifest's as of the last `pipeline encode`, which takes over what
    has changed there and encodes nothing for it.
    """

    store_kind = FEATURES

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views, e.g. ("whole", "masked")."""
        return tuple(self._committed.attrs["views"])

    @property
    def dim(self) -> int:
        """Length d of a feature."""
        return self._rows.arrays["image_features"].shape[2]

    def image_features(self, view: str, ids: Iterable[str] | None = None) -> np.ndarray:
        """Return float32 (n, d), not normalised, one row an id in the order of `ids` (default:
        all rows of the manifest that have data).

        A view that does not exist for an image (oracle without ground truth) is a row of NaN.

        Raises:
            StoreError: unknown view or id, a failed row, lost or damaged bytes.
        """
        v = self._view(view)
        wanted = list(self._good_ids() if ids is None else ids)
        positions = [self._checked(image_id)[0] for image_id in wanted]
        return self._view_rows(wanted, positions, v)

    def tokens(self, view: str, ids: Iterable[str]) -> np.ndarray:
        """Return patch-token features, float32 (n, token, d).

        Raises:
            StoreError: the store keeps none, or lacks the view or an image."""
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
        """Return what a classifier is fitted on. Rows are joined by id, classes by name.

        Args:
            view: which view.
            split: "train", "test", ...; None = all rows of the manifest.
            ids: these images in this order, instead of a split.
            classes: class names that y indexes; default: all labels of the manifest, sorted.
            missing: "raise", or "drop" rows that failed or lack this view.

        Returns:
            X float32 (n, d), not normalised; y int64 (n,).

        Raises:
            StoreError: unknown view, split or id; a label that is not in `classes`; a failed row
                or missing view (missing="raise"); lost or damaged bytes.
        """
        if missing not in ("raise", "drop"):
            raise ValueError(f"missing: {missing!r} is not raise or drop")
        if ids is None:
            wanted = self.ids(split, view=view if missing == "drop" else None)
            if not len(wanted) and split is not None and not len(self.ids(split)):
                there = sorted(set(self._committed.index.rows["split"]) - {""})
                raise StoreError(
                    f"no images of split {split!r}",
                    path=self.path,
                    remedy=f"the store has {', '.join(there) or 'no published split'}; pass ids=, "
                    "as `pipeline splits export` lists them",
                )
        else:
            wanted = list(ids)
            if missing == "drop":
                there = set(self.ids(view=view))
                wanted = [image_id for image_id in wanted if image_id in there]
        X = self.image_features(view, wanted)
        gone = np.isnan(X).any(axis=1)
        if gone.any():
            names = ", ".join(repr(wanted[i]) for i in np.flatnonzero(gone)[:5])
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
        """Return ids of the manifest's rows in store order; with `view` only those of good rows
        that have this view."""
        wanted = super().ids(split)
        if view is None:
            return wanted
        good = set(self._good_ids())
        wanted = np.array([i for i in wanted if i in good], dtype=object)
        there = ~np.isnan(self.image_features(view, wanted)).any(axis=1)
        return wanted[there]

    def labels(self, ids: Iterable[str] | None = None) -> np.ndarray:
        """Return the labels (object array of str) of `ids`, default all of the manifest."""
        rows = self._committed.index.rows
        wanted = super().ids() if ids is None else ids
        return np.array([rows["label"][self._at(i)] for i in wanted], dtype=object)

    def labels_present(self) -> list[str]:
        """Return the sorted labels of the manifest's rows."""
        rows = self._committed.index.rows
        return sorted(
            {a for a, here in zip(rows["label"], rows["in_manifest"], strict=True) if here}
        )

    def to_pandas(self, view: str | None = None) -> pd.DataFrame:
        """Return features as a table: one row an image of the manifest that has data, label,
        split, then columns 0 ... d-1. Index image_id; without `view`, all views, index
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

    def _view(self, view: str) -> int:
        if view not in self.views:
            raise StoreError(
                f"no view {view!r}; the store has {', '.join(self.views)}",
                path=self.path,
                remedy="add it to encode.views in params.yaml and encode again",
            )
        return self.views.index(view)

    def _good_ids(self) -> np.ndarray:
        rows = self._committed.index.rows
        columns = zip(rows["image_id"], rows["in_manifest"], rows["status"], strict=True)
        return np.array([i for i, here, s in columns if here and s in idx.GOOD], dtype=object)

    def _view_rows(self, ids: Sequence[str], positions: Sequence[int], v: int) -> np.ndarray:
        """float32 (n, d), read a shard at a time. A shard is read whole and checked once; while
        its file stays the same file, other views of it are then read alone."""
        out = np.empty((len(ids), self.dim), dtype=np.float32)
        step = self._rows.shard_rows
        committed, by_shard = self._committed, {}
        for k, i in enumerate(positions):
            by_shard.setdefault(i // step, []).append(k)
        for shard, members in by_shard.items():
            low = shard * step
            offsets = [positions[k] - low for k in members]
            stamp = self._rows.stamp(low, {})
            if stamp is not None and self._trusted.get(shard) == stamp:
                try:
                    values = self._rows.arrays["image_features"][low : low + step, v]
                except Exception:
                    values = None  # replaced between the two goes in which Zarr reads a shard
                if values is not None and self._rows.stamp(low, {}) == stamp:
                    out[members] = values[offsets]
                    continue
            block = self._rows.block(low, low + step, ["image_features"])
            bad = set(range(step)) if block is None else self._bad_offsets(block, low)
            for k, offset in zip(members, offsets, strict=True):
                # `_read_of` reads the index once more, or says what is wrong.
                values = self._read_of(ids, k) if offset in bad else block["image_features"][offset]
                out[k] = values[v]
            if self._committed is not committed:  # read again meanwhile: rows may lie elsewhere
                now = [self._at(image_id) for image_id in ids]
                if now != list(positions):
                    return self._view_rows(ids, now, v)
                committed = self._committed
            if not bad:
                self._trusted[shard] = stamp
        return out

    def _read_of(self, ids: Sequence[str], k: int) -> np.ndarray:
        """float32 (view, d) of ids[k]; the error of a lost row names all of `ids` that are lost."""
        try:
            return self.read(ids[k])["image_features"]
        except StoreError:
            lost = set(self._lost())
            if ids[k] not in lost:
                raise
            raise self._broken([i for i in ids if i in lost], "lost") from None

    def _bad_offsets(self, block: Data, low: int) -> set[int]:
        """Rows of a block that do not match their checksum (or have no data)."""
        bad = set()
        for offset in range(min(len(block["image_features"]), len(self._committed.index) - low)):
            row = self._committed.index.get(low + offset)
            data = {name: values[offset] for name, values in block.items()}
            if row["status"] in idx.GOOD and not FEATURES.matches(data, row):
                bad.add(offset)
        return bad


def open_features(path: str | PathLike) -> FeatureStore:
    """Open a feature store for reading.

        features = open_features("cache/brain/features.zarr")
        X, y = features.xy(view="masked", split="train")

    Raises:
        StoreError: no store there, or its index is damaged.
    """
    return FeatureStore(path)
