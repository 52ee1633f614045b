"""Variants of the masks in runs, with `@` in the name of a view (docs/adapt.md).

A run on `masked@full-16` reads the features of that adapter which saw nothing of its test part:
part `official`, or the fold; part `all` of a variant that no adapter made. `whole+labels@full-16`
is the row of equal budget: the whole image, trained also on the labels of the images whose masks
that adapter has learned from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config import labels_of, variant_of
from pipeline.errors import StoreError
from pipeline.paths import Paths
from pipeline.remote import exists
from pipeline.store import FeatureStore, open_features

if TYPE_CHECKING:
    from pipeline.splits import Split, SplitPlan

RunKey = tuple[str, str, float, int]
"""Protocol, view, fraction and seed."""


@dataclass(frozen=True)
class Variants:
    """The variants that the runs on some splits read."""

    dataset: str
    plan: SplitPlan
    paths: Paths

    def stored(self, view: str, key: RunKey) -> str:
        """Return a stored view with the part of its variant that a run reads, if it has one:
        `masked@full-16/2`."""
        return f"{view}/{self._part(variant_of(view), key)}" if variant_of(view) else view

    def labels(self, key: RunKey) -> str:
        """Return the variant and part whose images a run has the labels of as well; "" for none."""
        name = labels_of(key[1])
        return name and f"{name}/{self._part(name, key)}"

    def _part(self, variant: str, key: RunKey) -> str:
        every = exists(self.paths.features(self.dataset, f"{variant}/all"))
        return "all" if every else self.plan.part(key[0], key[3])

    def add_labels(
        self, splits: Mapping[RunKey, Split], stores: Mapping[str, FeatureStore]
    ) -> dict[RunKey, Split]:
        """Return splits in which runs with `labels@` have the labels of the adapter's images too:
        an image that belongs with one of the validation part goes there, all others to training."""
        units, found = self.plan.units, dict(splits)
        for key, split in splits.items():
            if (name := self.labels(key)) and len(split.train):  # not of learners without labels
                more = set(seen_by(stores[name])) - {*split.train, *split.val}
                chosen = {units.get(i) for i in split.val}
                val = {i for i in more if units.get(i) in chosen}
                parts = {"train": {*split.train, *more} - val, "val": {*split.val, *val}}
                arrays = {name: np.array(sorted(ids), object) for name, ids in parts.items()}
                found[key] = replace(split, **arrays)
        return found

    def open(self, names: Iterable[str]) -> dict[str, FeatureStore]:
        """Return the feature store of each variant and part; "" is the store without a variant.
        StoreError if there is none."""
        stores = {"": open_features(self.paths.features(self.dataset))}
        for variant in sorted({*names} - {""}):
            path, name = self.paths.features(self.dataset, variant), variant.partition("/")[0]
            if not exists(path):
                remedy = f"run pipeline adapt --dataset {self.dataset} --name {name} with its "
                remedy += "method and shots, then "
                remedy += f"pipeline encode --dataset {self.dataset} --masks {name}"
                message = "there are no features of this variant of the masks"
                raise StoreError(message, path=path, remedy=remedy)
            stores[variant] = open_features(path)
        return stores


def seen_by(store: FeatureStore) -> list[str]:
    """Return the ids of the images that the adapter of a variant's features has learned from."""
    return store.identity["masks"]["images"]


def variant_inputs(paths: Paths, dataset: str, names: Iterable[str]) -> dict[str, Any]:
    """Return the features of variants and parts as inputs for `pipeline.provenance.stamp`."""
    return {f"features@{name}": open_features(paths.features(dataset, name)) for name in names}
