"""When a difference is called one: the rule of the pages and of `evaluate --compare`."""

from __future__ import annotations

import math

SURE = 0.05


def verdict(lo: float, hi: float, p_holm: float) -> str:
    """Return "better", "worse" or "not told apart": the interval must exclude zero and the
    corrected p, where there is one, be below `SURE`."""
    sure = math.isnan(p_holm) or p_holm < SURE
    if sure and lo > 0:
        return "better"
    return "worse" if sure and hi < 0 else "not told apart"
