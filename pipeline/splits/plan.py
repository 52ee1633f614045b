"""All splits of a dataset: protocol x seed x fraction -> ids of train, val and test.

Test parts and folds are the publisher's where there are any, else stratified by label.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config import CROSS_VALIDATED, FEW_SHOT, Params, SplitsParams
from pipeline.errors import ManifestError
from pipeline.io import atomic_write
from pipeline.manifest import LABELLED, read_manifest
from pipeline.paths import Paths
from pipeline.splits.grouping import TIES, content, shuffled, units, with_copies

VAL_SHOTS = 4
"""Largest number of validation images a class beside K balanced shots (as in CoOp's benchmark)."""


@dataclass(frozen=True)
class Split:
    """Three disjoint, sorted arrays of image ids (object). `train` and `val` are labels used."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


class SplitPlan:
    """All splits of a dataset.

    Protocols:

    - "official": the manifest's own train and test parts if there are any (rows without a split
      are not used; the test part may be empty), else a stratified test part of `params.test`;
    - "grouped": fold (seed mod folds) is tested; the publisher's folds if there are any;
    - "official-4-shot", "grouped-4-shot-realistic" and so on for each of `params.shots`: the same
      test parts, with a few images of each class to learn from (`Draw.shots`);
    - "ground_truth", "grouped_truth": these two, restricted to images with a ground-truth mask
      that is not empty.

    Parts and folds hold whole units, except official ones of the publisher. A unit is a patient,
    a group, the frames of one file, and their near and mirrored copies, joined. For few-shot
    draws see `Draw`.

    Args:
        manifest: as from `read_manifest`, in any order.
        params: shares, fractions, folds, seed, and what is done about leaks (`on_leak`).
        audit: audit.parquet; without it copies are not kept together.
        seeds: seeds that `export` writes.

    Attributes:
        notes: what a reader of the results must know (classes without a test image, ...).
        fractions, seeds: those that `export` writes.

    Raises:
        ManifestError: the audit is of other images; `on_leak` needs an audit; or a class has no
            training image.
    """

    def __init__(
        self,
        manifest: pd.DataFrame,
        params: SplitsParams,
        audit: pd.DataFrame | None = None,
        seeds: Sequence[int] = (0, 1, 2, 3, 4),
    ):
        if audit is None and params.on_leak != "warn":
            raise ManifestError(
                f"splits.on_leak: {params.on_leak} needs the leak audit",
                remedy="run: pipeline audit --dataset NAME",
            )
        table = with_copies(manifest, audit)
        self._table = table = table.assign(unit=units(table, TIES))
        self._params, self.fractions, self.seeds = params, params.fractions, tuple(seeds)
        self._ids, self._labels = (table[n].to_numpy(object) for n in ("image_id", "label"))
        self._drawn = cache(self._draw)
        parts, notes = official_parts(table, params)
        if lacking := sorted(set(self._labels) - self._classes(parts, LABELLED)):
            raise ManifestError(
                f"no training image of class {', '.join(map(repr, lacking))}",
                remedy="add some, remove the class from the manifest, or set splits.on_leak: "
                "regroup",
            )
        self.notes = [f"official: {note}" for note in notes]
        # protocol -> fold -> part of each row: "train", "val", "test" or "" (unused)
        self._parts: dict[str, list[np.ndarray]] = {"official": [parts]}
        folds, notes = assign_folds(table, params)
        self.notes += [f"grouped: {note}" for note in notes]
        if folds.max() < 1:
            self.notes.append("grouped: all images are one group, so it is left out")
        else:
            numbers = range(folds.max() + 1)
            self._parts["grouped"] = [np.where(folds == n, "test", "train") for n in numbers]
        marked = ((table["mask_path"] != "") & (table["mask_area"] != "0")).to_numpy(bool)
        if marked.any():
            self._restrict("ground_truth", "official", marked)
            self._restrict("grouped_truth", "grouped", marked)
        if audit is None:
            self.notes.append("no leak audit (pipeline audit): copies are not kept together")

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols that the manifest allows."""
        return tuple(self._parts)

    @property
    def units(self) -> dict[str, str]:
        """The unit of each image id."""
        return dict(zip(self._ids, self._table["unit"], strict=True))

    def parts(self, protocol: str) -> list[str]:
        """Return the names of a protocol's test parts, that of seed 0 first: "official" (with any
        restriction), or the number of each fold. ManifestError as `get`."""
        return [self.part(protocol, seed) for seed in range(len(self._folds(protocol)))]

    def part(self, protocol: str, seed: int) -> str:
        """Return the name of the part that a run of a protocol (of few shots, too) tests."""
        base = protocol.partition("-")[0]
        return str(seed % len(self._folds(base))) if base in CROSS_VALIDATED else "official"

    def few_shot(self, protocol: str) -> list[str]:
        """Return the names of a protocol with `params.shots`, balanced ones first; few or none."""
        given = self._params.shots if protocol in FEW_SHOT else {}
        return [
            f"{protocol}-{k}-shot{end}"
            for kind, end in (("balanced", ""), ("realistic", "-realistic"))
            for k in given.get(kind, ())
        ]

    def get(self, protocol: str, seed: int, fraction: float = 1.0) -> Split:
        """Return one split.

        Args:
            protocol: one of `protocols`, or of their `few_shot`.
            seed: seed of the draw; in cross-validation fold (seed mod folds) is tested.
            fraction: share of the training labels, above 0 to 1; of shots always 1, all of them.

        Raises:
            ManifestError: the manifest does not allow the protocol.
        """
        shots = re.fullmatch(r"(\w+)-(\d+)-shot(-realistic)?", protocol)
        protocol = shots[1] if shots else protocol
        self._folds(protocol)
        draw, test = self._drawn(protocol, seed)
        parts = draw.shots(int(shots[2]), bool(shots[3])) if shots else draw.take(fraction)
        return Split(*parts, test)

    def export(self, path: str | Path) -> None:
        """Write all splits to a CSV, and hashes of every part to `<stem>.sha256.csv` in its folder.

        Since draws are nested, the CSV has one row for each protocol, seed and image: its part,
        and the smallest fraction that uses it (0 for test). The other file has the number of
        images of each protocol, seed, fraction and part, and the SHA-256 of its lines
        "<image sha256>  <image_id>", sorted by id.
        """
        path, sha256 = Path(path), dict(zip(self._ids, self._table["sha256"], strict=True))
        rows, sums = [], []
        every = {name: self.fractions for name in self.protocols}
        every |= {shots: (1.0,) for name in self.protocols for shots in self.few_shot(name)}
        for protocol, seed in product(every, self.seeds):
            key, first = {"protocol": protocol, "seed": seed}, {}
            for fraction in every[protocol]:
                for part, ids in vars(self.get(protocol, seed, fraction)).items():
                    lines = "".join(f"{sha256[i]}  {i}\n" for i in ids)
                    digest = hashlib.sha256(lines.encode()).hexdigest()
                    about = {"fraction": fraction, "part": part, "images": len(ids)}
                    sums.append(key | about | {"sha256": digest})
                    about = {"part": part, "from_fraction": 0.0 if part == "test" else fraction}
                    for i in ids:
                        first.setdefault(i, key | about | {"image_id": i, "sha256": sha256[i]})
            rows += [first[i] for i in sorted(first)]
        for file, table in ((path, rows), (path.with_name(f"{path.stem}.sha256.csv"), sums)):
            with atomic_write(file) as partial:
                pd.DataFrame(table).to_csv(partial, index=False)

    def _folds(self, protocol: str) -> list[np.ndarray]:
        if protocol not in self._parts:
            raise ManifestError(
                f"no protocol {protocol!r} here (there are: {', '.join(self.protocols)})",
                remedy="; ".join(self.notes) or "choose one of them",
            )
        return self._parts[protocol]

    def _draw(self, protocol: str, seed: int) -> tuple[Draw, np.ndarray]:
        folds = self._parts[protocol]
        part = folds[seed % len(folds)]
        seed += self._params.seed * 1_000_003
        return Draw(self._table, part, self._params.val, seed), self._ids[part == "test"]

    def _classes(self, parts: np.ndarray, names: Sequence[str]) -> set[str]:
        """Return the classes that have an image in parts of these names."""
        return set(self._labels[np.isin(parts, names)])

    def _restrict(self, protocol: str, of: str, marked: np.ndarray) -> None:
        """Add a protocol: another one, on images whose ground-truth mask is not empty."""
        folds = [np.where(marked, parts, "").astype(object) for parts in self._parts.get(of, [])]
        lacking = [self._classes(p, ["test"]) - self._classes(p, LABELLED) for p in folds]
        untrained = sorted(set().union(*lacking))
        if untrained:
            self.notes.append(f"{protocol}: without {', '.join(map(repr, untrained))}")
        for parts in folds:
            parts[np.isin(self._labels, untrained)] = ""
        tested = [self._classes(parts, ["test"]) for parts in folds]
        if len(set().union(*tested)) >= 2 and all(tested):
            self._parts[protocol] = folds
        elif folds:
            self.notes.append(
                f"{protocol}: masks of fewer than two classes, or none in a test part, so it is "
                "left out"
            )


