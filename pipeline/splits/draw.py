"""Few-shot draws: nested, stratified, in whole units, divided into train and val."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from pipeline.splits.grouping import shuffled


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
    prefix.

    Args:
        ids, labels, groups: id, label and unit of each image, object (n,).
        share: share of the drawn images that is val.
        seed: seed of the random order.
        val: bool (n,), True for images that the manifest assigns to val, if it does so; then train
            and val are drawn from their own parts.

    Attributes:
        notes: classes without a val image.
    """

    def __init__(
        self,
        ids: np.ndarray,
        labels: np.ndarray,
        groups: np.ndarray,
        *,
        share: float,
        seed: int,
        val: np.ndarray,
    ):
        parts = [~val, val] if val.any() else [~val]
        self._ids, self._val = ids, val
        self._pools = [_Pool(ids, labels, groups, np.flatnonzero(p), seed) for p in parts]
        self.notes: list[str] = []
        if val.any():
            return
        (pool,) = self._pools
        is_val = _assign_val(pool, share)
        self._val = np.array([is_val[group] for group in groups], dtype=bool)
        self.notes = [
            f"class {label!r} has no val image: all of it is one group"
            for label, order in pool.orders.items()
            if pool.totals[label] > 1 and not any(is_val[unit] for unit in order)
        ]

    def take(self, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the sorted ids of train and of val."""
        drawn = np.concatenate([pool.take(fraction) for pool in self._pools])
        val = self._val[drawn]
        return np.sort(self._ids[drawn[~val]]), np.sort(self._ids[drawn[val]])


class _Pool:
    """The units of some rows, and the order in which each class draws them.

    Attributes:
        rows: unit -> its rows.
        counts: unit -> label -> number of images.
        totals: label -> number of images.
        orders: label -> its units in random order; labels sorted.
    """

    def __init__(
        self, ids: np.ndarray, labels: np.ndarray, groups: np.ndarray, part: np.ndarray, seed: int
    ):
        self.rows: dict[str, list[int]] = defaultdict(list)
        self.counts: dict[str, Counter] = defaultdict(Counter)
        for row in part:
            self.rows[groups[row]].append(row)
            self.counts[groups[row]][labels[row]] += 1
        self.totals = Counter(labels[part].tolist())
        # Units are shuffled by their smallest id, so that large ones come first no more often.
        names = np.array(sorted(self.rows), dtype=object)
        smallest = np.array([min(ids[self.rows[name]]) for name in names], dtype=object)
        order = names[shuffled(smallest, "draw", seed)]
        self.orders = {
            label: [unit for unit in order if label in self.counts[unit]]
            for label in sorted(self.totals)
        }

    def take(self, fraction: float) -> np.ndarray:
        """Return the rows of the units that a fraction draws, int64."""
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
    train: Counter = Counter()
    val: Counter = Counter()
    for _, label, unit in walk:
        size, drawn = pool.counts[unit][label], train[label] + val[label]
        if unit not in is_val:
            # Decided by what was drawn so far, not by the size of the unit: otherwise val would
            # get the small units. Only a unit that would double the share of val is kept out.
            lacking = val[label] + 1 <= share * (drawn + 1)
            is_val[unit] = lacking and val[label] + size <= 2 * share * (drawn + size)
        (val if is_val[unit] else train)[label] += size
    return is_val
