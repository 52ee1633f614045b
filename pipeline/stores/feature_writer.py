"""The one writer of a feature store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from pipeline.engine.items import WorkItem
from pipeline.io import writing
from pipeline.stores import layout
from pipeline.stores.kinds import FEATURES, Data, Row
from pipeline.stores.layout import ArraySpec
from pipeline.stores.rows import FeatureRow
from pipeline.stores.text import text_problem, write_text
from pipeline.stores.writer import StoreWriter

CHUNK_ROWS = 128
SHARD_BYTES = 32 << 20


class FeatureStoreWriter(StoreWriter):
    """The one writer of a feature store.

        with FeatureStoreWriter(path, mapper.identity, views=("whole", "masked"), dim=1280) as w:
            w.sync_manifest(manifest)
            if w.text_identity != text_identity:
                w.set_text(T, classes=..., templates=..., identity=text_identity)
            run_stage("encode", items, mapper, w, ...)

    Args:
        path: e.g. cache/brain/features.zarr.
        identity: the mapper's `identity`, without the text side. The views and `dim` are added
            to it: another list of views is another store.
        views: names of the views, in the order of `FeatureRow.features`.
        dim: length d of a feature.
        tokens: tokens a view where patch tokens are kept, 0 = not kept.
        on_mismatch, attrs: as for `MaskStoreWriter`.
    """

    store_kind = FEATURES

    def __init__(
        self,
        path: str | PathLike,
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

    def data_specs(self, items: Sequence[WorkItem]) -> list[ArraySpec]:
        """A chunk holds one view of 128 images; a shard all views of up to 32 MiB of images."""
        views, dim = len(self.views), self.dim
        specs = [
            ArraySpec(
                "image_features",
                ("image", "view", "feature"),
                (0, views, dim),
                "float32",
                (CHUNK_ROWS, 1, dim),
                (_shard_rows(views * dim * 4, CHUNK_ROWS), views, dim),
                fill=float("nan"),
            )
        ]
        if self.tokens:
            shape = (views, self.tokens, dim)
            specs.append(
                ArraySpec(
                    "tokens",
                    ("image", "view", "token", "feature"),
                    (0, *shape),
                    "float32",
                    (1, *shape),
                    (_shard_rows(int(np.prod(shape)) * 4, 1), *shape),
                    fill=float("nan"),
                )
            )
        return specs

    def _create(self, items: Sequence[WorkItem]) -> None:
        spec = ArraySpec("view", ("view",), (len(self.views),), "string", (len(self.views),))
        metadata = layout.new_metadata(spec)
        layout.array_of(self._store, "view", metadata)[...] = np.array(self.views, dtype=object)
        layout.write_metadata(self._store, "view", metadata)
        self._more_arrays = {"view": metadata}
        super()._create(items)

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
        whole = np.isnan(features).all(axis=1)
        if not np.isfinite(features[~whole]).all():
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
        if self._root is None or text_problem(self.root, self._root):
            return None
        return self._root["attributes"].get("text_identity")

    def set_text(
        self,
        features: np.ndarray,
        *,
        classes: Sequence[str],
        templates: Sequence[str],
        identity: Mapping[str, Any],
        prompts: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Replace the text features; images stay as they are.

        Args:
            features: float32 (class, template, feature), not averaged.
            classes: class names = the manifest's labels.
            templates: templates with "{}" for the class's words.
            identity: everything that decides these features, JSON values.
            prompts: class -> full prompts, for people who read the store's attributes.
        """
        with writing(self.path):
            if self._root is None:
                self._create([])
            self.commit()
            metadata, attrs = write_text(
                self._store,
                self._arrays(),
                features,
                classes=classes,
                templates=templates,
                identity=identity,
                prompts=prompts,
            )
            self._arrays().update(metadata)
            self._root["attributes"].update(attrs)
            self._commit_index(len(self._index))


def _shard_rows(row_bytes: int, chunk_rows: int) -> int:
    """Rows a shard of about 32 MiB: chunk_rows times a power of two, at most 1024. Powers of
    two, so that the shards of features and tokens nest."""
    chunks = max(1, min(SHARD_BYTES // (row_bytes * chunk_rows), 1024 // chunk_rows))
    return chunk_rows * 2 ** (chunks.bit_length() - 1)
