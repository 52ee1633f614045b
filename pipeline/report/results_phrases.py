"""Phrases that the paragraphs of the result pages share: which splits, which ends, what verdict."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pipeline.report import select
from pipeline.report.answers import NO_DIFFERENCE, NOT_CORRECTED, Difference, Run, comparisons_of
from pipeline.report.inputs import DatasetInputs
from pipeline.report.tables import labels_words, listed, many

Block = tuple[str, str]
VERBS = {"helps": "helps", "hurts": "hurts", "undecided": "makes no difference told from chance"}


def where(found: DatasetInputs) -> list[tuple[Block, str]]:
    """The splits that the paragraphs speak of, the strictest first, in words."""
    return list(select.where(found.drawn_split).items())


def differences(
    found: DatasetInputs, a: Run, b: Run, among: dict[Block, Block] | None = None
) -> dict[str, dict[float, Difference]]:
    """Return {where, in words: a - b by share of labels} for the splits that compared them.

    Args:
        among: the block to look into in place of each split; None for the splits themselves.
    """
    every = {
        words: comparisons_of(found, a, b, *(among or {}).get(block, block))
        for block, words in where(found)
    }
    return {words: d for words, d in every.items() if d}


def plain(found: DatasetInputs, block: Block) -> pd.DataFrame:
    """Return the accuracies of the trained heads on whole images."""
    table = select.over_seeds(found.metrics, *block)
    return table[(table["view"] == "whole") & (table["fraction"] > 0)]


def shares(table: pd.DataFrame) -> list[float]:
    """Return the smallest and the largest share of labels, once if they are the same."""
    fractions = select.fractions_of(table)
    return list(dict.fromkeys([*fractions[:1], *fractions[-1:]]))


def each(measured: dict[str, dict[float, Difference]]) -> str:
    """Give verdict and `ends` of every split, the strictest first."""
    return "; ".join(f"{verdict(d)} {words} ({ends(d)})" for words, d in measured.items())


def ends(d: dict[float, Difference]) -> str:
    """Give the difference with the fewest labels and with the most."""
    return listed(f"{d[f]} with {labels_words(f)}" for f in dict.fromkeys((min(d), max(d))))


def judged_blocks(found: DatasetInputs) -> list[Block]:
    """The distinct splits on which masking is judged: published, clean and grouped."""
    blocks = select.distinct_blocks(found.metrics)
    return [block for block in blocks if block[0] in ("official", "grouped")]


def verdicts(done: Sequence[DatasetInputs], run: Run) -> list[str]:
    """Return a run's verdicts against the baseline, over datasets, distinct splits and shares."""
    return [
        d.verdict
        for found in done
        for block in judged_blocks(found)
        for d in comparisons_of(found, run, select.BASELINE, *block).values()
    ]


def counted(kinds: list[str]) -> str:
    """Count verdicts: "better beyond chance in 0 of 5 comparisons, worse in 2, ..."."""
    better, worse, same = (kinds.count(kind) for kind in VERBS)
    return (
        f"better beyond chance in {better} of {many(len(kinds), 'comparison')}, worse in {worse}, "
        f"not told apart in {same}"
    )


def verdict(d: dict[float, Difference]) -> str:
    """Sum up the verdicts over the shares of labels: "hurts at all 5 shares of the labels"."""
    kinds = [x.verdict for x in d.values()]
    sure = {k: kinds.count(k) for k in ("helps", "hurts") if k in kinds}
    if not sure:
        return NOT_CORRECTED if any(x.excludes_zero for x in d.values()) else NO_DIFFERENCE
    total = len(kinds)
    if total == 1:
        return f"{kinds[0]} with {labels_words(next(iter(d)))}"
    parts = [f"{k} at {'all ' if n == total else ''}{n}" for k, n in sure.items()]
    of = "" if total in sure.values() else f" of {total}"
    return f"{listed(parts)}{of} shares of the labels"
