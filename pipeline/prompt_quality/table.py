"""prompt_quality.parquet: one row an image and strategy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.io import atomic_write

FIGURES = ("dice", "iou", "hd95", "pred_area_fraction", "gt_area_fraction")
COLUMNS = ("image_id", "label", "split", "strategy", *FIGURES, "note", "from_truth", "key")
"""`from_truth`: the prompt was made from the ground truth. `key`: hash of what decides a row."""

Row = dict[str, Any]


def read_rows(path: Path) -> dict[tuple[str, str], Row]:
    """Read the rows of an earlier run by (image_id, strategy).

    Rows of images that failed are left out, so that they are tried again. A file that is
    missing, damaged or of other columns has no rows: it is made anew.
    """
    try:
        table = pd.read_parquet(path, columns=list(COLUMNS))
    except (OSError, ValueError, KeyError):
        return {}
    good = table[table["dice"].notna()]
    return {(r["image_id"], r["strategy"]): r for r in good.to_dict("records")}


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write prompt_quality.parquet, whole or not at all."""
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    kinds = dict.fromkeys(FIGURES, "float64") | {"from_truth": "bool"}
    texts = dict.fromkeys(set(COLUMNS) - set(kinds), "str")
    with atomic_write(path) as partial:
        table.astype(kinds | texts).to_parquet(partial, index=False)
