"""The feature store: I = E_v(x * m) for every view, T = E_t(t) for every class and template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd


class FeatureStore:
    """Features by image_id and view, checked on read. Made by `open_features`."""

    attrs: dict[str, Any]
    identity: dict[str, Any]
    views: tuple[str, ...]
    classes: tuple[str, ...]
    templates: tuple[str, ...]

    def xy(
        self,
        view: str = "masked",
        split: str | None = None,
        *,
        ids: Iterable[str] | None = None,
        classes: Sequence[str] | None = None,
        missing: str = "raise",
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return X float32 (n, d) and y int64 (n,): y indexes `classes` (default: sorted labels
        of the whole store in the manifest). `ids` (in their order) instead of a split. missing="drop" leaves out
        failed rows and rows without this view; "raise" = StoreError that names them."""
        raise NotImplementedError

    def ids(self, split: str | None = None, *, view: str | None = None) -> np.ndarray:
        """Ids in the manifest, in store order; with `view` those that xy(missing="drop") gives."""
        raise NotImplementedError

    def image_features(self, view: str, ids: Iterable[str] | None = None) -> np.ndarray:
        """float32 (n, d) in the order of `ids`; NaN rows where the view does not exist."""
        raise NotImplementedError

    def labels(self, ids: Iterable[str] | None = None) -> np.ndarray:
        raise NotImplementedError

    def table(self) -> pd.DataFrame:
        raise NotImplementedError

    def to_pandas(self, view: str | None = None) -> pd.DataFrame:
        raise NotImplementedError

    @property
    def text_features(self):
        """xarray.DataArray float32 (class, template, feature), with class and template names."""
        raise NotImplementedError

    def class_features(self, classes: Sequence[str] | None = None) -> np.ndarray:
        """float32 (C, d): templates normalised, averaged, normalised again (the CLIP way)."""
        raise NotImplementedError


def open_features(path: str | PathLike) -> FeatureStore:
    raise NotImplementedError


class FeatureStoreWriter:
    """As `MaskStoreWriter`, for features.

    Args:
        path: e.g. cache/brain/features.zarr.
        identity: the mapper's `identity` (without the text side).
        views: names of the views, in the order of `FeatureRow.features`.
        dim: length d of a feature.
        tokens: tokens a view when patch tokens are kept, 0 = not kept.
    """

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
    ):
        raise NotImplementedError

    text_identity: dict[str, Any] | None
    """Identity of the stored text features, None when there are none."""

    def set_text(
        self,
        features: np.ndarray,
        *,
        classes: Sequence[str],
        templates: Sequence[str],
        identity: Mapping[str, Any],
        prompts: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Replace the text features, float32 (class, template, feature); images stay as they are."""
        raise NotImplementedError
