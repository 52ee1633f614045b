"""The half of the feature store that is read by class: T = E_t(t)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import StoreError
from pipeline.stores.reader import StoreReader
from pipeline.stores.text import read_text

if TYPE_CHECKING:
    import xarray


class TextReader(StoreReader):
    """Text features by class and template."""

    @property
    def text_features(self) -> xarray.DataArray:
        """float32 (class, template, feature), one unaveraged embedding a class and template."""
        import xarray as xr

        features, classes, templates = self._text_arrays()
        return xr.DataArray(
            features,
            dims=("class", "template", "feature"),
            coords={"class": classes, "template": templates},
            name="text_features",
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that have text features."""
        return tuple(self._text_arrays()[1])

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompt templates."""
        return tuple(self._text_arrays()[2])

    def class_features(self, classes: Sequence[str] | None = None) -> np.ndarray:
        """Return T, float32 (C, d): each template's embedding normalised, their mean normalised
        again (the CLIP way of averaging prompts), in the order of `classes`.

        Raises:
            StoreError: a class or the whole store has no text features."""
        features, names, _ = self._text_arrays()
        number = {name: k for k, name in enumerate(names)}
        wanted = list(names if classes is None else classes)
        lacking = [name for name in wanted if name not in number]
        if lacking:
            raise StoreError(
                f"no text features for {lacking}",
                path=self.path,
                remedy="add these classes to data_manifests/prompts.yaml and encode again",
            )
        T = _unit(_unit(features).mean(axis=1))
        return T[[number[name] for name in wanted]].astype(np.float32)

    def _text_arrays(self) -> tuple[np.ndarray, list[str], list[str]]:
        if self._text is None:
            try:
                self._text = read_text(self.path, self._committed.root)
            except StoreError:
                self._load()  # prompts may have been replaced since this store was opened
                self._text = read_text(self.path, self._committed.root)
        return self._text


def _unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
