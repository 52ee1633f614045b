"""Paired differences as lines for a person: rounded, each once, with the verdict."""

from __future__ import annotations

import math

import pandas as pd

from pipeline.evaluate.verdict import verdict

NOTHING = "–"  # no resample tells of the figure


def compared_text(table: pd.DataFrame) -> str:
    """Return the rows of `compare_runs` as a plain table, and a line on what is left out of it.

    Left out are subsets that have the rows of `full` again: no image of these has a copy in train.
    """
    again = _repeated(table)
    key = pd.MultiIndex.from_frame(table[["protocol", "subset"]])
    shown = table[~key.isin(again)]
    told = shown.assign(
        fraction=shown["fraction"].map("{:.4g}".format),
        **{name: shown[name].map(_figure) for name in ("difference", "lo", "hi")},
        **{name: shown[name].map(_chance) for name in ("p", "p_holm")},
        verdict=[verdict(*row) for row in shown[["lo", "hi", "p_holm"]].to_numpy()],
    )
    lines = [told.to_string(index=False)]
    if again:
        names = "; ".join(f"{protocol}, {subset}" for protocol, subset in again)
        lines.append(f"left out, since they are the rows of subset full again: {names}")
    return "\n".join(lines)


def _figure(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.4f}"


def _chance(p: float) -> str:
    return "<0.0001" if p < 0.00005 else _figure(p)


def _repeated(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the (protocol, subset) whose rows are those of the protocol's full set."""
    found = []
    for protocol, mine in table.groupby("protocol", sort=False):
        parts = {
            subset: part.drop(columns=["subset", "p_holm"]).reset_index(drop=True)
            for subset, part in mine.groupby("subset", sort=False)
        }
        full = parts.pop("full", None)
        found += [
            (protocol, s) for s, part in parts.items() if full is not None and part.equals(full)
        ]
    return found
