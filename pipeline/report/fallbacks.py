"""Masks by outcome and class: where no region was found the whole image is shown, which can tell
the class."""

from __future__ import annotations

import pandas as pd
from scipy.stats import chi2_contingency

from pipeline.report import select
from pipeline.report.inputs import DatasetInputs
from pipeline.report.tables import Table, head, labels_words, listed, number, numeric, percent

OUTCOMES = ("ok", "empty", "full", "failed")
FALLBACKS = ("empty", "full")
VIEWS = {"masked": "masked images", "binary": "the mask alone"}
FEWEST = 10  # fallbacks that are worth a sentence
CHANCE = 0.01  # below this p the classes are called uneven


def outcomes_by_class(masks: pd.DataFrame) -> Table:
    """Return classes x outcomes: how many masks, and the share of the class.

    Args:
        masks: the index of the mask store, with `label` and `status`.
    """
    counts = pd.crosstab(masks["label"], masks["status"]).reindex(columns=OUTCOMES, fill_value=0)
    rows = []
    for label, of in counts.iterrows():
        total = int(of.sum())
        cells = [numeric(f"{n:,} ({percent(n / total)} %)", n / total) for n in of]
        rows.append([head(label), numeric(f"{total:,}", total), *cells])
    return Table(["class", "images", *OUTCOMES], rows, caption="Masks by outcome and class")


def uneven_fallbacks(found: DatasetInputs, masks: pd.DataFrame | None) -> str | None:
    """Say where empty and full masks are unevenly spread over classes, and what that is worth.

    Worth is the accuracy with the most labels minus that without the images of such masks, for the
    linear probe, in grouped cross-validation where that was run. None where the classes are alike
    (chi-squared test), or where next to no mask is empty or full.
    """
    if masks is None:
        return None
    fallback = masks["status"].isin(FALLBACKS)
    counts = pd.crosstab(masks["label"], fallback)
    if fallback.sum() < FEWEST or min(counts.shape) < 2 or chi2_contingency(counts)[1] >= CHANCE:
        return None
    shares = counts[True] / counts.sum(axis=1)
    most = shares.idxmax()
    rest = counts.drop(index=most)
    said = (
        f"Where no region is found the whole image is shown, and that tells the class: "
        f"{counts.loc[most, True]:,} of {fallback.sum():,} empty or full masks are of {most} "
        f"({percent(shares[most])} % of its images, "
        f"{percent(rest[True].sum() / rest.to_numpy().sum())} % of the others)."
    )
    worth = _worth(found, set(masks.index[fallback]))
    return f"{said} {worth}" if worth else said


def _worth(found: DatasetInputs, fallback: set[str]) -> str | None:
    for (protocol, subset), where in select.where(found.drawn_split).items():
        fractions = select.fractions_of(select.over_seeds(found.metrics, protocol, subset))
        parts = []
        for view, words in VIEWS.items() if fractions else ():
            rows = found.predictions(
                protocol=protocol, head=select.BASELINE[0], view=view, fraction=fractions[-1]
            )
            if rows is None or rows.empty:
                continue
            right = rows.assign(right=rows["y_true"] == rows["y_pred"])
            kept = right[~right["image_id"].isin(fallback)]
            if kept.empty or len(kept) == len(right):
                continue
            # As figures of all seeds are: the mean of each one's.
            every, less = (t.groupby("seed")["right"].mean().mean() for t in (right, kept))
            gap = round(100 * less, 1) - round(100 * every, 1)  # of the figures as they are shown
            parts.append(
                f"{number(abs(gap), 1)} points {'more' if gap > 0 else 'less'} on {words} "
                f"({percent(less)} instead of {percent(every)} %)"
            )
        if parts:
            return (
                f"Without these images the linear probe, {where} with "
                f"{labels_words(fractions[-1])}, reaches {listed(parts)}."
            )
    return None
