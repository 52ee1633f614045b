"""One row per image: how sure each run was of the true class, over all seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.evaluate.metrics import confidence_bin
from pipeline.report.inputs import DatasetInputs


def image_cases(
    found: DatasetInputs, protocol: str, head: str, view: str, fraction: float
) -> pd.DataFrame | None:
    """Summarise the predictions of one run by image.

    Returns:
        A table by image_id with y_true, y_pred (the commonest over the seeds), right (share of
        the seeds that were right), p_true (mean probability of the true class), seeds; None
        when the run has no predictions.
    """
    rows = found.predictions(protocol=protocol, head=head, view=view, fraction=fraction)
    if rows is None or rows.empty:
        return None
    rows = rows.assign(p_true=true_probability(rows), right=rows["y_true"] == rows["y_pred"])
    votes = (
        rows.groupby(["image_id", "y_pred"])
        .size()
        .rename("n")
        .reset_index()
        .sort_values(["image_id", "n", "y_pred"], ascending=[True, False, True])
        .drop_duplicates("image_id")
        .set_index("image_id")["y_pred"]
    )
    grouped = rows.groupby("image_id")
    cases = grouped.agg(
        y_true=("y_true", "first"),
        right=("right", "mean"),
        p_true=("p_true", "mean"),
        seeds=("right", "size"),
    )
    cases.insert(1, "y_pred", votes)
    return cases


def true_probability(rows: pd.DataFrame) -> np.ndarray:
    """Return the probability given to the true class of each row; NaN where it has no column."""
    columns = [c for c in rows.columns if c.startswith("p:")]
    table = rows[columns].to_numpy(float)
    at = pd.Index([c[2:] for c in columns]).get_indexer(rows["y_true"])
    found = table[np.arange(len(rows)), at] if columns else np.full(len(rows), np.nan)
    return np.where(at >= 0, found, np.nan)


def confusion_cases(
    found: DatasetInputs, protocol: str, head: str, view: str, fraction: float
) -> pd.DataFrame | None:
    """Return one row per image and predicted class: y_true, y_pred, image_id, n, p_true, seeds.

    `n` counts the seeds that said so; summing n over a cell and dividing by the number of
    seeds gives the mean confusion matrix.
    """
    rows = found.predictions(protocol=protocol, head=head, view=view, fraction=fraction)
    if rows is None or rows.empty:
        return None
    rows = rows.assign(p_true=true_probability(rows))
    table = (
        rows.groupby(["y_true", "y_pred", "image_id"])
        .agg(n=("seed", "size"), p_true=("p_true", "mean"))
        .reset_index()
    )
    return table.assign(seeds=rows["seed"].nunique())


def reliability_bins(
    found: DatasetInputs, protocol: str, head: str, view: str, fraction: float, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return (mean confidence, accuracy, number) of the bins of confidence that are not empty."""
    rows = found.predictions(protocol=protocol, head=head, view=view, fraction=fraction)
    if rows is None or rows.empty:
        return None
    columns = [c for c in rows.columns if c.startswith("p:")]
    confidence = rows[columns].to_numpy(float).max(axis=1)
    right = (rows["y_true"] == rows["y_pred"]).to_numpy()
    ok = np.isfinite(confidence)
    place = confidence_bin(confidence[ok], bins)
    table = pd.DataFrame({"bin": place, "confidence": confidence[ok], "right": right[ok]})
    bins_ = table.groupby("bin")
    means = bins_.mean()
    return means["confidence"].to_numpy(), means["right"].to_numpy(), bins_.size().to_numpy()
