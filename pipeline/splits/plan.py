"""The plan of all splits of one dataset: protocol x seed x fraction -> train, val, test ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config import CROSS_VALIDATED, Params, SplitsParams
from pipeline.errors import ManifestError
from pipeline.manifest import read_manifest
from pipeline.paths import Paths
from pipeline.splits.draw import Draw
from pipeline.splits.export import export_plan
from pipeline.splits.grouping import TIES, units, with_copies
from pipeline.splits.official import official_parts
from pipeline.splits.parts import assign_folds

PROTOCOLS = ("official", "grouped", "ground_truth", "grouped_truth")


@dataclass(frozen=True)
class Split:
    """Three disjoint, sorted arrays of image_id (object). `train` and `val` are the labels used."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


class SplitPlan:
    """All splits of a dataset, a fixed function of ids, labels, groups and seed.

    Attributes:
        protocols: those of `PROTOCOLS` that the manifest allows.
        notes: what a reader of the results must know (classes without a test image, ...).
        fractions, seeds: those that `export` writes.
    """

    def __init__(self, table: pd.DataFrame, params: SplitsParams, seeds: Sequence[int]):
        self._table = table
        self._ids = table["image_id"].to_numpy(object)
        self._labels = table["label"].to_numpy(object)
        self._units = units(table, TIES)
        self._params = params
        self.fractions = params.fractions
        self.seeds = tuple(seeds)
        self.notes: list[str] = []
        self.protocols = ()
        # Part of each row ("train", "val", "test" or ""), of protocols that have one test part.
        self._parts: dict[str, np.ndarray] = {}
        # Which rows take part, of cross-validated protocols: bool (n,).
        self._taken: dict[str, np.ndarray] = {}
        self._draws = lru_cache(maxsize=None)(self._draw)
        self._plan_official()
        self._plan_grouped()
        marked = ((table["mask_path"] != "") & (table["mask_area"] != "0")).to_numpy(bool)
        self._plan_ground_truth(marked)
        self._plan_grouped_truth(marked)

    def get(self, protocol: str, seed: int, fraction: float) -> Split:
        """Return who trains, chooses and is tested.

        Args:
            protocol: one of `protocols`.
            seed: of the draw; where folds are tested, also of the fold (seed mod folds).
            fraction: of the training labels, above 0 to 1.

        Raises:
            ManifestError: the manifest does not allow the protocol.
            ValueError: the fraction is not in (0, 1].
        """
        if protocol not in self.protocols:
            raise ManifestError(
                f"no protocol {protocol!r} here (there are: {', '.join(self.protocols)})",
                remedy="; ".join(self.notes) or "choose one of them",
            )
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction {fraction} is not in (0, 1]")
        train, val = self._draws(protocol, seed).take(fraction)
        return Split(train, val, self._ids[self._part(protocol, seed) == "test"])

    def export(self, path: str | Path) -> None:
        """Write all splits and their hashes; see `export_plan`."""
        hashes = dict(zip(self._ids, self._table["sha256"], strict=True))
        export_plan(self, hashes, Path(path))

    def _part(self, protocol: str, seed: int) -> np.ndarray:
        """Part of each row: "train", "val", "test" or "" (not used)."""
        if protocol not in CROSS_VALIDATED:
            return self._parts[protocol]
        parts = np.where(self._folds == seed % self._n_folds, "test", "train")
        return np.where(self._taken[protocol], parts, "")

    def _draw(self, protocol: str, seed: int) -> Draw:
        part = self._part(protocol, seed)
        pool = np.flatnonzero((part == "train") | (part == "val"))
        given = part[pool] == "val"
        return Draw(
            self._ids[pool],
            self._labels[pool],
            self._units[pool],
            share=self._params.val,
            seed=self._params.seed * 1_000_003 + seed,
            val=given if given.any() else None,
        )

    def _note(self, protocol: str) -> None:
        notes = self._draws(protocol, self.seeds[0] if self.seeds else 0).notes
        self.notes += [f"{protocol}: {note}" for note in notes]

    def _plan_official(self) -> None:
        parts, notes = official_parts(self._table, self._units, self._params)
        self.notes += [f"official: {note}" for note in notes]
        lacking = sorted(set(self._labels) - set(self._labels[np.isin(parts, ["train", "val"])]))
        if lacking:
            raise ManifestError(
                f"no training image of class {', '.join(map(repr, lacking))}",
                remedy="give it some, take the class out of the manifest, "
                "or set splits.on_leak: regroup",
            )
        self._parts["official"] = parts
        self.protocols += ("official",)
        self._note("official")

    def _plan_grouped(self) -> None:
        self._folds, self._n_folds, notes = assign_folds(
            self._labels,
            self._units,
            self._table["fold"].to_numpy(object),
            self._params.folds,
            self._params.seed,
        )
        self.notes += notes
        if self._n_folds < 2:
            self.notes.append("grouped: the images fall into one group, so it is left out")
            return
        self._taken["grouped"] = np.ones(len(self._ids), dtype=bool)
        self.protocols += ("grouped",)
        self._note("grouped")

    def _plan_ground_truth(self, marked: np.ndarray) -> None:
        """The official parts, restricted to images whose ground-truth mask is not empty."""
        if "official" not in self.protocols:
            return
        parts = np.where(marked, self._parts["official"], "")
        trained = set(self._labels[np.isin(parts, ["train", "val"])])
        untrained = sorted(set(self._labels[parts == "test"]) - trained)
        if untrained:
            self.notes.append(f"ground_truth: without {', '.join(map(repr, untrained))}")
            parts[np.isin(self._labels, untrained)] = ""
        if len(trained) < 2 or len(set(self._labels[parts == "test"])) < 2:
            if marked.any():
                self.notes.append(
                    "ground_truth: masks of fewer than two classes, so it is left out"
                )
            return
        self._parts["ground_truth"] = parts
        self.protocols += ("ground_truth",)
        self._note("ground_truth")

    def _plan_grouped_truth(self, marked: np.ndarray) -> None:
        """The folds of "grouped", restricted to images whose ground-truth mask is not empty."""
        if "grouped" not in self.protocols or not marked.any():
            return
        tested = marked & (self._folds >= 0)
        folds = {
            name: set(self._folds[tested & (self._labels == name)]) for name in set(self._labels)
        }
        # Where its one fold is tested, nothing of the class would be left to train on.
        lone = sorted(name for name, of in folds.items() if len(of) == 1)
        if lone:
            self.notes.append(f"grouped_truth: without {', '.join(map(repr, lone))}")
        taken = marked & ~np.isin(self._labels, lone)
        classes = {name for name, of in folds.items() if len(of) > 1}
        if len(classes) < 2 or len(set(self._folds[taken & tested])) < self._n_folds:
            self.notes.append(
                "grouped_truth: masks of fewer than two classes, or none in a fold, "
                "so it is left out"
            )
            return
        self._taken["grouped_truth"] = taken
        self.protocols += ("grouped_truth",)
        self._note("grouped_truth")


