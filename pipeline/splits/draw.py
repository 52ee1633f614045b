"""The few shots: nested, stratified draws of whole units, parted into train and val."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from pipeline.splits.grouping import shuffled


class Draw:
    """All draws of one pool and one seed: a fraction takes a prefix of each class's random order.

    The order is one of units (a patient, a group, an image and its copies), each of which is
    drawn whole: labels of one patient are not independent shots. Of a class of n images the
    fraction f asks for k = max(1, round(f n)), halves rounded up, and takes the number of units
    that comes nearest to k images (the fewer of two equally near), at least one, and with k >= 2
    at least two where there are two. Where every unit is one image, that is k images. A unit of
    several classes comes with all its images as soon as one of its classes takes it.

    Whether a unit trains or chooses (val) is decided once, so draws are nested in both parts and
    no unit is in both. The first unit of a class trains, the second is val, and so on such that
    val has about `share` of every prefix.

    Args:
        ids: image_id, object (n,).
        labels: label of each.
        groups: unit of each.
        share: of the drawn images that go to val.
        seed: of the random order.
        val: True for images that the manifest itself gives to val, if it does: then train and
            val are drawn from their own parts, each in whole units.
    """

    def __init__(
        self,
        ids: np.ndarray,
        labels: np.ndarray,
        groups: np.ndarray,
        *,
        share: float,
        seed: int,
        val: np.ndarray | None = None,
    ):
        self.ids = ids
        self.notes: list[str] = []
        if val is not None and val.any():
            self._val = val
            parts = [np.flatnonzero(~val), np.flatnonzero(val)]
            self._pools = [_Pool(ids, labels, groups, part, seed) for part in parts]
            return
        pool = _Pool(ids, labels, groups, np.arange(len(ids)), seed)
        roles = _roles(pool, share)
        self._val = np.array([roles[group] for group in groups], dtype=bool)
        self._pools = [pool]
        for label, order in pool.orders.items():
            if pool.totals[label] > 1 and not any(roles[unit] for unit in order):
                self.notes.append(f"class {label!r} has no val image: all of it is one group")

    def take(self, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the sorted ids of train and of val."""
        drawn = np.concatenate([pool.take(fraction) for pool in self._pools])
        chosen = self._val[drawn]
        return np.sort(self.ids[drawn[~chosen]]), np.sort(self.ids[drawn[chosen]])


class _Pool:
    """The units of some rows: what each holds, and for each class the order they are drawn in.

    Attributes:
        rows: unit -> its rows.
        counts: unit -> label -> images.
        totals: label -> images.
        orders: label -> its units, in random order; labels sorted.
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
        # By the smallest id in it: every unit is as likely to come first, however large it is.
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
            least = min(2, wanted, len(order))
            taken.update(dict.fromkeys(order[: max(nearest, least)]))
        return np.array([row for unit in taken for row in self.rows[unit]], dtype=np.int64)


def _roles(pool: _Pool, share: float) -> dict[str, bool]:
    """Decide for each unit whether it is val; may move a class's first val unit up to place 2."""
    roles: dict[str, bool] = {order[0]: False for order in pool.orders.values()}
    for label, order in pool.orders.items():
        second = _second(pool, label, roles, share)
        if second is not None:
            roles[order[second]] = True
            order.insert(1, order.pop(second))
    # Walk all classes side by side, each at its own pace, and keep val near its share.
    walk = sorted(
        (place / len(order), label, unit)
        for label, order in pool.orders.items()
        for place, unit in enumerate(order)
    )
    train: Counter = Counter()
    val: Counter = Counter()
    for _, label, unit in walk:
        mine, drawn = pool.counts[unit][label], train[label] + val[label]
        if unit not in roles:
            # By what was drawn so far, not by the unit's size: else val gets the small units, and
            # train lacks them. Only one that would make val twice its share is kept out.
            lacks = val[label] + 1 <= share * (drawn + 1)
            roles[unit] = lacks and val[label] + mine <= 2 * share * (drawn + mine)
        (val if roles[unit] else train)[label] += mine
    return roles


def _second(pool: _Pool, label: str, roles: dict[str, bool], share: float) -> int | None:
    """Place of the unit that is a class's first in val: small beside the first, or the smallest."""
    order = pool.orders[label]
    free = [i for i in range(1, len(order)) if roles.get(order[i], True)]
    if not free:
        return None
    sizes = [sum(pool.counts[unit].values()) for unit in order]
    fits = [i for i in free if sizes[i] <= max(1, share * sizes[0])]
    return fits[0] if fits else min(free, key=lambda i: (sizes[i], i))
