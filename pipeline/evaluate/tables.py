"""The tables behind the plots: confusion matrix, reliability diagram, each class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluate.bounds import settled
from pipeline.evaluate.intervals import nested, percentile_intervals
from pipeline.evaluate.metrics import per_class
from pipeline.evaluate.scores import Scored


def confusion_rows(scored: Scored, protocol: str, classes: list[str]) -> list[dict[str, Any]]:
    """Return one row a cell of the confusion matrix; `n` is summed over seeds."""
    C = len(classes)
    if not scored.seeds:
        return []
    counts = scored.sums.sum(axis=0)[: C * C].reshape(C, C)
    base = _base(scored, protocol)
    return [
        {**base, "actual": actual, "predicted": predicted, "n": round(float(counts[i, j]))}
        for i, actual in enumerate(classes)
        for j, predicted in enumerate(classes)
    ]


def reliability_rows(
    scored: Scored, protocol: str, n_classes: int, bins: int
) -> list[dict[str, Any]]:
    """Return one row a confidence bin that holds predictions (all seeds together)."""
    if not scored.seeds:
        return []
    start = n_classes**2 + 1
    table = scored.sums.sum(axis=0)[start : start + 3 * bins].reshape(3, bins)
    base = _base(scored, protocol)
    return [
        {
            **base,
            "bin": b,
            "confidence": float(table[1, b] / table[0, b]),
            "accuracy": float(table[2, b] / table[0, b]),
            "n": round(float(table[0, b])),
        }
        for b in range(bins)
        if table[0, b] > 0
    ]


def class_rows(
    scored: Scored, protocol: str, subset: str, classes: list[str], confidence: float
) -> list[dict[str, Any]]:
    """Return precision, recall and F1 of each class: means over seeds with nested intervals.

    Where the bootstrap says nothing the ends are exact, or NaN (`pipeline.evaluate.bounds`), those
    of recall and F1 of a class of one unit too.
    `support` is the number of test images of the class, the mean over seeds.
    """
    if not scored.seeds:
        return []
    base = {**_base(scored, protocol), "subset": subset}
    values = per_class(scored.sums, len(classes))
    rows, of_class = [], (scored.units.true, scored.units.predicted)
    for c, name in enumerate(classes):
        row = {**base, "class": name, "support": float(values["support"][:, c].mean())}
        drawn = [
            nested(values[m][:, c], r[:, :, c], scored.weights, confidence).replicates
            for m, r in scored.class_replicates.items()
        ]
        intervals = percentile_intervals(np.array(drawn), confidence)
        true, predicted = (scored.units.behind(u[:, c]) for u in of_class)
        for metric, interval in zip(scored.class_replicates, intervals, strict=True):
            known = values[metric][:, c]
            known = known[np.isfinite(known)]
            row[metric] = float(known.mean()) if len(known) else float("nan")
            units = predicted if metric == "precision" else true
            ends = settled(metric, row[metric], interval, units, confidence)
            row[f"{metric}_lo"], row[f"{metric}_hi"], _ = ends
        rows.append(row)
    return rows


def curve_table(metrics: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Return accuracy against fraction (the paper's Fig. 2), means over seeds."""
    chosen = metrics[(metrics["seed"] == -1) & (metrics["metric"] == "accuracy")]
    columns = ["protocol", "subset", "head", "view", "fraction", "n_labels"]
    curve = chosen[[*columns, "metric", "value", "lo", "hi"]].copy()
    curve.insert(0, "dataset", dataset)
    curve["accuracy"] = curve["value"]
    return curve


def summary(metrics: pd.DataFrame, dataset: str) -> dict[str, Any]:
    """Return the small nested table of metrics.json: accuracy and macro-AUROC at the smallest
    and largest fraction, full and clean, by protocol, head and view."""
    found: dict[str, Any] = {}
    chosen = metrics[(metrics["seed"] == -1) & metrics["metric"].isin(["accuracy", "macro_auroc"])]
    labelled = chosen.loc[chosen["fraction"] > 0, "fraction"]
    ends = {0.0, labelled.min(), labelled.max()} if len(labelled) else {0.0}
    for row in chosen[chosen["fraction"].isin(ends)].itertuples():
        if not np.isfinite(row.value):
            continue
        place = found.setdefault(row.protocol, {}).setdefault(row.subset, {})
        place = place.setdefault(row.head, {}).setdefault(row.view, {})
        place.setdefault(f"{row.fraction:g}", {})[row.metric] = round(row.value, 4)
    return {dataset: found}


def _base(scored: Scored, protocol: str) -> dict[str, Any]:
    run = scored.run
    return {"protocol": protocol, "head": run.head, "view": run.view, "fraction": run.fraction}