def official_parts(table: pd.DataFrame, params: SplitsParams) -> tuple[np.ndarray, list[str]]:
    """Return the part of each row ("train", "val", "test", "" = unused), object (n,), and notes.

    `params.on_leak` decides what is done about units in both train (or val) and test:

    - warn: the publisher's parts are used unchanged;
    - drop-test: the test images of these units are left out;
    - drop-train: their training images are left out;
    - regroup: the publisher's parts are replaced by a stratified test part in whole units.

    Except with `warn`, val images of units in train are left out too; a note counts them.

    Such a test part is also made if no image has a split. If some images are train and none is
    test, nothing is tested.
    """
    columns = ("split", "label", "unit")
    parts, labels, groups = (table[n].to_numpy(object, copy=True) for n in columns)
    notes: list[str] = []

    def leave_out(part: str, other: Sequence[str], done: str = "are left out") -> None:
        """Note images of a part whose unit is in another part, and take them out of both."""
        mine = np.isin(parts, LABELLED) if part == "train" else parts == part
        # Not `np.isin`, which compares each object with each.
        shared = mine & pd.Index(groups).isin(groups[np.isin(parts, other)])
        if done == "are left out":
            parts[shared] = ""
        if shared.any():
            notes.append(
                f"{shared.sum()} {part} images that belong with one in {other[0]} (copy, patient, "
                f"group or file) {done}"
            )

    if params.on_leak == "regroup" or not np.isin(parts, ["train", "test"]).any():
        if params.on_leak == "regroup":
            parts[:] = ""
        else:
            notes.append("the manifest has no test part: a stratified one is made")
        test = carve_test(labels, groups, params.test, params.seed)
        parts[(parts != "val") & ~test] = "train"
        parts[test] = "test"
    elif not (parts == "train").any():
        parts[parts == ""] = "train"
    elif (parts == "").any():
        notes.append(f"{(parts == '').sum()} images without a split take no part")
    if not (parts == "test").any():
        notes.append(
            "images say train and no image says test, so learners are trained and none is tested; "
            "splits.on_leak: regroup makes a test part"
        )
    elif params.on_leak == "drop-test":
        leave_out("test", LABELLED)
    elif params.on_leak == "drop-train":
        leave_out("train", ["test"])
    warn = params.on_leak == "warn"
    leave_out("val", ["train"], "are used to choose hyperparameters" if warn else "are left out")
    if (parts == "test").any():
        lacking = sorted(set(labels) - set(labels[parts == "test"]))
        notes += [f"class {label!r} has no test image" for label in lacking]
    return parts, notes


