"""The paper's figures, quoted: accuracy by share of training labels, tables I to IV."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

# The paper's lung set is another one than the one that can be had.
OTHER_SET = {
    "lung": "The paper's lung set is not this one: it has five classes (bacterial and viral "
    "pneumonia, corona virus disease, tuberculosis, normal; 2,025 test images). The quoted "
    "figures are shown for orientation only and cannot be compared.",
}


@cache
def paper_tables() -> pd.DataFrame:
    """Return the table: dataset, table, architecture and one column (percent) per share."""
    path = Path(__file__).with_name("paper_tables.csv")
    return pd.read_csv(path, comment="#")


def architectures() -> list[str]:
    """Return the architectures of the paper's tables."""
    return list(dict.fromkeys(paper_tables()["architecture"]))


def quoted(dataset: str) -> dict[str, dict[float, float]]:
    """Return {architecture: {fraction: accuracy from 0 to 1}} as the paper prints it.

    Empty for a dataset that the paper does not have.
    """
    rows = paper_tables()
    rows = rows[rows["dataset"] == dataset]
    shares = [c for c in rows.columns if c.isdigit()]
    return {
        row["architecture"]: {int(s) / 100: round(float(row[s]) / 100, 6) for s in shares}
        for _, row in rows.iterrows()
    }


def quoted_table(dataset: str) -> str:
    """Return the number of the paper's table for a dataset ("III"), or ""."""
    rows = paper_tables()
    rows = rows[rows["dataset"] == dataset]
    return "" if rows.empty else str(rows["table"].iloc[0])
