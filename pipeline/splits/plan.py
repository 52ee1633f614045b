"""All splits of a dataset: protocol x seed x fraction -> ids of train, val and test."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config import CROSS_VALIDATED, Params, SplitsParams
from pipeline.errors import ManifestError
from pipeline.io import atomic_write
from pipeline.manifest import read_manifest
from pipeline.paths import Paths
from pipeline.splits.draw import Draw
from pipeline.splits.grouping import TIES, units, with_copies
from pipeline.splits.parts import assign_folds, official_parts

PROTOCOLS = ("official", "grouped", "ground_truth", "grouped_truth")
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
        self.protocols: tuple[str, ...] = ()
        # Part of each row ("train", "val", "test", "" = unused) of protocols with one test part.
        self._parts: dict[str, np.ndarray] = {}
        # Whether each row is used, of cross-validated protocols.
        self._used: dict[str, np.ndarray] = {}
        self._draws = lru_cache(maxsize=None)(self._draw)
        marked = ((table["mask_path"] != "") & (table["mask_area"] != "0")).to_numpy(bool)
        self._plan_official()
        self._plan_grouped()
        self._plan_ground_truth(marked)
        self._plan_grouped_truth(marked)

    def get(self, protocol: str, seed: int, fraction: float) -> Split:
        """Return one split.

        Args:
            protocol: one of `protocols`.
            seed: seed of the draw; in cross-validation fold (seed mod folds) is tested.
            fraction: share of the training labels, above 0 to 1.

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
        """Write all splits to a CSV, and hashes of every part to `<stem>.sha256.csv` in its folder.

        Since draws are nested, the CSV has one row for each protocol, seed and image: its part,
        and the smallest fraction that uses it (0 for test). The other file has the number of
        images of each protocol, seed, fraction and part, and the SHA-256 of its lines
        "<image sha256>  <image_id>", sorted by id.
        """
        path, sha256 = Path(path), dict(zip(self._ids, self._table["sha256"], strict=True))
        rows: list[tuple] = []
        sums: list[tuple] = []
        for protocol, seed in ((p, s) for p in self.protocols for s in self.seeds):
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
        _write_csv(path, COLUMNS, rows)
        _write_csv(path.with_name(f"{path.stem}.sha256.csv"), HASH_COLUMNS, sums)

    def _part(self, protocol: str, seed: int) -> np.ndarray:
        """Return the part of each row: "train", "val", "test" or "" (unused)."""
        if protocol not in CROSS_VALIDATED:
            return self._parts[protocol]
        parts = np.where(self._folds == seed % self._n_folds, "test", "train")
        return np.where(self._used[protocol], parts, "")

    def _draw(self, protocol: str, seed: int) -> Draw:
        part = self._part(protocol, seed)
        pool = np.flatnonzero((part == "train") | (part == "val"))
        return Draw(
            self._ids[pool],
            self._labels[pool],
            self._units[pool],
            share=self._params.val,
            seed=self._params.seed * 1_000_003 + seed,
            val=part[pool] == "val",
        )

    def _add(self, protocol: str) -> None:
        self.protocols += (protocol,)
        notes = self._draws(protocol, self.seeds[0] if self.seeds else 0).notes
        self.notes += [f"{protocol}: {note}" for note in notes]

    def _plan_official(self) -> None:
        parts, notes = official_parts(self._table, self._units, self._params)
        self.notes += [f"official: {note}" for note in notes]
        lacking = sorted(set(self._labels) - set(self._labels[np.isin(parts, ["train", "val"])]))
        if lacking:
            raise ManifestError(
                f"no training image of class {', '.join(map(repr, lacking))}",
                remedy="add some, remove the class from the manifest, or set splits.on_leak: "
                "regroup",
            )
        self._parts["official"] = parts
        self._add("official")

    def _plan_grouped(self) -> None:
        given = self._table["fold"].to_numpy(object)
        folds, seed = self._params.folds, self._params.seed
        self._folds, self._n_folds, notes = assign_folds(
            self._labels, self._units, given, folds, seed
        )
        self.notes += notes
        if self._n_folds < 2:
            self.notes.append("grouped: all images are one group, so it is left out")
            return
        self._used["grouped"] = np.ones(len(self._ids), dtype=bool)
        self._add("grouped")

    def _plan_ground_truth(self, marked: np.ndarray) -> None:
        """Restrict the official parts to images whose ground-truth mask is not empty."""
        parts = np.where(marked, self._parts["official"], "")
        trained = set(self._labels[np.isin(parts, ["train", "val"])])
        untrained = sorted(set(self._labels[parts == "test"]) - trained)
        if untrained:
            self.notes.append(f"ground_truth: without {', '.join(map(repr, untrained))}")
            parts[np.isin(self._labels, untrained)] = ""
        if len(trained) >= 2 and len(set(self._labels[parts == "test"])) >= 2:
            self._parts["ground_truth"] = parts
            self._add("ground_truth")
        elif marked.any():
            self.notes.append("ground_truth: masks of fewer than two classes, so it is left out")

    def _plan_grouped_truth(self, marked: np.ndarray) -> None:
        """Restrict the folds of "grouped" to images whose ground-truth mask is not empty."""
        if "grouped" not in self.protocols or not marked.any():
            return
        tested = marked & (self._folds >= 0)
        folds = {
            name: set(self._folds[tested & (self._labels == name)]) for name in set(self._labels)
        }
        # When the only fold of a class is tested, nothing of it would be left to train on.
        lone = sorted(name for name, of in folds.items() if len(of) == 1)
        if lone:
            self.notes.append(f"grouped_truth: without {', '.join(map(repr, lone))}")
        used = marked & ~np.isin(self._labels, lone)
        classes = {name for name, of in folds.items() if len(of) > 1}
        if len(classes) < 2 or len(set(self._folds[used & tested])) < self._n_folds:
            self.notes.append(
                "grouped_truth: masks of fewer than two classes, or none in a fold, so it is left "
                "out"
            )
            return
        self._used["grouped_truth"] = used
        self._add("grouped_truth")


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


def _write_csv(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    with atomic_write(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
