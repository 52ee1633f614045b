"""The paper's figures, quoted: accuracy by share of training labels, tables I to IV."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

OTHER_SET = {
    "lung": "The paper's lung data set is a different one: it has five classes (bacterial and "
    "viral pneumonia, COVID-19, tuberculosis, normal) and 2,025 test images. Its figures cannot "
    "be compared with ours.",
}
COPIES_INSIDE = ("brain", "covid")
"""Sets of which the paper used the published split, which holds copies of training images."""


@cache
def paper_tables() -> pd.DataFrame:
    """Return the table: dataset, table, architecture and one column (percent) per share."""
    return pd.read_csv(Path(__file__).with_name("paper_tables.csv"), comment="#")


def quoted(dataset: str) -> dict[str, dict[float, float]]:
    """Return {architecture: {fraction: accuracy from 0 to 1}} as the paper prints it.

    Empty for a dataset that the paper does not have.
    """
    rows = paper_tables().set_index("dataset")
    rows = rows[rows.index == dataset].set_index("architecture").drop(columns="table")
    return {
        name: {int(share) / 100: round(float(value) / 100, 6) for share, value in row.items()}
        for name, row in rows.iterrows()
    }


def quoted_on(dataset: str) -> str:
    """Say which table of the paper has a dataset's figures, and on which split they are."""
    rows = paper_tables()
    table = rows.loc[rows["dataset"] == dataset, "table"].iloc[0]
    where = ", on a split that is not published"
    if dataset in COPIES_INSIDE:
        where = ", on the published split, which holds copies of training images"
    return f"{table}{'' if dataset in OTHER_SET else where}"
