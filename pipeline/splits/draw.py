"""The few shots: nested, stratified draws of labelled images, parted into train and val."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from pipeline.splits.grouping import shuffled


class Draw:
    """All draws of one pool and one seed: a fraction takes a prefix of each class's random order.

    Of a class of n images the fraction f takes k = max(1, round(f n)), halves rounded up: a plain
    random sample of images, as in few-shot studies. Whether an image trains or chooses (val) is
    decided once, by its unit, so draws are nested in both parts and no unit is in both. The
    first unit of a class trains, the second is val, and so on such that val has about `share`
    of every prefix; with k >= 2 images of at least two units a class has both.

    Args:
        ids: image_id, object (n,).
        labels: label of each.
        groups: unit of each.
        share: of the drawn images that go to val.
        seed: of the random order.
        val: True for images that the manifest itself gives to val, if it does: then train and
            val are drawn from their own parts.
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
        self._val = np.zeros(len(ids), bool)
        self.notes: list[str] = []
        if val is not None and val.any():
            self._val = val
            parts = [np.flatnonzero(~val), np.flatnonzero(val)]
            self._orders = [
                order for part in parts for order in _per_class(ids, labels, part, seed).values()
            ]
        else:
            orders = _per_class(ids, labels, np.arange(len(ids)), seed)
            roles = _roles(orders, groups, share)
            self._val = np.array([roles[group] for group in groups], dtype=bool)
            self._orders = list(orders.values())
            for label, order in orders.items():
                if len(order) > 1 and not self._val[order].any():
                    self.notes.append(f"class {label!r} has no val image: all of it is one group")

    def take(self, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the sorted ids of train and of val."""
        drawn = np.concatenate(
            [order[: max(1, int(fraction * len(order) + 0.5))] for order in self._orders]
        )
        chosen = self._val[drawn]
        return np.sort(self.ids[drawn[~chosen]]), np.sort(self.ids[drawn[chosen]])


def _per_class(
    ids: np.ndarray, labels: np.ndarray, part: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Label -> rows of `part` in random order; labels sorted."""
    order = part[shuffled(ids[part], "draw", seed)]
    return {label: order[labels[order] == label] for label in sorted(set(labels[part]))}


def _roles(orders: dict[str, np.ndarray], groups: np.ndarray, share: float) -> dict[str, bool]:
    """Decide for each unit whether it is val; may move a class's first val image up to place 2."""
    roles: dict[str, bool] = {groups[order[0]]: False for order in orders.values()}
    for label, order in orders.items():
        second = _second(order, groups, roles, share)
        if second is not None:
            roles[groups[order[second]]] = True
            orders[label] = np.concatenate(
                [order[:1], order[[second]], np.delete(order[1:], second - 1)]
            )
    # Walk all classes side by side, each at its own pace, and keep val near its share.
    walk = sorted(
        (place / len(order), label, row)
        for label, order in orders.items()
        for place, row in enumerate(order)
    )
    train: Counter = Counter()
    val: Counter = Counter()
    for _, label, row in walk:
        group = groups[row]
        if group not in roles:
            roles[group] = val[label] + 1 <= share * (train[label] + val[label] + 1)
        (val if roles[group] else train)[label] += 1
    return roles


def _second(
    order: np.ndarray, groups: np.ndarray, roles: dict[str, bool], share: float
) -> int | None:
    """Place of the image that is a class's first in val; a unit far too large is not chosen."""
    sizes: dict[str, int] = defaultdict(int)
    for row in order:
        sizes[groups[row]] += 1
    free = [i for i in range(1, len(order)) if roles.get(groups[order[i]], True)]
    if not free:
        return None
    fits = [i for i in free if sizes[groups[order[i]]] <= max(1, share * len(order))]
    return fits[0] if fits else min(free, key=lambda i: (sizes[groups[order[i]]], i))
