"""Which runs a section shows, and what they are called in plain words."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from pipeline.report.remember import Remember

SeedKey = tuple[str, str, float, int]
# A data set has some ten splits of six metrics each.
_rows, _summaries, _labels, _repeated = (Remember(64) for _ in range(4))
HEADS = {
    "zero-shot": "zero-shot",
    "linear-probe": "linear probe",
    "medfocus": "MedFocus head",
    "medfocus-probe": "MedFocus + probe",
}
VIEWS = {
    "whole": "whole image",
    "masked": "masked",
    "crop": "cropped to the mask",
    "binary": "mask alone",
    "oracle": "ground-truth mask",
    "random": "random region",
}
BLOCKS = {
    ("official", "full"): "As published: the set's own test part",
    ("official", "clean"): "Clean: test images without a copy in train",
    ("official", "clean_any"): "Clean, mirrored copies left out too",
    ("grouped", "full"): "Grouped: no patient, group or copy on both sides",
    ("grouped-pooled", "full"): "Grouped, all folds pooled",
    ("ground_truth", "full"): "Only images with a ground-truth mask",
    ("ground_truth", "clean"): "With a ground-truth mask and without a copy in train",
    ("ground_truth", "clean_any"): "With a ground-truth mask, mirrored copies left out too",
    ("grouped_truth", "full"): "Grouped, only images with a ground-truth mask",
    ("grouped_truth-pooled", "full"): "Grouped, with a ground-truth mask, all folds pooled",
}
PUBLISHED, GROUPED = ("official", "full"), ("grouped", "full")
TRUTH, GROUPED_TRUTH = ("ground_truth", "full"), ("grouped_truth", "full")
# The same splits, restricted to images with a ground-truth mask.
WITH_TRUTH = {GROUPED: GROUPED_TRUTH, PUBLISHED: TRUTH}
SHORT_BLOCKS = {
    PUBLISHED: "as published",
    ("official", "clean"): "clean",
    ("official", "clean_any"): "clean, mirrored too",
    GROUPED: "grouped",
    ("grouped-pooled", "full"): "grouped, pooled",
    TRUTH: "with ground truth",
    ("ground_truth", "clean"): "with ground truth, clean",
    ("ground_truth", "clean_any"): "with ground truth, clean, mirrored too",
    GROUPED_TRUTH: "with ground truth, grouped",
    ("grouped_truth-pooled", "full"): "with ground truth, grouped, pooled",
}
METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "macro_auroc": "macro-AUROC",
    "ece": "calibration error (ECE)",
    "brier": "Brier score",
}
PERCENT_METRICS = ("accuracy", "balanced_accuracy", "macro_f1")
# Floors that `evaluate` judges beside the stored masks.
FLOORS = {
    "random": "floor: the mask's own shape elsewhere",
    "ellipse": "floor: an ellipse of its area in the middle",
}
# What each prompt strategy asks of SAM2.
STRATEGIES = {
    "salient": "no prompt",
    "salient-refine": "no prompt, then a closer look",
    "auto": "a grid of clicks",
    "center-box": "a box in the middle",
    "full": "the whole frame",
    "box": "the true region's box, its edges moved",
    "points": "one click inside the true region",
    "box-ellipse": "the ellipse in that box, no model",
}
BASELINE = ("linear-probe", "whole")
MASKED_PROBE = ("linear-probe", "masked")
METHOD = ("medfocus-probe", "masked")


def run_name(head: str, view: str) -> str:
    """Name a run in words: "linear probe, masked"."""
    return f"{HEADS.get(head, head)}, {VIEWS.get(view, view)}"


def block_name(protocol: str, subset: str, *, drawn: bool = False, audited: bool = True) -> str:
    """Name a protocol and subset in words.

    Args:
        drawn: the set has no test part of its own.
        audited: copies are known; otherwise no split can be said to keep them together.
    """
    if not audited and (protocol, subset) == GROUPED:
        return "Grouped: no patient or group on both sides; copies were not looked for"
    if drawn and (protocol, subset) == PUBLISHED:
        return "Split drawn here: the set has no test part of its own"
    return BLOCKS.get((protocol, subset), f"{protocol}, {subset}")


def short_name(protocol: str, subset: str, drawn: bool = False) -> str:
    """The same, for a cell of a table."""
    if drawn and (protocol, subset) == PUBLISHED:
        return "drawn here"
    return SHORT_BLOCKS.get((protocol, subset), block_name(protocol, subset))


def where(drawn: bool) -> dict[tuple[str, str], str]:
    """The splits that sentences speak of, the strictest first, in words."""
    published = "on a split drawn here" if drawn else "on the published split"
    return {GROUPED: "in grouped cross-validation", PUBLISHED: published}


def slug(*parts: str) -> str:
    """Make an HTML id from names; distinct names of the same letters stay distinct."""
    text = "-".join(parts)
    plain = re.sub(r"[^a-zA-Z0-9]+", "-", text).strip("-").lower()
    if plain == text:
        return plain
    return f"{plain}-{sum(i * ord(c) for i, c in enumerate(text, 1)) % 99991}"


def blocks(table: pd.DataFrame) -> list[tuple[str, str]]:
    """List the (protocol, subset) pairs of a table, in the order to read them."""
    found = set(map(tuple, table[["protocol", "subset"]].drop_duplicates().to_numpy()))
    return [b for b in BLOCKS if b in found] + sorted(found - set(BLOCKS))


def distinct_blocks(metrics: pd.DataFrame) -> list[tuple[str, str]]:
    """List the blocks of the metrics but those that `repeated` names."""
    again = repeated(metrics)
    return [block for block in blocks(metrics) if block not in again]


def repeated(metrics: pd.DataFrame) -> dict[tuple[str, str], tuple[str, str]]:
    """Return {(protocol, subset): the earlier block of the protocol whose figures it has again}.

    A subset without copies repeats the full set where the set has none: the images are the same.
    """
    return _repeated(metrics, "", lambda: _find_repeated(metrics))


def _find_repeated(metrics: pd.DataFrame) -> dict[tuple[str, str], tuple[str, str]]:
    found: dict[tuple[str, str], tuple[str, str]] = {}
    seen: list[tuple[tuple[str, str], pd.DataFrame]] = []
    for block in blocks(metrics):
        table = over_seeds(metrics, *block)
        key = ["head", "view", "fraction"]
        figures = table.sort_values(key)[[*key, "value", "n_images"]].reset_index(drop=True)
        figures = figures.astype(dict.fromkeys(("head", "view"), str))
        for earlier, other in seen:
            if earlier[0] == block[0] and figures.equals(other):
                found[block] = earlier
                break
        else:
            seen.append((block, figures))
    return found


def order(pairs: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Sort (head, view) pairs: known heads and views first, in their usual order."""
    heads, views = list(HEADS), list(VIEWS)

    def key(pair: tuple[str, str]):
        head, view = pair
        return (
            heads.index(head) if head in heads else len(heads),
            head,
            views.index(view) if view in views else len(views),
            view,
        )

    return sorted(pairs, key=key)


