"""Paired differences between heads and between views, Holm-corrected.

Two runs are resampled alike (same images, same seeds), so the replicates of their difference are
the differences of their replicates, stretched as those of a figure (`intervals.nested`). The
p-value is that of the same half-width, Student's t for the seeds and the normal quantile for the
images, since a share of 1,000 replicates cannot be smaller than 1/1,000 and Holm's correction
multiplies it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.audit.table import read_audit
from pipeline.errors import PipelineError
from pipeline.evaluate.bounds import NONE, OVER_CLASSES, settled
from pipeline.evaluate.intervals import Nested, nested, p_values, percentile_intervals, seed_weights
from pipeline.evaluate.predictions import read_runs
from pipeline.evaluate.scores import Scored
from pipeline.manifest import read_manifest

if TYPE_CHECKING:
    from pipeline.config import EvaluateParams, Params
    from pipeline.paths import Paths

COMPARED = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc")
BASELINE = ("linear-probe", "whole")
COLUMNS = (
    "protocol",
    "subset",
    "metric",
    "fraction",
    "head_a",
    "view_a",
    "head_b",
    "view_b",
    "difference",
    "lo",
    "hi",
    "p",
    "p_holm",
    "n_seeds",
    "n_images",
)


def holm(p: np.ndarray) -> np.ndarray:
    """Return p-values adjusted by Holm (1979): sorted, times the number not yet rejected."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return adjusted


def difference(a: Scored, b: Scored, metric: str, params: EvaluateParams) -> dict[str, Any] | None:
    """Return a - b over the seeds that both have; None when they share none, or when one of two
    pooled runs lacks a fold.

    Returns:
        difference, lo, hi, p, n_seeds, n_images. Where resamples say nothing of it (all alike, or
        a class of one unit in a mean over classes) lo and hi are NaN and p is 1.
    """
    return differences([(a, b)], metric, params)[0]


def differences(
    pairs: list[tuple[Scored, Scored]], metric: str, params: EvaluateParams
) -> list[dict[str, Any] | None]:
    """Return `difference` of each pair."""
    found: list[dict[str, Any] | None] = [None] * len(pairs)
    drawn: dict[int, Nested] = {}
    for k, (a, b) in enumerate(pairs):
        shared = [s for s in a.seeds if s in b.seeds]
        if not shared or (a.pooled and a.tested != b.tested):
            continue
        of_a, of_b = ([x.seeds.index(s) for s in shared] for x in (a, b))
        by_seed = a.values[metric][of_a] - b.values[metric][of_b]
        if not np.isfinite(by_seed.mean()):
            continue
        gaps = a.replicates[metric][of_a] - b.replicates[metric][of_b]
        weights = seed_weights(shared, params.bootstrap, params.seed)
        drawn[k] = nested(by_seed, gaps, weights, params.confidence, (-1.0, 1.0))
        found[k] = {
            "difference": float(by_seed.mean()),
            "n_seeds": len(shared),
            "n_images": a.n_images,
        }
    if not drawn:
        return found
    of = list(drawn.values())
    intervals = percentile_intervals(np.array([n.replicates for n in of]), params.confidence)
    chances = p_values(np.array([found[k]["difference"] for k in drawn]), of)
    for k, interval, p in zip(drawn, intervals, chances, strict=True):
        units = pairs[k][0].units
        if metric in OVER_CLASSES and units.thin:
            interval = NONE
        behind = units.behind(units.every)
        lo, hi, _ = settled("", found[k]["difference"], interval, behind, params.confidence)
        # Nothing is known, so nothing may be claimed: 1 is a valid p, and leaves Holm his family.
        found[k] |= {"lo": lo, "hi": hi, "p": float(p) if np.isfinite(lo) else 1.0}
    return found


