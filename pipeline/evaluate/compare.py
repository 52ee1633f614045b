"""Paired differences between runs, their verdicts and Holm's correction.

Two runs use the same resamples (same images, same seeds), so the replicates of their difference are
the differences of their replicates (`pipeline.evaluate.intervals`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.evaluate.intervals import (
    NONE,
    mean_over_seeds,
    p_values,
    percentile_interval,
    seed_weights,
    settle,
)
from pipeline.evaluate.metrics import METRICS, OVER_CLASSES
from pipeline.evaluate.scores import Scored

if TYPE_CHECKING:
    from pipeline.config import EvaluateParams

RunKey = tuple[str, str]
"""A learner and a view."""

COMPARED = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc")
RUNS = ("learner_a", "view_a", "learner_b", "view_b")
VALUES = ("difference", "lo", "hi", "p", "p_holm", "verdict", "n_seeds", "n_images")
COLUMNS = ("protocol", "subset", "metric", "fraction", *RUNS, *VALUES)

BETTER, WORSE, NO_DIFFERENCE, TOO_FEW = "better", "worse", "no difference", "too few"
ALPHA = 0.05


def verdict(lo: float, hi: float, p_holm: float) -> str:
    """Decide whether a difference is significant.

    Returns:
        "better" or "worse" when the interval excludes zero and the corrected p (if any) is below
        `ALPHA`; "too few" without an interval (all resamples are equal, or a class has a single
        unit); else "no difference".
    """
    if np.isnan(lo) or np.isnan(hi):
        return TOO_FEW
    significant = np.isnan(p_holm) or p_holm < ALPHA
    if significant and lo > 0:
        return BETTER
    return WORSE if significant and hi < 0 else NO_DIFFERENCE


def holm(p: np.ndarray) -> np.ndarray:
    """Return p-values adjusted by Holm (1979): sorted, times the number not yet rejected."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return adjusted


def differences(
    pairs: Sequence[tuple[Scored, Scored]], metrics: Sequence[str], params: EvaluateParams
) -> list[dict[str, Any]]:
    """Return a - b of each pair and metric over the seeds that both have.

    Returns:
        One row per pair and metric: metric, fraction, the runs, difference, lo, hi, p, n_seeds,
        n_images. lo and hi are NaN and p is 1 when the resamples carry no information. There is no
        row for a pair that shares no seed, nor for pooled runs that cover different images.
    """
    by_seeds: dict[tuple[int, ...], list[tuple[Scored, Scored]]] = {}
    for a, b in pairs:
        shared = tuple(seed for seed in a.seeds if seed in b.seeds)
        if shared and (not a.run.pooled or a.image_ids == b.image_ids):
            by_seeds.setdefault(shared, []).append((a, b))
    rows = []
    columns = [METRICS.index(metric) for metric in metrics]
    for shared, group in by_seeds.items():
        values, replicates = (
            np.stack(
                [_of(a, name, shared, columns) - _of(b, name, shared, columns) for a, b in group],
                axis=-1,
            )
            for name in ("values", "replicates")
        )  # (S, M, P) and (S, B, M, P)
        weights = seed_weights(shared, params.bootstrap, params.seed)
        means = mean_over_seeds(values, replicates, weights, params.confidence, -1.0, 1.0)
        gap = values.mean(axis=0)
        lo, hi = percentile_interval(means.replicates, params.confidence)
        p = p_values(gap, means)
        for m, metric in enumerate(metrics):
            for k, (a, b) in enumerate(group):
                if not np.isfinite(gap[m, k]):
                    continue
                interval = lo[m, k], hi[m, k]
                if metric in OVER_CLASSES:
                    possible, _ = a.units.over_classes_note(a.classes, params.bootstrap)
                    interval = interval if possible else NONE
                units = a.units.behind(a.units.every)
                ends = settle("", gap[m, k], interval, units, params.confidence)[:2]
                rows.append(
                    {
                        "metric": metric,
                        "fraction": a.run.fraction,
                        **dict(zip(RUNS, (*a.run.key, *b.run.key), strict=True)),
                        "difference": float(gap[m, k]),
                        "lo": ends[0],
                        "hi": ends[1],
                        # p = 1 is valid where nothing is known, and keeps Holm's family complete.
                        "p": float(p[m, k]) if np.isfinite(ends[0]) else 1.0,
                        "n_seeds": len(shared),
                        "n_images": len(a.image_ids),
                    }
                )
    return rows


