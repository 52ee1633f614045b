"""Which image is looked at next: the images of a dataset in five orders, with filters, in pages;
and what has been done, with the Dice of the automatic masks on a random sample."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from pipeline.config import Params
from pipeline.errors import ConfigError, StoreError
from pipeline.evaluate.intervals import mean_interval
from pipeline.manifest import read_manifest
from pipeline.paths import Paths
from pipeline.remote import exists
from pipeline.review.edits import JUDGED, VARIANT, Edits
from pipeline.segment.quality import overlap
from pipeline.store import MaskStore, open_masks

ORDERS = {
    "empty": ("failed", "missing", "empty"),
    "full": ("full",),
    "low": (),
    "differ": (),
    "random": (),
}
"""Order -> the states of automatic masks that come first; then by predicted IoU, lowest first; by
`Worklist.disagreement` instead in "differ". The random order ignores all of it, so that its first n
images are a random sample."""
PAGE = 50


class Worklist:
    """The images of a manifest with their automatic masks.

    Args:
        dataset: name of data_manifests/<dataset>.csv.
        params: `evaluate` (of the interval).
        paths: of the project folder.
        edits: what has been reviewed.

    Raises:
        ManifestError, StoreError: the manifest or the mask store cannot be used.
    """

    def __init__(self, dataset: str, params: Params, paths: Paths, edits: Edits):
        self.dataset, self.params, self.paths, self.edits = dataset, params, paths, edits
        self.version = self._version()
        frame = read_manifest(paths.manifest(dataset)).set_index("image_id", drop=False)
        self.store: MaskStore | None = None
        if exists(paths.masks(dataset)):
            self.store = open_masks(paths.masks(dataset))
            table = self.store.table().reindex(frame.index)
            usable = (table["sha256"] == frame["sha256"]).to_numpy()
            frame["auto"] = table["status"].where(usable, "missing")
            frame["iou"] = table["predicted_iou"].where(usable)
        else:
            frame["auto"], frame["iou"] = "missing", np.nan
        every = paths.masks(dataset).with_suffix("").glob("[!.]*/[!.]*.zarr")
        self.others = sorted({*every} - {paths.masks(dataset, VARIANT)})
        ids = frame.index.to_numpy(object)
        self.frame, self.at = frame, {image_id: k for k, image_id in enumerate(ids)}
        self._chance = chance = pd.util.hash_array(ids)  # the same order each time
        iou = frame["iou"].fillna(np.inf).to_numpy(float)
        self.orders = {
            name: np.lexsort((chance, iou, ~frame["auto"].isin(first).to_numpy()))
            for name, first in ORDERS.items()
            if name != "differ"
        } | {"random": np.argsort(chance, kind="stable")}
        self.states = np.array([self.state(image_id) for image_id in ids], object)
        self._dice: dict[tuple[str, int], float] = {}

    def _version(self) -> list[tuple[int, int, int]]:
        found = []
        masks = self.paths.masks(self.dataset) / "zarr.json"
        for file in (self.paths.manifest(self.dataset), masks):
            with suppress(OSError):  # there may be no masks
                one = file.stat()
                found.append((one.st_ino, one.st_size, one.st_mtime_ns))
        return found

    @property
    def outdated(self) -> bool:
        """Whether the manifest or the automatic masks were changed since they were read."""
        return self._version() != self.version

    def order(self, name: str) -> np.ndarray:
        """Return the places of all images in an order; see `ORDERS` and `disagreement`."""
        if name not in self.orders:  # the one that reads all masks
            self.orders[name] = np.lexsort((self._chance, -self.disagreement()))
        return self.orders[name]

    def disagreement(self) -> np.ndarray:
        """Return how much the automatic mask of each image differs from those that other ways gave
        it (all variants but `reviewed`): one minus their mean Dice, 0 without any.

        Raises:
            ConfigError: there are no variants.
            StoreError: one cannot be read.
        """
        if self.store is None or not self.others:
            remedy = f"make others (pipeline adapt --dataset {self.dataset}), or use another order"
            raise ConfigError("no image has two masks that could disagree", remedy=remedy)
        frame, usable = self.frame, ["ok", "empty", "full"]
        lost, count = np.zeros((2, len(frame)))
        mine = self.store.table().reindex(frame.index)
        for other in map(open_masks, self.others):
            table = other.table().reindex(frame.index)
            both = frame["auto"].isin(usable) & table["status"].isin(usable)
            both &= table["sha256"] == frame["sha256"]
            count += both.to_numpy()
            for k in np.flatnonzero(both & (table["crc"] != mine["crc"])):
                image_id = frame.index[k]
                lost[k] += 1 - overlap(self.store[image_id], other[image_id])[0]
        return lost / np.maximum(count, 1)

    def state(self, image_id: str) -> str:
        """Return what was said of an image, "open" for nothing yet."""
        edit = self.edits.of(image_id, self.frame["sha256"].iat[self.at[image_id]])
        return edit.state if edit else "open"

    def update(self, image_id: str) -> None:
        """Take over an edit of an image."""
        self.states[self.at[image_id]] = self.state(image_id)

    def page(
        self, order: str, chosen: dict[str, str], start: int = 0, *, back: bool = False
    ) -> dict[str, Any]:
        """Return at most `PAGE` images and their number in all.

        Args:
            order: a name of `ORDERS`.
            chosen: column (label, split, state) -> the value wanted.
            start: the place in the order at which the page begins; places do not depend on the
                filters, so that they stay when an image is done.
            back: the page ends before `start` instead.
        """
        places, keep = self.order(order), np.ones(len(self.frame), bool)
        for name, value in chosen.items():
            column = self.states if name == "state" else self.frame[name].to_numpy(object)
            keep &= column == value
        found = np.flatnonzero(keep[places])
        cut = int(np.searchsorted(found, start))
        shown = found[max(0, cut - PAGE) : cut] if back else found[cut : cut + PAGE]
        columns = ("image_id", "label", "split", "auto", "iou")
        lists = [self.frame[name].to_numpy()[places[shown]].tolist() for name in columns]
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]
        for row, place in zip(rows, shown.tolist(), strict=True):
            row |= {"place": place, "state": self.states[places[place]]}
            row["iou"] = None if np.isnan(row["iou"]) else round(row["iou"], 3)
        return {"rows": rows, "total": len(found)}

    def auto_mask(self, image_id: str) -> np.ndarray | None:
        """Return the automatic mask, bool (h, w), of an image of the store; None for none."""
        if self.frame["auto"].iat[self.at[image_id]] in ("missing", "failed"):
            return None
        return self.store[image_id]

    def progress(self) -> dict[str, Any]:
        """Return how many images are in each state, and the mean Dice of the automatic masks with
        its interval on the images at the head of the random order, as far as all were looked at:
        images chosen for their need say nothing of the rest. Skipped images and those with nothing
        to mark have no Dice and are counted; an image without an automatic mask has 0."""
        states = pd.Series(self.states).value_counts().to_dict()
        order = self.orders["random"]
        open_ones = np.flatnonzero(self.states[order] == "open")
        head = order[: open_ones[0] if len(open_ones) else len(order)]
        ids = [self.frame.index[k] for k in head if self.states[k] == "accepted"]
        patients = self.frame["patient_id"].to_dict()
        units = [f"p{patients[i]}" if patients[i] else f"i{i}" for i in ids]
        values = np.array([self._dice_of(image_id) for image_id in ids])
        mean, lo, hi = mean_interval(values, units, self.params.evaluate)
        dice = {"mean": mean, "lo": lo, "hi": hi}
        return {
            "total": len(self.frame),
            "judged": sum(states.get(state, 0) for state in JUDGED),
            "states": {str(k): int(v) for k, v in states.items()},
            "dice": {k: None if np.isnan(v) else round(v, 3) for k, v in dice.items()},
            "sample": {"images": len(ids), "left_out": len(head) - len(ids)},
        }

    def _dice_of(self, image_id: str) -> float:
        key = image_id, self.edits.version(image_id)
        if key not in self._dice:
            truth = self.edits.mask(image_id)
            try:
                found = self.auto_mask(image_id)
            except StoreError:  # lost or damaged: `pipeline verify` says so
                found = None
            self._dice[key] = 0.0 if found is None else overlap(found, truth)[0]
        return self._dice[key]
