"""Test parts and folds: stratified by label, whole units only."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from pipeline.splits.grouping import shuffled


def _by_unit(labels: np.ndarray, groups: np.ndarray) -> dict[str, Counter]:
    """Unit -> label -> number of images."""
    content: dict[str, Counter] = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        content[group][label] += 1
    return content


def carve_test(
    labels: np.ndarray, groups: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, list[str]]:
    """Choose a test part.

    Class by class, the rarest first, units in a random order go to the test part until it has
    `share` of the class's images. A class always keeps a unit for training, so that one with a
    single unit has no test image; a note says so.

    Returns:
        bool (n,), True = test; notes.
    """
    content = _by_unit(labels, groups)
    names = np.array(sorted(content), dtype=object)
    order = names[shuffled(names, "test", seed)]
    totals = Counter(labels.tolist())
    left = Counter(label for units in content.values() for label in units)  # units not in test
    test: set[str] = set()
    have: Counter = Counter()
    notes = []
    for label in sorted(totals, key=lambda name: (totals[name], name)):
        wanted = max(1, int(share * totals[label] + 0.5))
        mine = [g for g in order if label in content[g]]
        # A large unit is taken only if nothing smaller gives the class a test image at all.
        for limit in (wanted, totals[label]):
            for group in mine:
                free = group not in test and all(left[other] > 1 for other in content[group])
                if free and have[label] + content[group][label] <= limit:
                    test.add(group)
                    have.update(content[group])
                    left.subtract(content[group].keys())
                if have[label] >= wanted:
                    break
            if have[label]:
                break
        if not have[label]:
            notes.append(f"class {label!r} has no test image: all of it belongs together")
    return np.array([group in test for group in groups], dtype=bool), notes


def assign_folds(
    labels: np.ndarray, groups: np.ndarray, given: np.ndarray, folds: int, seed: int
) -> tuple[np.ndarray, int, list[str]]:
    """Number the fold of every image.

    A unit goes to the publisher's fold where one is given (the most frequent one if its images
    differ), else to the fold that has least of its classes so far. A class that would be in one
    fold only is never tested (fold -1), since nothing of it would be left to train on.

    Args:
        labels, groups: label and unit of each image.
        given: the publisher's fold, text; "" = not known.
        folds: how many, where the publisher gives none.
        seed: of the order in which units are dealt out.

    Returns:
        int (n,) fold from 0, or -1; the number of folds; notes.
    """
    notes = []
    known = sorted({fold for fold in given if fold}, key=lambda fold: (len(fold), fold))
    if len(known) > 1:
        if len(known) != folds:
            notes.append(
                f"grouped: {len(known)} folds of the publisher, not splits.folds = {folds}"
            )
        folds = len(known)
    else:
        known = []
    content = _by_unit(labels, groups)
    votes: dict[str, Counter] = defaultdict(Counter)
    for fold, group in zip(given, groups, strict=True):
        if fold in known:
            votes[group][known.index(fold)] += 1
    where: dict[str, int] = {}
    filled = [Counter() for _ in range(folds)]
    moved = 0
    for group in sorted(votes):
        best = min(votes[group], key=lambda fold: (-votes[group][fold], fold))
        moved += sum(votes[group].values()) - votes[group][best]
        where[group] = best
        filled[best].update(content[group])
    if moved:
        notes.append(
            f"grouped: {moved} images leave the publisher's fold, since copies are in another"
        )
    totals = Counter(labels.tolist())
    names = np.array(sorted(g for g in content if g not in where), dtype=object)
    dealt = names[shuffled(names, "folds", seed)]
    for group in sorted(
        dealt, key=lambda g: (min(totals[c] for c in content[g]), -sum(content[g].values()))
    ):
        load = [
            (sum(filled[f][c] / totals[c] for c in content[group]), sum(filled[f].values()), f)
            for f in range(folds)
        ]
        where[group] = min(load)[2]
        filled[where[group]].update(content[group])
    for label in sorted(totals):
        mine = [g for g in content if label in content[g]]
        if len({where[g] for g in mine}) == 1 and where[mine[0]] >= 0:
            for group in mine:
                where[group] = -1
            notes.append(f"grouped: class {label!r} is never tested: all of it belongs together")
    used = sorted(set(where.values()) - {-1})
    if len(used) < folds:
        notes.append(f"grouped: {len(used)} folds, since there are no more groups to fill them")
    number = {fold: at for at, fold in enumerate(used)} | {-1: -1}
    return np.array([number[where[group]] for group in groups], dtype=np.int64), len(used), notes