def plan_splits(
    manifest: pd.DataFrame,
    params: SplitsParams,
    audit: pd.DataFrame | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
) -> SplitPlan:
    """Plan the splits of a dataset.

    Protocols: "official" is the manifest's own train/test where given (rows without a split take
    no part; its test part may be empty), else a stratified test part of `params.test` in whole
    units; "grouped" tests fold (seed mod folds), in whole units, the publisher's folds where
    given; "ground_truth" and "grouped_truth" are these two restricted to images with a
    ground-truth mask that is not empty. A unit is a patient, a group, the frames of one file and
    their near and mirrored copies, joined. Few-shot draws: see `Draw`.

    Args:
        manifest: as of `read_manifest`, in any order.
        params: shares, fractions, folds, seed, and what to do about copies (`on_leak`).
        audit: audit.parquet; without it copies are not known to belong together.
        seeds: those that `SplitPlan.export` writes.

    Raises:
        ManifestError: the audit is of other images; `on_leak` needs an audit; or a class has no
            training image.
    """
    if audit is None and params.on_leak != "warn":
        raise ManifestError(
            f"splits.on_leak: {params.on_leak} needs the leak audit",
            remedy="run `pipeline data check` first",
        )
    plan = SplitPlan(with_copies(manifest, audit), params, seeds)
    if audit is None:
        plan.notes.append("no leak audit: copies are not kept together (run `pipeline data check`)")
    return plan


def load_split_plan(dataset: str, params: Params, paths: Paths) -> SplitPlan:
    """Plan the splits of a dataset from its manifest and, where there is one, its leak audit."""
    manifest = read_manifest(paths.manifest(dataset))
    file = paths.audit(dataset)
    audit = pd.read_parquet(file) if file.exists() else None
    return plan_splits(manifest, params.splits, audit, params.train.seeds)
