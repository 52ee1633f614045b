"""All splits of a dataset: protocol x seed x fraction -> ids of train, val and test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config import Params, SplitsParams
from pipeline.errors import ManifestError
from pipeline.io import atomic_write
from pipeline.manifest import read_manifest
from pipeline.paths import Paths
from pipeline.splits.draw import Draw
from pipeline.splits.grouping import TIES, units, with_copies
from pipeline.splits.parts import TRAIN, assign_folds, official_parts

COLUMNS = ("protocol", "seed", "part", "from_fraction", "image_id", "sha256")
HASH_COLUMNS = ("protocol", "seed", "fraction", "part", "images", "sha256")


@dataclass(frozen=True)
class Split:
    """Three disjoint, sorted arrays of image ids (object). `train` and `val` are labels used."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


class SplitPlan:
    """All splits of a dataset; see `plan_splits`.

    Args:
        table: the manifest sorted by id, with column copy_group.
        params: how splits are made.
        seeds: seeds that `export` writes.

    Attributes:
        notes: what a reader of the results must know (classes without a test image, ...).
        fractions, seeds: those that `export` writes.
    """

    def __init__(self, table: pd.DataFrame, params: SplitsParams, seeds: Sequence[int]):
        self._table, self._params = table, params
        self._ids = table["image_id"].to_numpy(object)
        self._labels = table["label"].to_numpy(object)
        self._units = units(table, TIES)
        self.fractions, self.seeds = params.fractions, tuple(seeds)
        self.notes: list[str] = []
        # protocol -> fold -> part of each row: "train", "val", "test" or "" (unused)
        self._parts: dict[str, list[np.ndarray]] = {}
        self._draws = lru_cache(maxsize=None)(self._draw)
        self._plan_official()
        self._plan_grouped()
        marked = ((table["mask_path"] != "") & (table["mask_area"] != "0")).to_numpy(bool)
        if marked.any():
            self._restrict("ground_truth", "official", marked)
            self._restrict("grouped_truth", "grouped", marked)

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols that the manifest allows."""
        return tuple(self._parts)

    def get(self, protocol: str, seed: int, fraction: float) -> Split:
        """Return one split.

        Args:
            protocol: one of `protocols`.
            seed: seed of the draw; in cross-validation fold (seed mod folds) is tested.
            fraction: share of the training labels, above 0 to 1.

        Raises:
            ManifestError: the manifest does not allow the protocol.
        """
        if protocol not in self._parts:
            raise ManifestError(
                f"no protocol {protocol!r} here (there are: {', '.join(self.protocols)})",
                remedy="; ".join(self.notes) or "choose one of them",
            )
        train, val = self._draws(protocol, seed).take(fraction)
        return Split(train, val, self._ids[self._part(protocol, seed) == "test"])

    def export(self, path: str | Path) -> None:
        """Write all splits to a CSV, and hashes of every part to `<stem>.sha256.csv` in its folder.

        Since draws are nested, the CSV has one row for each protocol, seed and image: its part,
        and the smallest fraction that uses it (0 for test). The other file has the number of
        images of each protocol, seed, fraction and part, and the SHA-256 of its lines
        "<image sha256>  <image_id>", sorted by id.
        """
        path, sha256 = Path(path), dict(zip(self._ids, self._table["sha256"], strict=True))
        rows: list[tuple] = []
        sums: list[tuple] = []
        for protocol, seed in product(self.protocols, self.seeds):
            first: dict[str, tuple[str, float]] = {}
            for fraction in self.fractions:
                for part, ids in vars(self.get(protocol, seed, fraction)).items():
                    lines = "".join(f"{sha256[i]}  {i}\n" for i in ids)
                    digest = hashlib.sha256(lines.encode()).hexdigest()
                    sums.append((protocol, seed, fraction, part, len(ids), digest))
                    for image_id in ids:
                        first.setdefault(image_id, (part, 0.0 if part == "test" else fraction))
            rows += [
                (protocol, seed, part, fraction, image_id, sha256[image_id])
                for image_id, (part, fraction) in sorted(first.items())
            ]
        for file, table, columns in (
            (path, rows, COLUMNS),
            (path.with_name(f"{path.stem}.sha256.csv"), sums, HASH_COLUMNS),
        ):
            with atomic_write(file) as partial:
                pd.DataFrame(table, columns=list(columns)).to_csv(partial, index=False)

    def _part(self, protocol: str, seed: int) -> np.ndarray:
        folds = self._parts[protocol]
        return folds[seed % len(folds)]

    def _draw(self, protocol: str, seed: int) -> Draw:
        part = self._part(protocol, seed)
        pool = np.flatnonzero(np.isin(part, TRAIN))
        return Draw(
            self._ids[pool],
            self._labels[pool],
            self._units[pool],
            share=self._params.val,
            seed=self._params.seed * 1_000_003 + seed,
            val=part[pool] == "val",
        )

    def _add(self, protocol: str, folds: list[np.ndarray]) -> None:
        self._parts[protocol] = folds
        notes = self._draws(protocol, self.seeds[0] if self.seeds else 0).notes
        self.notes += [f"{protocol}: {note}" for note in notes]

    def _plan_official(self) -> None:
        parts, notes = official_parts(self._table, self._units, self._params)
        self.notes += [f"official: {note}" for note in notes]
        lacking = sorted(set(self._labels) - set(self._labels[np.isin(parts, TRAIN)]))
        if lacking:
            raise ManifestError(
                f"no training image of class {', '.join(map(repr, lacking))}",
                remedy="add some, remove the class from the manifest, or set splits.on_leak: "
                "regroup",
            )
        self._add("official", [parts])

    def _plan_grouped(self) -> None:
        given = self._table["fold"].to_numpy(object)
        folds, notes = assign_folds(
            self._labels, self._units, given, self._params.folds, self._params.seed
        )
        self.notes += notes
        if folds.max() < 1:
            self.notes.append("grouped: all images are one group, so it is left out")
        else:
            numbers = range(folds.max() + 1)
            self._add("grouped", [np.where(folds == fold, "test", "train") for fold in numbers])

    def _restrict(self, protocol: str, of: str, marked: np.ndarray) -> None:
        """Add a protocol: another one, on images whose ground-truth mask is not empty."""
        folds = [np.where(marked, parts, "").astype(object) for parts in self._parts.get(of, [])]
        untrained: set[str] = set()
        for parts in folds:
            trained = self._labels[np.isin(parts, TRAIN)]
            untrained |= set(self._labels[parts == "test"]) - set(trained)
        if untrained:
            self.notes.append(f"{protocol}: without {', '.join(map(repr, sorted(untrained)))}")
        for parts in folds:
            parts[np.isin(self._labels, sorted(untrained))] = ""
        tested = {label for parts in folds for label in self._labels[parts == "test"]}
        if len(tested) >= 2 and all((parts == "test").any() for parts in folds):
            self._add(protocol, folds)
        elif folds:
            self.notes.append(
                f"{protocol}: masks of fewer than two classes, or none in a test part, so it is "
                "left out"
            )


def plan_splits(
    manifest: pd.DataFrame,
    params: SplitsParams,
    audit: pd.DataFrame | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
) -> SplitPlan:
    """Plan the splits of a dataset.

    Protocols:

    - "official": the manifest's own train and test parts if there are any (rows without a split
      are not used; the test part may be empty), else a stratified test part of `params.test`;
    - "grouped": fold (seed mod folds) is tested; the publisher's folds if there are any;
    - "ground_truth", "grouped_truth": these two, restricted to images with a ground-truth mask
      that is not empty.

    Parts and folds hold whole units, except official ones of the publisher. A unit is a patient,
    a group, the frames of one file, and their near and mirrored copies, joined. For few-shot
    draws see `Draw`.

    Args:
        manifest: as from `read_manifest`, in any order.
        params: shares, fractions, folds, seed, and what is done about leaks (`on_leak`).
        audit: audit.parquet; without it copies are not kept together.
        seeds: seeds that `SplitPlan.export` writes.

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
    """Plan the splits of a dataset from its manifest and, if there is one, its leak audit."""
    manifest = read_manifest(paths.manifest(dataset))
    file = paths.audit(dataset)
    audit = pd.read_parquet(file) if file.exists() else None
    return plan_splits(manifest, params.splits, audit, params.train.seeds)
