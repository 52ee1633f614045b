"""Train and test parts, and folds: the publisher's where there are any, else stratified by label.

All of them in whole units.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np
import pandas as pd

from pipeline.config import SplitsParams
from pipeline.splits.grouping import shuffled

TRAIN = ("train", "val")
"""Parts whose labels are used."""


def official_parts(
    table: pd.DataFrame, groups: np.ndarray, params: SplitsParams
) -> tuple[np.ndarray, list[str]]:
    """Return the part of each row ("train", "val", "test", "" = unused), object (n,), and notes.

    `params.on_leak` decides what is done about units in both train (or val) and test:

    - warn: the publisher's parts are used unchanged;
    - drop-test: the test images of these units are left out;
    - drop-train: their training images are left out;
    - regroup: the publisher's parts are replaced by a stratified test part in whole units.

    Except with `warn`, val images of units in train are left out too; a note counts them.

    Such a test part is also made if no image has a split. If some images are train and none is
    test, nothing is tested.

    Args:
        table: rows of the manifest.
        groups: unit of each row, copies (also mirrored ones) included.
        params: how parts are made.
    """
    parts = table["split"].to_numpy(object).copy()
    labels = table["label"].to_numpy(object)
    notes: list[str] = []

    def leave_out(part: str, other: Iterable[str], done: str = "are left out") -> None:
        """Note images of a part whose unit is in another part, and take them out of both."""
        mine = np.isin(parts, TRAIN) if part == "train" else parts == part
        shared = mine & np.isin(groups, groups[np.isin(parts, other)])
        if done == "are left out":
            parts[shared] = ""
        if shared.any():
            where = "train" if "train" in other else "test"
            notes.append(
                f"{shared.sum()} {part} images that belong with one in {where} (copy, patient, "
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
        leave_out("test", TRAIN)
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
    content = _by_unit(labels, groups)
    names = np.array(sorted(content), dtype=object)
    order = names[shuffled(names, "test", seed)]
    totals = Counter(labels.tolist())
    left = Counter(label for units in content.values() for label in units)  # units not in test
    test: set[str] = set()
    have: Counter = Counter()
    for label in sorted(totals, key=lambda name: (totals[name], name)):
        wanted = max(1, int(share * totals[label] + 0.5))
        # Units that are too large are taken only if the class had no test image otherwise.
        for limit in (wanted, totals[label]):
            for group in (g for g in order if label in content[g]):
                free = group not in test and all(left[other] > 1 for other in content[group])
                if free and have[label] + content[group][label] <= limit:
                    test.add(group)
                    have.update(content[group])
                    left.subtract(content[group].keys())
                if have[label] >= wanted:
                    break
            if have[label]:
                break
    return np.array([group in test for group in groups], dtype=bool)


def assign_folds(
    labels: np.ndarray, groups: np.ndarray, given: np.ndarray, folds: int, seed: int
) -> tuple[np.ndarray, list[str]]:
    """Number the fold of every image.

    A unit goes to the publisher's fold if one is given (the most frequent one if its images
    differ), else to the fold that has least of its classes so far. A class that would be in one
    fold only is never tested (fold -1), since nothing of it would be left to train on.

    Args:
        labels: label of each image.
        groups: unit of each image.
        given: the publisher's fold, text; "" = unknown.
        folds: number of folds, where the publisher gives none.
        seed: seed of the order in which units are assigned.

    Returns:
        Fold of each image from 0, or -1, int64 (n,); notes.
    """
    notes = []
    known = sorted({fold for fold in given if fold}, key=lambda fold: (len(fold), fold))
    known = known if len(known) > 1 else []
    if len(known) not in (0, folds):
        notes.append(f"grouped: {len(known)} folds of the publisher, not splits.folds = {folds}")
    folds = len(known) or folds
    content = _by_unit(labels, groups)
    where: dict[str, int] = {}
    filled = [Counter() for _ in range(folds)]
    moved = 0
    told = np.isin(given, known)
    for group, votes in sorted(_by_unit(given[told], groups[told]).items()):
        fold = min(votes, key=lambda fold: (-votes[fold], known.index(fold)))
        where[group] = known.index(fold)
        moved += votes.total() - votes[fold]
        filled[where[group]].update(content[group])
    if moved:
        notes.append(
            f"grouped: {moved} images leave the publisher's fold, since copies are in another"
        )
    totals = Counter(labels.tolist())
    names = np.array(sorted(g for g in content if g not in where), dtype=object)
    for group in sorted(  # units with a rare class first, then large ones
        names[shuffled(names, "folds", seed)],
        key=lambda g: (min(totals[c] for c in content[g]), -content[g].total()),
    ):
        load = [
            (sum(filled[f][c] / totals[c] for c in content[group]), filled[f].total(), f)
            for f in range(folds)
        ]
        where[group] = min(load)[2]
        filled[where[group]].update(content[group])
    for label in sorted(totals):
        mine = [g for g in content if label in content[g]]
        if len({where[g] for g in mine}) == 1 and where[mine[0]] >= 0:
            where.update(dict.fromkeys(mine, -1))
            notes.append(f"grouped: class {label!r} is never tested: all of it belongs together")
    used = sorted(set(where.values()) - {-1})
    if len(used) < folds:
        notes.append(f"grouped: {len(used)} folds, since there are no more groups to fill them")
    number = {fold: at for at, fold in enumerate(used)} | {-1: -1}
    return np.array([number[where[group]] for group in groups], dtype=np.int64), notes


def _by_unit(values: np.ndarray, groups: np.ndarray) -> dict[str, Counter]:
    """Return unit -> value -> number of images."""
    content: dict[str, Counter] = defaultdict(Counter)
    for value, group in zip(values, groups, strict=True):
        content[group][value] += 1
    return content
