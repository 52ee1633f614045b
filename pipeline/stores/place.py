"""Rows' data put into the shards of a store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.stores import layout
from pipeline.stores.kinds import SLAB_BYTES, Data, Kind


def place_rows(
    store: layout.TrackedStore,
    kind: Kind,
    arrays: dict[str, dict[str, Any]],
    rows: Mapping[int, Data],
) -> None:
    """Write data at row numbers; a row without data becomes the array's fill value.

    Args:
        store: of the folder that is written.
        kind: of the store.
        arrays: metadata by array name; the shapes grow here as needed.
        rows: row number -> data by array name.
    """
    if not rows:
        return
    for name in [n for n in kind.arrays if n in arrays]:
        old = arrays[name]["shape"]
        shapes = [data[name].shape for data in rows.values() if name in data]
        shape = np.max([old[1:], *shapes], axis=0).tolist()
        arrays[name] = {**arrays[name], "shape": [max(old[0], max(rows) + 1), *shape]}
        array = layout.array_of(store, name, arrays[name])
        longest = max(1, SLAB_BYTES // max(1, int(np.prod(shape)) * array.dtype.itemsize))
        for start, stop in runs(rows, longest):
            slab = np.full((stop - start, *shape), array.fill_value, array.dtype)
            for i in range(start, stop):
                if name in rows[i]:
                    data = rows[i][name]
                    slab[(i - start, *(slice(n) for n in data.shape))] = data
            array[start:stop] = slab


def runs(numbers: Iterable[int], longest: int) -> Iterator[tuple[int, int]]:
    """Cut numbers into runs of neighbours (first, past the last) of at most `longest`."""
    start = previous = None
    for n in sorted(numbers):
        if start is None:
            start = n
        elif n != previous + 1 or n - start >= longest:
            yield start, previous + 1
            start = n
        previous = n
    if start is not None:
        yield start, previous + 1
