"""What was made of a table, remembered: a page asks some thousand times for the same few parts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import pandas as pd


class Remember:
    """Remembers what was last made of tables, by table and key.

    It keeps the tables, so that an id names one of them. They must not change meanwhile, nor
    may what was made of them.

    Args:
        kept: how many results, the least recently used forgotten first.
    """

    def __init__(self, kept: int):
        self._kept = kept
        self._made: OrderedDict[tuple, tuple[pd.DataFrame, Any]] = OrderedDict()

    def __call__(self, table: pd.DataFrame, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what `make` gives, or gave when this was asked of the same table."""
        where = (id(table), key)
        if where not in self._made:
            self._made[where] = (table, make())
            while len(self._made) > self._kept:
                self._made.popitem(last=False)
        self._made.move_to_end(where)
        return self._made[where][1]