def over_seeds(
    metrics: pd.DataFrame, protocol: str, subset: str, metric: str = "accuracy"
) -> pd.DataFrame:
    """Return the rows of a block that summarise all seeds, by head, view and fraction."""

    def make() -> pd.DataFrame:
        m = metrics
        chosen = m[
            (m["protocol"] == protocol)
            & (m["subset"] == subset)
            & (m["metric"] == metric)
            & (m["seed"] == -1)
        ]
        return chosen.assign(fraction=chosen["fraction"].astype(float).round(4))

    return _summaries(metrics, (protocol, subset, metric), make)


def by_seed(
    metrics: pd.DataFrame, runs: pd.DataFrame | None, protocol: str, subset: str
) -> tuple[dict[SeedKey, float], dict[SeedKey, dict], pd.DataFrame]:
    """Return accuracies and rows of runs.parquet, by (head, view, fraction, seed), and both joined.

    A run that failed or diverged may be in one of them only, so the joined table names all.
    """
    m = metrics
    scored = m[
        (m["protocol"] == protocol)
        & (m["subset"] == subset)
        & (m["metric"] == "accuracy")
        & (m["seed"] >= 0)
    ]
    mine = pd.DataFrame() if runs is None else runs[runs["protocol"] == protocol]
    values = {_seed_key(row): row["value"] for row in scored.to_dict("records")}
    ended = {_seed_key(row): row for row in mine.to_dict("records")}
    return values, ended, scored if runs is None else pd.concat([scored, mine])