def compare_block(
    scored: list[Scored], protocol: str, subset: str, params: EvaluateParams
) -> list[dict[str, Any]]:
    """Compare the runs of one block at each fraction.

    Compared are runs of the same head on two views, of two heads on the same view, and every run
    with the baseline (linear probe on whole images). All comparisons of one metric at one
    fraction of a block are one family of Holm's correction.
    """
    rows: list[dict[str, Any]] = []
    for fraction in sorted({s.run.fraction for s in scored}):
        here = [s for s in scored if s.run.fraction == fraction]
        for metric in COMPARED:
            rows += _correct(_rows(list(_pairs(here)), metric, protocol, subset, params))
    return rows


def _pairs(scored: list[Scored]) -> Iterator[tuple[Scored, Scored]]:
    for i, b in enumerate(scored):
        for a in scored[i + 1 :]:
            one, two = (a.run.head, a.run.view), (b.run.head, b.run.view)
            if one == BASELINE:
                yield b, a
            elif two == BASELINE or one[0] == two[0] or one[1] == two[1]:
                yield a, b


def _rows(
    pairs: list[tuple[Scored, Scored]],
    metric: str,
    protocol: str,
    subset: str,
    params: EvaluateParams,
) -> list[dict[str, Any]]:
    rows = []
    for (a, b), found in zip(pairs, differences(pairs, metric, params), strict=True):
        if found is None:
            continue
        rows.append(
            {
                "protocol": protocol,
                "subset": subset,
                "metric": metric,
                "fraction": a.run.fraction,
                "head_a": a.run.head,
                "view_a": a.run.view,
                "head_b": b.run.head,
                "view_b": b.run.view,
                **found,
            }
        )
    return rows


def _correct(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add Holm's p over these rows, one family, to each."""
    for row, p in zip(rows, holm(np.array([r["p"] for r in rows])), strict=True):
        row["p_holm"] = float(p)
    return rows


def compare_runs(dataset: str, params: Params, paths: Paths, a: str, b: str) -> pd.DataFrame:
    """Compare two heads, two views or two `head/view` pairs: differences a - b with Holm.

    Args:
        a, b: both a head name, both a view name, or both `head/view`.

    Returns:
        One row per protocol, subset, metric, fraction and head or view that stays the same, with
        the columns of plots/comparisons.csv. All rows are one family of Holm's correction: any
        of them may be quoted.

    Raises:
        PipelineError: no predictions, or a name that they do not hold.
    """
    from pipeline.evaluate.evaluate import score_blocks

    manifest = read_manifest(paths.manifest(dataset))
    audit = read_audit(paths.audit(dataset), manifest)
    tested = *read_runs(dataset, paths, manifest, params.learners)[:2], manifest, audit

    def matches(name: str, head: str, view: str) -> bool:
        return name in (head, view, f"{head}/{view}")

    def rest(name: str, head: str, view: str) -> str:
        return view if name == head else head if name == view else ""

    rows: list[dict[str, Any]] = []
    known: set[str] = set()
    for protocol, subset, scored in score_blocks(*tested, params.evaluate):
        runs = [(s.run.head, s.run.view) for s in scored]
        known |= {n for h, v in runs for n in (h, v, f"{h}/{v}")}
        pairs = [
            (x, y)
            for x, of_x in zip(scored, runs, strict=True)
            for y, of_y in zip(scored, runs, strict=True)
            if matches(a, *of_x)
            and matches(b, *of_y)
            and x.run.fraction == y.run.fraction
            and rest(a, *of_x) == rest(b, *of_y)
        ]
        for metric in COMPARED:
            rows += _rows(pairs, metric, protocol, subset, params.evaluate)
    for name in (a, b):
        if name not in known:
            raise PipelineError(
                f"--compare: there are no predictions of {name!r}",
                path=paths.run(dataset, "x").parent,
                remedy=f"name two heads, two views or two head/view of: {', '.join(sorted(known))}",
            )
    if not rows:
        raise PipelineError(
            f"--compare: {a!r} and {b!r} share no view, head, fraction or seed",
            path=paths.run(dataset, "x").parent,
            remedy="name two heads, two views or two head/view of the same protocol",
        )
    return pd.DataFrame(_correct(rows), columns=list(COLUMNS))