def carve_test(labels: np.ndarray, groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Choose a stratified test part in whole units; return bool (n,), True = test.

    Class by class, the rarest first, units in random order go to the test part until it has
    `share` of the images of the class. Every class keeps a unit for training, so a class that is
    a single unit has no test image.
    """
    counts = content(labels, groups)
    names = np.array(sorted(counts), dtype=object)
    order = names[shuffled(names, "test", seed)]
    totals = Counter(labels.tolist())
    left = Counter(label for classes in counts.values() for label in classes)  # units not in test
    test, have = set(), Counter()
    for label in sorted(totals, key=lambda name: (totals[name], name)):
        wanted = max(1, int(share * totals[label] + 0.5))
        # Units that are too large are taken only if the class had no test image otherwise.
        for limit in (wanted, totals[label]):
            for group in (g for g in order if label in counts[g]):
                free = group not in test and all(left[other] > 1 for other in counts[group])
                if free and have[label] + counts[group][label] <= limit:
                    test.add(group)
                    have.update(counts[group])
                    left.subtract(counts[group].keys())
                if have[label] >= wanted:
                    break
            if have[label]:
                break
    return np.array([group in test for group in groups], dtype=bool)


def assign_folds(table: pd.DataFrame, params: SplitsParams) -> tuple[np.ndarray, list[str]]:
    """Return the fold of every row from 0, or -1, int64 (n,); and notes.

    A unit goes to the publisher's fold if one is given (the most frequent one if its images
    differ), else to the fold that has least of its classes so far. A class that would be in one
    fold only is never tested (fold -1), since nothing of it would be left to train on.
    """
    labels, groups, given = (table[n].to_numpy(object) for n in ("label", "unit", "fold"))
    notes = []
    known = sorted(set(given) - {""}, key=lambda fold: (len(fold), fold))
    known = known if len(known) > 1 else []
    folds = len(known) or params.folds
    if folds != params.folds:
        notes.append(f"{folds} folds of the publisher, not splits.folds = {params.folds}")
    counts, totals = content(labels, groups), Counter(labels.tolist())
    where: dict[str, int] = {}
    filled = [Counter() for _ in range(folds)]
    told = np.isin(given, known)
    for group, votes in content(given[told], groups[told]).items():
        where[group] = known.index(min(votes, key=lambda f: (-votes[f], known.index(f))))
        filled[where[group]].update(counts[group])
    names = np.array(sorted(counts.keys() - where), dtype=object)
    for group in sorted(  # units with a rare class first, then large ones
        names[shuffled(names, "folds", params.seed)],
        key=lambda g: (min(totals[c] for c in counts[g]), -counts[g].total()),
    ):
        load = [
            (sum(filled[f][c] / totals[c] for c in counts[group]), filled[f].total(), f)
            for f in range(folds)
        ]
        where[group] = min(load)[2]
        filled[where[group]].update(counts[group])
    for label in sorted(totals):
        mine = [g for g in counts if label in counts[g]]
        if len({where[g] for g in mine}) == 1 and where[mine[0]] >= 0:
            where.update(dict.fromkeys(mine, -1))
            notes.append(f"class {label!r} is never tested: all of it belongs together")
    used = sorted(set(where.values()) - {-1})
    if len(used) < folds:
        notes.append(f"{len(used)} folds, since there are no more groups to fill them")
    number = {fold: at for at, fold in enumerate(used)} | {-1: -1}
    return np.array([number[where[group]] for group in groups], dtype=np.int64), notes


class Draw:
    """All draws from one pool with one seed. A fraction takes a prefix of each class's order.

    Whole units are drawn (a patient, a group, an image with its copies), in a random order,
    because labels of one patient are not independent. Of a class with n images the fraction f
    asks for k = max(1, round(f n)) images, halves rounded up. It takes the number of units that
    comes nearest to k images (the smaller of two equally near), at least one, and for k >= 2 at
    least two if there are two. If every unit is one image, that is exactly k images. A unit with
    several classes is taken with all its images as soon as one of its classes takes it.

    Whether a unit is train or val is decided once, so that draws are nested in both parts. The
    first unit of a class is train, the second val, and the others keep val near `share` in every
    prefix. If the manifest assigns images to val, train and val are drawn from their own parts.

    `table` is sorted by image_id, with index 0 to n-1; `share` is that of val.
    """

    def __init__(self, table: pd.DataFrame, part: np.ndarray, share: float, seed: int):
        self._ids, self._val = table["image_id"].to_numpy(object), part == "val"
        self._labels, self._seed = table["label"].to_numpy(object), seed
        pools = (table[part == name] for name in LABELLED)
        self._pools = [_Pool(rows, seed) for rows in pools if len(rows)]
        if not self._val.any():
            is_val = _assign_val(self._pools[0], share)
            self._val = np.array([is_val.get(unit, False) for unit in table["unit"]])

    def take(self, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the sorted ids of train and of val."""
        drawn = np.concatenate([pool.take(fraction) for pool in self._pools])
        val = self._val[drawn]
        return np.sort(self._ids[drawn[~val]]), np.sort(self._ids[drawn[val]])

    def shots(self, k: int, realistic: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return the sorted ids of train and of val for K shots.

        Balanced: k images of each class to train on, and min(k, `VAL_SHOTS`) for validation; fewer
        where a class has no more. Realistic: k images a class on average, each class in its share
        of the images but with one at least, and no validation image: a learner then uses what it
        documents for this case. Either way one image of each unit is taken, in the order of the
        draw, before a second one of any, so that shots are of different patients while there are
        some. The other images of these units are used in no part. Draws are nested in k.
        """
        rows = self._in_turn
        limit = np.full(len(rows), k)
        if realistic:
            trained = rows[~rows["val"]]
            share = trained["label"].value_counts(normalize=True)
            limit = (k * len(share) * rows["label"].map(share).fillna(0) + 0.5).astype(int).clip(1)
        limit = np.where(rows["val"], 0 if realistic else min(k, VAL_SHOTS), limit)
        drawn = rows[rows.groupby(["val", "label"]).cumcount() < limit]
        parts = (drawn.loc[drawn["val"] == val, "row"].to_numpy(int) for val in (False, True))
        train, val = (np.sort(self._ids[rows]) for rows in parts)
        return train, val

    @cached_property
    def _in_turn(self) -> pd.DataFrame:
        """All images of the pools (`row`, `label`, `val`) in the order in which shots are taken."""
        rows = pd.DataFrame(
            [
                (row, label, self._val[row], place)
                for pool in self._pools
                for label, order in pool.orders.items()
                for place, unit in enumerate(order)
                for row in pool.rows[unit]
                if self._labels[row] == label
            ],
            columns=["row", "label", "val", "place"],
        )
        rows = rows.iloc[shuffled(self._ids[rows["row"]], "shots", self._seed)]
        turn = rows.groupby(["val", "label", "place"]).cumcount()
        return rows.assign(turn=turn).sort_values(["turn", "place"], kind="stable")


class _Pool:
    """The units of some rows, and the order in which each class draws them: `orders`, by label."""

    def __init__(self, table: pd.DataFrame, seed: int):
        self.rows = table.groupby("unit").groups
        self.counts = content(table["label"], table["unit"])
        self.totals = Counter(table["label"])
        # Units are shuffled by their smallest id, so that large ones come first no more often.
        first = table.drop_duplicates("unit")
        order = first["unit"].to_numpy(object)[shuffled(first["image_id"], "draw", seed)]
        self.orders = {
            label: [unit for unit in order if label in self.counts[unit]]
            for label in sorted(self.totals)
        }

    def take(self, fraction: float) -> np.ndarray:
        """Return the positions of the images that a fraction draws, int64."""
        taken: dict[str, None] = {}
        for label, order in self.orders.items():
            wanted = max(1, int(fraction * self.totals[label] + 0.5))
            images = np.cumsum([self.counts[unit][label] for unit in order])
            nearest = 1 + int(np.argmin(np.abs(images - wanted)))
            taken.update(dict.fromkeys(order[: max(nearest, min(2, wanted, len(order)))]))
        return np.array([row for unit in taken for row in self.rows[unit]], dtype=np.int64)


def _assign_val(pool: _Pool, share: float) -> dict[str, bool]:
    """Decide for each unit whether it is val; moves the first val unit of a class to place 2."""
    is_val: dict[str, bool] = {order[0]: False for order in pool.orders.values()}
    for order in pool.orders.values():
        free = [i for i in range(1, len(order)) if is_val.get(order[i], True)]
        if free:  # the first that is small compared to the training unit, else the smallest
            sizes = [pool.counts[unit].total() for unit in order]
            small = [i for i in free if sizes[i] <= max(1, share * sizes[0])]
            second = small[0] if small else min(free, key=lambda i: (sizes[i], i))
            is_val[order[second]] = True
            order.insert(1, order.pop(second))
    # Go through all classes in parallel, each at its own pace.
    walk = sorted(
        (place / len(order), label, unit)
        for label, order in pool.orders.items()
        for place, unit in enumerate(order)
    )
    train, val = Counter(), Counter()
    for _, label, unit in walk:
        size, drawn = pool.counts[unit][label], train[label] + val[label]
        if unit not in is_val:
            # Decided by what was drawn so far, not by the size of the unit: otherwise val would
            # get the small units. Only a unit that would double the share of val is kept out.
            lacking = val[label] + 1 <= share * (drawn + 1)
            is_val[unit] = lacking and val[label] + size <= 2 * share * (drawn + size)
        (val if is_val[unit] else train)[label] += size
    return is_val


def load_split_plan(dataset: str, params: Params, paths: Paths) -> SplitPlan:
    """Plan the splits of a dataset from its manifest and, if there is one, its leak audit."""
    manifest, file = read_manifest(paths.manifest(dataset)), paths.audit(dataset)
    audit = pd.read_parquet(file) if file.exists() else None
    return SplitPlan(manifest, params.splits, audit, params.train.seeds)