def _seed_key(row: dict) -> SeedKey:
    return row["head"], row["view"], round(float(row["fraction"]), 4), int(row["seed"])


def runs_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    """List the (head, view) pairs of a table in their usual order."""
    return order(set(map(tuple, table[["head", "view"]].drop_duplicates().to_numpy())))


def fractions_of(table: pd.DataFrame) -> list[float]:
    """List the fractions above zero (zero-shot has fraction 0), rising."""
    return sorted({round(float(f), 4) for f in table["fraction"] if f > 0})


def rows_by(table: pd.DataFrame, columns: tuple[str, ...]) -> dict[tuple, dict]:
    """Return {values of `columns`: first row that has them}; fractions rounded to 4 digits.

    So that a page of some thousand cells filters no table.
    """

    def make() -> dict[tuple, dict]:
        found: dict[tuple, dict] = {}
        for row in table.to_dict("records"):
            where = (round(float(row[c]), 4) if c == "fraction" else str(row[c]) for c in columns)
            found.setdefault(tuple(where), row)
        return found

    return _rows(table, columns, make)


def one(table: pd.DataFrame, head: str, view: str, fraction: float) -> dict | None:
    """Return the row of one run, or None."""
    rows = rows_by(table, ("head", "view", "fraction"))
    return rows.get((head, view, round(float(fraction), 4)))


def with_most_labels(
    metrics: pd.DataFrame, run: tuple[str, str], block: tuple[str, str]
) -> dict | None:
    """Return a run's row of a block at the largest share of labels, which is its `fraction`; None
    where not measured."""
    table = over_seeds(metrics, *block)
    fractions = fractions_of(table)
    row = one(table, *run, fractions[-1]) if fractions else None
    return row if row is not None and np.isfinite(row["value"]) else None


def judged_part(quality: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the rows of the set's own test part, or all where it has none, and what they are."""
    test = quality[quality["split"] == "test"]
    return (test, "test images") if len(test) else (quality, "images")


def labels_at(table: pd.DataFrame, fraction: float) -> int | None:
    """Return the number of labels used (train + validation) at a fraction, of `over_seeds`."""
    labels = ["fraction", "n_labels"]
    medians = _labels(table, "", lambda: table[labels].dropna().groupby("fraction").median())
    used = medians["n_labels"].get(round(float(fraction), 4))
    return None if used is None else round(float(used))


def stored_strategy(quality: pd.DataFrame) -> str | None:
    """Return the prompt strategy of the stored masks in mask_quality: the one that is no floor."""
    found = [s for s in quality["strategy"].unique() if s not in FLOORS]
    return str(found[0]) if found else None


def reference_runs(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The runs that details (confusion, per class) are shown for: the baseline and the method.

    The method first. Where one of them was not run, the nearest run of the table stands in.
    """
    have = runs_of(table)
    wanted = [run for run in (METHOD, BASELINE) if run in have]
    for run in have[::-1]:
        if len(wanted) == 2:
            break
        if run not in wanted:
            wanted.append(run)
    return wanted