def _of(scored: Scored, name: str, seeds: tuple[int, ...], columns: list[int]) -> np.ndarray:
    """Return `values` or `replicates` of some seeds and metrics, the metrics last."""
    return getattr(scored, name)[[scored.seeds.index(seed) for seed in seeds]][..., columns]


def compare_block(
    scored: list[Scored], baseline: RunKey, params: EvaluateParams
) -> list[dict[str, Any]]:
    """Compare the runs of one block at each fraction.

    Compared are the runs of one learner on two views, of two learners on one view, and every run
    with the baseline. All comparisons of one metric at one fraction are one family of Holm's
    correction.
    """
    rows: list[dict[str, Any]] = []
    for fraction in sorted({s.run.fraction for s in scored}):
        here = [s for s in scored if s.run.fraction == fraction]
        found = differences(list(_pairs(here, baseline)), COMPARED, params)
        for metric in COMPARED:
            rows += corrected([row for row in found if row["metric"] == metric])
    return rows


def _pairs(scored: list[Scored], baseline: RunKey) -> Iterator[tuple[Scored, Scored]]:
    for i, b in enumerate(scored):
        for a in scored[i + 1 :]:
            if a.run.key == baseline:
                yield b, a
            elif (
                b.run.key == baseline or a.run.learner == b.run.learner or a.run.view == b.run.view
            ):
                yield a, b


def corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add `p_holm`, over these rows as one family, and `verdict` to each row."""
    for row, p in zip(rows, holm(np.array([r["p"] for r in rows])), strict=True):
        row["p_holm"] = float(p)
        row["verdict"] = verdict(row["lo"], row["hi"], row["p_holm"])
    return rows


def matching_pairs(scored: list[Scored], a: str, b: str) -> list[tuple[Scored, Scored]]:
    """Return the pairs of runs with the names a and b, at equal fractions.

    Args:
        a, b: two learners (compared on each view), two views (of each learner) or two
            `learner/view`.
    """

    def rest(name: str, run) -> str | None:
        """What must be equal in both runs; None where the name is not of the run."""
        names = {run.learner: run.view, run.view: run.learner, "/".join(run.key): ""}
        return names.get(name)

    return [
        (x, y)
        for x in scored
        for y in scored
        if x.run.fraction == y.run.fraction
        and rest(a, x.run) is not None
        and rest(a, x.run) == rest(b, y.run)
    ]


def comparison_text(table: pd.DataFrame) -> str:
    """Return a table of comparisons as text, without the rows of subsets that equal those of
    `full` (no image has a copy in train); a last line names these."""
    repeated = []
    for (protocol, subset), part in table.groupby(["protocol", "subset"], sort=False):
        full = table[(table["protocol"] == protocol) & (table["subset"] == "full")]
        shared = [c for c in COLUMNS if c not in ("subset", "p_holm", "verdict")]
        same = part[shared].reset_index(drop=True).equals(full[shared].reset_index(drop=True))
        if subset != "full" and same:
            repeated.append((protocol, subset))
    key = pd.MultiIndex.from_frame(table[["protocol", "subset"]])
    shown = table[~key.isin(repeated)]
    shown = shown.assign(
        fraction=shown["fraction"].map("{:.4g}".format),
        **{c: shown[c].map(_number) for c in ("difference", "lo", "hi")},
        **{
            c: shown[c].map(lambda p: "<0.0001" if p < 5e-5 else _number(p))
            for c in ("p", "p_holm")
        },
    )
    lines = [shown.to_string(index=False)]
    if repeated:
        names = "; ".join(f"{protocol}, {subset}" for protocol, subset in repeated)
        lines.append(f"not shown, same images as subset full: {names}")
    return "\n".join(lines)


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4f}"
